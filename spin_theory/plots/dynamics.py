"""Pictures of the dynamics: orbits and arrows on the simplex, cobwebs, multipliers."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spin_theory.divergences import tv
from spin_theory.games.play import Game, play
from spin_theory.games.solvers import Solver
from spin_theory.games.stability import Linearisation
from spin_theory.inputs import whole
from spin_theory.minima.closed_forms import exact
from spin_theory.plots.style import COLOURS, GREY, MARKERS, labels_of, style
from spin_theory.policies import TabularPolicy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_cobweb", "draw_field", "draw_simplex", "draw_spectrum"]

SAME_STEP = 1e-6
"""Largest TV between an iterate and the map's value before it that still counts as the map's: a
search and a closed form agree much closer, and another beta or solver is much further away."""
ARROW = 0.7
"""Length of an arrow, in distances between neighbouring arrows."""


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
        figure, axes = _triangle()
        _orbits(axes, games, names)
    return figure


def draw_field(
    data: TabularPolicy,
    *games: Game,
    beta: float,
    loss_type: str = "logistic",
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
    sides = whole("arrows", arrows, least=2)
    here = TabularPolicy.from_probs(_grid(sides))
    there = _next(here, data, beta=beta, loss_type=loss_type, solver=solver)
    start, step = _points(here), _points(there) - _points(here)
    lengths = torch.linalg.vector_norm(step, dim=-1, keepdim=True)
    unit = ARROW / sides * step / lengths.clamp_min(torch.finfo(step.dtype).tiny)
    with style():
        figure, axes = _triangle()
        drawn = axes.quiver(
            *start.T.numpy(),
            *unit.T.numpy(),
            tv(here, there).numpy(),
            angles="xy",
            scale_units="xy",
            scale=1,
            width=0.005,
            cmap="viridis_r",
            clim=(0, 1),
        )
        figure.colorbar(drawn, label="TV of one iteration", shrink=0.7)
        _orbits(axes, games, names)
        if not games:
            axes.plot(*_points(data).T.numpy(), "k*", markersize=9, label="data")
    return figure


def draw_cobweb(game: Game, *, loss_type: str = "logistic", solver: Solver = exact) -> "Figure":
    """Draw a game over two responses as a cobweb on its map.

    Parameters
    ----------
    game : Game
        Of SPIN against the last iterate, with one prompt and two responses.
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
    shape = tuple(game.data.log_probs.shape)
    if shape != (1, 2):
        raise ValueError(f"game must have one prompt and two responses, got {shape}")
    probs = [float(policy.probs[0, 0]) for policy in game.policies]
    for number, (beta, one, other) in enumerate(
        zip(game.betas, game.policies, game.policies[1:], strict=False)
    ):
        after = _next(one, game.data, beta=beta, loss_type=loss_type, solver=solver)
        if float(tv(after, other)) > SAME_STEP:
            raise ValueError(
                f"iteration {number} of the game did not follow the map: give the loss_type and "
                "the solver that it was played with"
            )
    before = torch.linspace(0.001, 0.999, 401, dtype=torch.float64)
    here = TabularPolicy.from_probs(torch.stack([before, 1 - before], dim=-1))
    with style():
        figure, axes = _square()
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
        for beta, colour in zip(dict.fromkeys(game.betas), COLOURS, strict=False):
            after = _next(here, game.data, beta=beta, loss_type=loss_type, solver=solver)
            name = rf"one iteration, $\beta = {beta:g}$"
            axes.plot(before.numpy(), after.probs[:, 0].numpy(), color=colour, label=name)
        stairs = [(probs[0], probs[0])]
        for old, new in pairwise(probs):
            stairs += [(old, new), (new, new)]
        x, y = zip(*stairs, strict=True)
        axes.plot(x, y, color="black", linewidth=0.8, label="the game")
        axes.plot(x[:1], y[:1], "ko", markerfacecolor="white", label="start")
        centre = float(game.data.probs[0, 0])
        axes.plot([centre], [centre], "k*", markersize=9, label="data")
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="$p_t(y_1)$", ylabel="$p_{t+1}(y_1)$")
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


def _next(
    here: TabularPolicy, data: TabularPolicy, *, beta: float, loss_type: str, solver: Solver
) -> TabularPolicy:
    """Play one iteration from many policies (N, Y) on the same data (1, Y)."""
    rows = TabularPolicy(data.log_probs.expand_as(here.log_probs))
    game = play(here, rows, beta=beta, iterations=1, loss_type=loss_type, solver=solver)
    if game.stopped:
        raise ValueError(f"no arrow or curve can be drawn: {game.stopped}")
    return game.policies[1]


def _points(policy: TabularPolicy) -> Tensor:
    """Place policies (N, 3) in a triangle with corners (0, 0), (1, 0), (1/2, sqrt(3)/2): (N, 2)."""
    corners = torch.tensor([[0, 0], [1, 0], [0.5, math.sqrt(0.75)]], dtype=torch.float64)
    return policy.probs.to(torch.float64) @ corners


def _grid(sides: int) -> Tensor:
    """Probabilities inside of the triangle, evenly spaced, (N, 3)."""
    cells = [(i, j) for i in range(sides) for j in range(sides - i)]
    counts = torch.tensor([(i, j, sides - 1 - i - j) for i, j in cells], dtype=torch.float64)
    return (counts + 1 / 3) / sides


def _triangle() -> tuple["Figure", "Axes"]:
    figure, axes = _square()
    top = math.sqrt(0.75)
    axes.plot([0, 1, 0.5, 0], [0, 0, top, 0], color=GREY, linewidth=0.8)
    for x, y, name, up in ((0, 0, 1, -1), (1, 0, 2, -1), (0.5, top, 3, 1)):
        side = "top" if up < 0 else "bottom"
        axes.text(x, y + 0.02 * up, f"$y_{name}$", ha="center", va=side)
    axes.set(xlim=(-0.06, 1.06), ylim=(-0.1, top + 0.1))
    axes.axis("off")
    return figure, axes


def _square() -> tuple["Figure", "Axes"]:
    from spin_theory.plots.shown import ShownFigure

    figure = ShownFigure(figsize=(5.2, 3.4), layout="compressed")
    axes = figure.add_subplot()
    axes.set_aspect("equal")
    return figure, axes


def _orbits(axes: "Axes", games: Iterable[Game], names: Sequence[str]) -> None:
    for game, name, colour, marker in zip(games, names, COLOURS, MARKERS, strict=False):
        if game.data.log_probs.shape[-1] != 3:
            responses = game.data.log_probs.shape[-1]
            raise ValueError(f"games must have three responses, got {responses}")
        places = torch.stack([_points(policy) for policy in game.policies])  # (T + 1, X, 2)
        for prompt in range(places.shape[1]):
            x, y = places[:, prompt].T.numpy()
            label = name if prompt == 0 and name else None
            axes.plot(x, y, color=colour, marker=marker, linewidth=0.9, label=label)
            axes.plot(x[:1], y[:1], "o", color=colour, markerfacecolor="white", markersize=6)
        axes.plot(*_points(game.data).T.numpy(), "k*", markersize=9)
    if any(names):
        axes.legend(loc="upper left", bbox_to_anchor=(0.0, 1.0))
