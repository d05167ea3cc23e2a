"""Figures of the command line: distances of games, and a phase diagram."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spin_theory.games.phase import PhaseDiagram
from spin_theory.games.play import Game
from spin_theory.plots.style import COLOURS, MARKERS, labels_of, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_game", "draw_phase", "require_plot"]

LEAST_AWAY = 0.1
"""Decades away from the data that get the full colour, unless a cell is further away."""


def require_plot(path: Path) -> None:
    """Refuse before any work is done: no matplotlib, no folder, or a format it does not know.

    Parameters
    ----------
    path : Path
        Where the figure is to go.

    Raises
    ------
    ValueError
        With what to do about it.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        raise ValueError("--plot needs matplotlib: pip install 'spin-toolkit[plots]'") from None
    formats = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix[1:] not in formats:
        raise ValueError(f"--plot FILE must end in one of {', '.join(sorted(formats))}: {path}")
    if not path.parent.is_dir():
        raise ValueError(f"--plot FILE is in a folder that does not exist: {path.parent}")


def draw_game(*games: Game, labels: Sequence[str] = ()) -> "Figure":
    """Draw the divergence of each iterate from the data.

    Parameters
    ----------
    *games : Game
        What was played.
    labels : sequence of str, optional
        One per game, for the legend.

    Returns
    -------
    Figure
        KL(data || policy) in nats by iteration, from 0 up on a logarithmic axis.

    Raises
    ------
    ValueError
        If there is not one label per game.
    """
    from spin_theory.plots.shown import ShownFigure

    names = labels_of(games, labels)
    with style():
        figure = ShownFigure(figsize=(5, 3))
        axes = figure.add_subplot()
        for game, name, colour, marker in zip(games, names, COLOURS, MARKERS, strict=False):
            times = range(len(game.kl))
            axes.plot(times, game.kl.numpy(), color=colour, marker=marker, label=name or None)
        axes.set(xlabel="iteration", ylabel="KL(data || policy) [nats]")
        # Zero is where self-play should end, and has no place on a logarithmic axis.
        floor = min((float(v) for game in games for v in game.kl if v > 0), default=math.nan)
        axes.set_yscale("symlog", linthresh=floor if floor < math.inf else 1.0)
        axes.locator_params(axis="y", numticks=8)
        axes.locator_params(axis="x", integer=True)
        if any(names):
            axes.legend()
    return figure


def draw_phase(diagram: PhaseDiagram) -> "Figure":
    """Draw where games approach the data, by beta and inner steps.

    Parameters
    ----------
    diagram : PhaseDiagram
        What was played.

    Returns
    -------
    Figure
        Change of the total variation distance in decades: blue towards the data, red away, each
        on a scale of its own. Grey where games ended nearer but a quarter of them or more stalled.
        The share of games that ended further away stands in each cell where it is not 0. A line
        goes round the cells where theory says that most games settle at the data from near enough.
    """
    from matplotlib.colors import TwoSlopeNorm

    from spin_theory.plots.shown import ShownFigure

    rows, columns = diagram.change.shape
    with style():
        figure = ShownFigure(figsize=(1.6 + 0.55 * columns, 1.2 + 0.35 * rows))
        axes = figure.add_subplot()
        axes.grid(visible=False)
        # TV is at most 1, so games go few decades away: that side has a scale of its own.
        reach = max(1.0, min(4.0, -float(diagram.change.min())))
        away = max(LEAST_AWAY, float(diagram.change.max()))
        axes.set_facecolor("0.8")
        shown = diagram.approaches | (diagram.change >= 0)
        image = axes.imshow(
            diagram.change.masked_fill(~shown, math.nan).numpy(),
            cmap="RdBu_r",
            norm=TwoSlopeNorm(vmin=-reach, vcenter=0.0, vmax=away),
            origin="lower",
            aspect="auto",
        )
        names = ["exact" if steps is None else str(steps) for steps in diagram.inner_steps]
        axes.set_xticks(range(columns), names)
        axes.set_yticks(range(rows), [f"{beta:.3g}" for beta in diagram.betas])
        axes.set(xlabel="inner steps", ylabel="beta")
        where: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6}
        for row in range(rows):
            for column in range(columns):
                share = float(diagram.diverged[row, column])
                if share > 0:
                    dark = float(diagram.change[row, column]) > 0.7 * away
                    colour = "white" if dark else "black"
                    axes.text(column, row, f"{share:.0%}", color=colour, **where)
        if diagram.stable is not None:
            _outline(axes, (diagram.stable > 0.5).tolist())
        ticks = [-reach, -reach / 2, 0.0, away]
        figure.colorbar(image, ticks=ticks, format="%+.2g", label="log10 of last over first TV")
    return figure


def _outline(axes: "Axes", inside: list[list[bool]]) -> None:
    """Draw the edges between cells inside and outside of a region."""
    from matplotlib.collections import LineCollection

    rows, columns = len(inside), len(inside[0])
    edges = [
        [(column + 0.5, row - 0.5), (column + 0.5, row + 0.5)]
        for row in range(rows)
        for column in range(columns - 1)
        if inside[row][column] != inside[row][column + 1]
    ]
    edges += [
        [(column - 0.5, row + 0.5), (column + 0.5, row + 0.5)]
        for row in range(rows - 1)
        for column in range(columns)
        if inside[row][column] != inside[row + 1][column]
    ]
    axes.add_collection(LineCollection(edges, colors="black", linewidths=1.5), autolim=False)
