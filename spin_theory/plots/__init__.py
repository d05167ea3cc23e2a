"""Figures of games: distances, orbits, maps, multipliers and phase diagrams. Needs matplotlib."""

from spin_theory.plots.dynamics import draw_cobweb, draw_field, draw_simplex, draw_spectrum
from spin_theory.plots.games import draw_game, draw_phase, require_plot

__all__ = [
    "draw_cobweb",
    "draw_field",
    "draw_game",
    "draw_phase",
    "draw_simplex",
    "draw_spectrum",
    "require_plot",
]
