"""Orbits over three responses: SPIN, SPIN with an SFT term, and T-SPIN.

SPIN at a beta below 1/2 leaves the data. An SFT term brings it back at the published beta.
T-SPIN settles too, at a policy of its own; without history it goes round in two.
"""

from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_figures.style import COLUMN_WIDTH, style
from spin_theory import TabularPolicy, minimiser, play, without_reference
from spin_theory.games.play import Game
from spin_theory.plots import draw_simplex

__all__ = ["Numbers", "compute", "draw"]

DATA, START = (0.5, 0.3, 0.2), (0.15, 0.15, 0.7)


@dataclass(frozen=True)
class Numbers:
    """What is drawn: each game with its name."""

    games: dict[str, Game]


def compute(*, iterations: int = 8) -> Numbers:
    """Play each game from the same start on the same data.

    Parameters
    ----------
    iterations : int
        Of each game.

    Returns
    -------
    Numbers
        Games over three responses.
    """
    start, data = (TabularPolicy.from_probs([row]) for row in (START, DATA))
    history = [0.0] + [0.1] * (iterations - 1)  # the published protocol
    games = {
        r"SPIN, $\beta = 0.7$": play(start, data, beta=0.7, iterations=iterations),
        r"SPIN, $\beta = 0.4$": play(start, data, beta=0.4, iterations=iterations),
        r"SPIN, $\beta = 0.1$, SFT term 0.1": play(
            start, data, beta=0.1, sft_weight=0.1, iterations=iterations, solver=minimiser
        ),
        r"T-SPIN, $\alpha = 1$, history 0.1": play(
            start,
            data,
            beta=1.0,
            history_weight=history,
            opponent=without_reference,
            iterations=iterations,
            solver=minimiser,
        ),
        r"T-SPIN, $\alpha = 1$, no history": play(
            start, data, beta=1.0, opponent=without_reference, iterations=iterations
        ),
    }
    return Numbers(games)


def draw(numbers: Numbers) -> Figure:
    """Draw the orbits on one triangle.

    Parameters
    ----------
    numbers : Numbers
        What :func:`compute` returned.

    Returns
    -------
    Figure
        One column wide, the legend above.
    """
    figure = draw_simplex(*numbers.games.values(), labels=list(numbers.games))
    with style():
        figure.set_size_inches(COLUMN_WIDTH, 4.0)
        axes = figure.axes[0]
        start, data = (
            Line2D(
                [], [], color="black", marker=marker, markerfacecolor=fill, linestyle="", label=name
            )
            for marker, fill, name in (("o", "white", "start"), ("*", "black", "data"))
        )
        handles, _ = axes.get_legend_handles_labels()
        axes.legend(
            handles=[*handles, start, data],
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            borderaxespad=0,
        )
    return figure
