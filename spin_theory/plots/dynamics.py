"""Pictures of the dynamics: orbits and arrows on the simplex, cobwebs, multipliers."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from spin_theory.games.play import Game
from spin_theory.games.solvers import Solver
from spin_theory.games.stability import Linearisation
from spin_theory.minima.closed_forms import exact
from spin_theory.plots.panels import place, put_cobweb, put_field, put_orbits, put_triangle
from spin_theory.plots.style import COLOURS, GREY, MARKERS, labels_of, style
from spin_theory.policies import TabularPolicy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "draw_cobweb",
    "draw_field",
    "draw_simplex",
    "draw_spectrum",
]


def draw_simplex(*games: Game, labels: Sequence[str] = ()) -> "Figure":
    """Draw the orbits of games over three responses, and their data.

    Parameters
    ----------
    *games : Game
        Of three responses; every prompt is an orbit.
    labels : sequence of str, optional
        One per game, for the legend.

    Returns
    -------
    Figure
        A triangle whose corners are the certain policies. A line joins the iterates of each
        prompt, an open circle is its start, and a star is its data.

    Raises
    ------
    ValueError
        If a game has another number of responses, or there is not one label per game.

    Examples
    --------
    >>> from spin_theory import TabularPolicy, play
    >>> data = TabularPolicy.from_probs([[0.5, 0.3, 0.2]])
    >>> game = play(TabularPolicy.from_probs([[0.1, 0.1, 0.8]]), data, beta=2.0, iterations=5)
    >>> len(draw_simplex(game).axes[0].lines)  # the triangle, the orbit, its start, its data
    4
    """
    names = labels_of(games, labels)
    with style():
        figure, axes = _square()
        put_triangle(axes)
        put_orbits(axes, games, names)
    return figure


def draw_field(
    data: TabularPolicy,
    *games: Game,
    beta: float,
    loss_type: str = "logistic",
    sft_weight: float = 0.0,
    solver: Solver = exact,
    arrows: int = 12,
    labels: Sequence[str] = (),
) -> "Figure":
    """Draw where one iteration of SPIN takes each policy over three responses.

    Parameters
    ----------
    data : TabularPolicy, shape (1, 3)
        p_data.
    *games : Game
        Orbits to draw on top, as :func:`draw_simplex` does.
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty; the solver must take it.
    sft_weight : float, default 0.0
        Weight of the SFT term, >= 0, per nat; the solver must take it.
    solver : Solver, default exact
        How an iteration is solved.
    arrows : int, default 12
        Arrows along a side.
    labels : sequence of str, optional
        One per game, for the legend.

    Returns
    -------
    Figure
        Arrows of one length that begin at each policy and point at the next one. Their colour is
        the total variation distance between the two.

    Raises
    ------
    ValueError
        If `data` is not of one prompt and three responses, or an argument is out of range.
    """
    if data.log_probs.shape != (1, 3):
        raise ValueError(f"data must have shape (1, 3), got {tuple(data.log_probs.shape)}")
    names = labels_of(games, labels)
    how = {"beta": beta, "loss_type": loss_type, "sft_weight": sft_weight, "solver": solver}
    with style():
        figure, axes = _square()
        put_triangle(axes)
        drawn = put_field(axes, data, arrows=arrows, **how)
        figure.colorbar(drawn, label="TV of one iteration", shrink=0.7)
        put_orbits(axes, games, names)
        if not games:
            axes.plot(*place(data).T.numpy(), "k*", markersize=9, label="data")
    return figure


def draw_cobweb(game: Game, *, loss_type: str = "logistic", solver: Solver = exact) -> "Figure":
    """Draw a game over two responses as a cobweb on its map.

    Parameters
    ----------
    game : Game
        Of SPIN against the last iterate, with one prompt and two responses. Its betas and the
        weights of its SFT term are those of the map.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty that it was played with.
    solver : Solver, default exact
        The solver that it was played with.

    Returns
    -------
    Figure
        The probability of the first response after an iteration against that before it: a curve
        per beta, the diagonal, and the staircase of the iterates. The data are where the
        diagonal is crossed.

    Raises
    ------
    ValueError
        If the game has more prompts or responses, or did not follow the map.
    """
    with style():
        figure, axes = _square()
        put_cobweb(axes, game, loss_type=loss_type, solver=solver)
        figure.legend(loc="outside right upper")
    return figure


def draw_spectrum(*spectra: Linearisation, labels: Sequence[str] = ()) -> "Figure":
    """Draw the multipliers of small deviations in the complex plane.

    Parameters
    ----------
    *spectra : Linearisation
        What :func:`spin_theory.games.stability.linearise` returned.
    labels : sequence of str, optional
        One per spectrum, for the legend.

    Returns
    -------
    Figure
        Every multiplier as a point, and the unit circle: inside of it deviations shrink.

    Raises
    ------
    ValueError
        If there is not one label per spectrum.
    """
    names = labels_of(spectra, labels)
    with style():
        figure, axes = _square()
        angles = torch.linspace(0, 2 * math.pi, 361, dtype=torch.float64)
        circle = (angles.cos().numpy(), angles.sin().numpy())
        axes.fill(*circle, color="#EEEEEE", zorder=0)
        axes.plot(*circle, color=GREY, linewidth=0.8)
        for spectrum, name, colour, marker in zip(spectra, names, COLOURS, MARKERS, strict=False):
            values = spectrum.multipliers
            label = f"{name}, " if name else ""
            axes.plot(
                values.real.numpy(),
                values.imag.numpy(),
                marker,
                color=colour,
                label=f"{label}radius {spectrum.spectral_radius:.3g}",
            )
        reach = 1.1 * max([1.0, *(spectrum.spectral_radius for spectrum in spectra)])
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel="real", ylabel="imaginary")
        if spectra:
            figure.legend(loc="outside right upper")
    return figure


def _square() -> tuple["Figure", "Axes"]:
    from spin_theory.plots.shown import ShownFigure

    figure = ShownFigure(figsize=(5.2, 3.4), layout="compressed")
    axes = figure.add_subplot()
    axes.set_aspect("equal")
    return figure, axes
