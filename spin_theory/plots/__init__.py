"""Figures of games: distances, orbits, maps, multipliers and phase diagrams. Needs matplotlib."""

from spin_theory.plots.dynamics import draw_cobweb, draw_field, draw_simplex, draw_spectrum
from spin_theory.plots.games import draw_game, draw_phase, require_plot
from spin_theory.plots.settings import Setting, draw_settings
from spin_theory.plots.sliders import Sliders

__all__ = [
    "Setting",
    "Sliders",
    "draw_cobweb",
    "draw_field",
    "draw_game",
    "draw_phase",
    "draw_settings",
    "draw_simplex",
    "draw_spectrum",
    "require_plot",
]
