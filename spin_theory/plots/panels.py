"""What figures of the dynamics are put together from, each drawn on axes that are given."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spin_theory.divergences import tv
from spin_theory.games.play import Game, play
from spin_theory.games.solvers import Solver
from spin_theory.inputs import whole
from spin_theory.plots.style import COLOURS, GREY, MARKERS
from spin_theory.policies import TabularPolicy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.quiver import Quiver

__all__ = ["place", "put_cobweb", "put_field", "put_orbits", "put_triangle"]

SAME_STEP = 1e-6
"""Largest TV between an iterate and the map's value before it that still counts as the map's: a
search and a closed form agree much closer, and another beta or solver is much further away."""
ARROW = 0.7
"""Length of an arrow, in distances between neighbouring arrows."""


def put_cobweb(axes: "Axes", game: Game, *, loss_type: str, solver: Solver) -> None:
    """Draw a game over two responses as a cobweb, without a legend.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    game : Game
        With one prompt and two responses.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}
        The penalty that it was played with.
    solver : Solver
        The solver that it was played with.

    Raises
    ------
    ValueError
        If the game has more prompts or responses, or did not follow the map.
    """
    shape = tuple(game.data.log_probs.shape)
    if shape != (1, 2):
        raise ValueError(f"game must have one prompt and two responses, got {shape}")
    before = torch.linspace(0.001, 0.999, 401, dtype=torch.float64)
    grid = torch.stack([before, 1 - before], dim=-1).log()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
    played = len(game.policies) - 1
    how = list(zip_longest(game.betas, game.sft_weights, fillvalue=0.0))[:played]
    for (beta, weight), colour in zip(dict.fromkeys(how), COLOURS, strict=False):
        times = [t for t in range(played) if how[t] == (beta, weight)]
        rows = [grid, *(game.policies[t].log_probs for t in times)]
        here = TabularPolicy(torch.cat(rows))
        after = _next(
            here, game.data, beta=beta, loss_type=loss_type, sft_weight=weight, solver=solver
        )
        expected = TabularPolicy(torch.cat([game.policies[t + 1].log_probs for t in times]))
        found = TabularPolicy(after.log_probs[len(grid) :])
        apart = tv(found, expected) > SAME_STEP
        if bool(apart.any()):
            number = times[int(apart.int().argmax())]
            raise ValueError(
                f"iteration {number} of the game did not follow the map: give the loss_type and "
                "the solver that it was played with"
            )
        name = rf"one iteration, $\beta = {beta:g}$" + (f", SFT {weight:g}" if weight else "")
        axes.plot(before.numpy(), after.probs[: len(grid), 0].numpy(), color=colour, label=name)
    probs = [float(policy.probs[0, 0]) for policy in game.policies]
    stairs = [(probs[0], probs[0])]
    for old, new in pairwise(probs):
        stairs += [(old, new), (new, new)]
    x, y = zip(*stairs, strict=True)
    axes.plot(x, y, color="black", linewidth=0.8, label="the game")
    axes.plot(x[:1], y[:1], "ko", markerfacecolor="white", label="start")
    centre = float(game.data.probs[0, 0])
    axes.plot([centre], [centre], "k*", markersize=9, label="data")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="$p_t(y_1)$", ylabel="$p_{t+1}(y_1)$")


def put_field(axes: "Axes", data: TabularPolicy, *, arrows: int, **how: Any) -> "Quiver":
    """Draw where one iteration takes each policy over three responses.

    Parameters
    ----------
    axes : Axes
        Where to draw; :func:`put_triangle` comes first.
    data : TabularPolicy, shape (1, 3)
        p_data.
    arrows : int
        Arrows along a side, at least 2.
    **how : beta, loss_type, sft_weight, solver
        How an iteration is played.

    Returns
    -------
    Quiver
        The arrows, coloured by the total variation distance that an iteration goes.
    """
    sides = whole("arrows", arrows, least=2)
    here = TabularPolicy.from_probs(_grid(sides))
    there = _next(here, data, **how)
    start, step = place(here), place(there) - place(here)
    lengths = torch.linalg.vector_norm(step, dim=-1, keepdim=True)
    unit = ARROW / sides * step / lengths.clamp_min(torch.finfo(step.dtype).tiny)
    return axes.quiver(
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


def put_triangle(axes: "Axes") -> None:
    """Draw the simplex of three responses, its corners named.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    """
    top = math.sqrt(0.75)
    axes.set_aspect("equal")
    axes.plot([0, 1, 0.5, 0], [0, 0, top, 0], color=GREY, linewidth=0.8)
    for x, y, name, up in ((0, 0, 1, -1), (1, 0, 2, -1), (0.5, top, 3, 1)):
        side = "top" if up < 0 else "bottom"
        axes.text(x, y + 0.02 * up, f"$y_{name}$", ha="center", va=side)
    axes.set(xlim=(-0.06, 1.06), ylim=(-0.1, top + 0.1))
    axes.axis("off")


def put_orbits(axes: "Axes", games: Iterable[Game], names: Sequence[str]) -> None:
    """Draw games over three responses, one colour each.

    Parameters
    ----------
    axes : Axes
        Where to draw; :func:`put_triangle` comes first.
    games : iterable of Game
        Every prompt of a game is an orbit.
    names : sequence of str
        One per game for the legend, or empty.

    Raises
    ------
    ValueError
        If a game has another number of responses.
    """
    for game, name, colour, marker in zip(games, names, COLOURS, MARKERS, strict=False):
        if game.data.log_probs.shape[-1] != 3:
            responses = game.data.log_probs.shape[-1]
            raise ValueError(f"games must have three responses, got {responses}")
        places = torch.stack([place(policy) for policy in game.policies])  # (T + 1, X, 2)
        for prompt in range(places.shape[1]):
            x, y = places[:, prompt].T.numpy()
            label = name if prompt == 0 and name else None
            axes.plot(x, y, color=colour, marker=marker, linewidth=0.9, label=label)
            axes.plot(x[:1], y[:1], "o", color=colour, markerfacecolor="white", markersize=6)
        axes.plot(*place(game.data).T.numpy(), "k*", markersize=9)
    if any(names):
        axes.legend(loc="upper left", bbox_to_anchor=(0.0, 1.0))


def place(policy: TabularPolicy) -> Tensor:
    """Place policies in the triangle of :func:`put_triangle`.

    Parameters
    ----------
    policy : TabularPolicy, shape (N, 3)
        Over three responses.

    Returns
    -------
    Tensor, shape (N, 2)
        Coordinates; the corners are (0, 0), (1, 0) and (1/2, sqrt(3)/2).
    """
    corners = torch.tensor([[0, 0], [1, 0], [0.5, math.sqrt(0.75)]], dtype=torch.float64)
    return policy.probs.to(torch.float64) @ corners


def _next(
    here: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    loss_type: str,
    sft_weight: float,
    solver: Solver,
) -> TabularPolicy:
    """Play one iteration from many policies (N, Y) on the same data (1, Y)."""
    rows = TabularPolicy(data.log_probs.expand_as(here.log_probs))
    how: dict[str, Any] = {"loss_type": loss_type, "sft_weight": sft_weight, "solver": solver}
    game = play(here, rows, beta=beta, iterations=1, **how)
    if game.stopped:
        raise ValueError(f"no arrow or curve can be drawn: {game.stopped}")
    return game.policies[1]


def _grid(sides: int) -> Tensor:
    """Probabilities inside of the triangle, evenly spaced, (N, 3)."""
    cells = [(i, j) for i in range(sides) for j in range(sides - i)]
    counts = torch.tensor([(i, j, sides - 1 - i - j) for i, j in cells], dtype=torch.float64)
    return (counts + 1 / 3) / sides
