"""Theorem 5.4, measured: how far the closed form is from a minimiser that never saw it.

On the random instances of `spin-theory verify`. Next to it stands a wrong formula, whose beta is
off by a hundredth: the check is worth something only if it rejects that one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.style import BLUE, GREEN, GREY, VERMILION, panels
from spin_theory import minimise, optimality_gap, tv
from spin_theory.claims.instances import random_instance
from spin_theory.minima.closed_forms import closed_form_update
from spin_theory.tolerances import ROUNDING

__all__ = ["WRONG", "Numbers", "compute", "draw"]

LEAST, LEAST_GAP = 1e-17, 1e-34
"""Drawn in place of what is smaller, zero included."""
WRONG = 1.01
"""Factor on beta that makes the wrong formula."""


@dataclass(frozen=True)
class Numbers:
    """What is drawn, one entry per instance; gaps are above the least objective, and relative."""

    betas: tuple[float, ...]
    responses: tuple[int, ...]
    theorem: tuple[float, ...]
    """Residual of the check: distance of closed form and minimiser, or `own_gap` if larger."""
    wrong: tuple[float, ...]
    """The same of the wrong formula."""
    own_gap: tuple[float, ...]
    """Of the closed form."""
    certified: tuple[float, ...]
    """Of the minimiser: at most this, by its certificate."""


def compute(*, instances: int = 100, seed: int = 0) -> Numbers:
    """Compare closed form and minimiser on random instances.

    Parameters
    ----------
    instances : int
        How many; their seeds are consecutive.
    seed : int
        Of the first.

    Returns
    -------
    Numbers
        Residuals without unit.
    """
    rows = []
    for number in range(seed, seed + instances):
        draw = random_instance(number)
        data, opponent, beta = draw.data, draw.opponent, draw.beta
        minimum = minimise(opponent, data, beta=beta)
        gaps, residuals = [], []
        for factor in (1.0, WRONG):
            claimed = closed_form_update(opponent, data, beta=beta * factor)
            above = optimality_gap(claimed, opponent, data, beta=beta)
            gaps.append(float(above) / minimum.objective)
            residuals.append(max(float(tv(claimed, minimum.policy)), gaps[-1]))
        certified = minimum.gap / minimum.objective
        rows.append((beta, draw.instance.responses, *residuals, gaps[0], certified))
    return Numbers(*zip(*rows, strict=True))


def draw(numbers: Numbers) -> Figure:
    """Draw distances by beta and gaps by the number of responses, with the tolerance.

    Parameters
    ----------
    numbers : Numbers
        What :func:`compute` returned.

    Returns
    -------
    Figure
        Two panels with a point per instance.
    """
    titles = ("closed form against minimiser", "objectives above the least one")
    wrong = (rf"$\beta$ off by {WRONG - 1:.0%}", numbers.wrong, VERMILION, "x")
    theorem = ("Theorem 5.4", numbers.theorem, BLUE, "o")
    minimiser = ("minimiser, certified", numbers.certified, GREEN, "D")
    closed = ("Theorem 5.4", numbers.own_gap, BLUE, "o")
    with panels(*titles, height=2.7) as (figure, (left, right)):
        _draw_points(left, numbers.betas, (wrong, theorem), LEAST)
        _draw_points(right, numbers.responses, (minimiser, closed), LEAST_GAP)
        left.set(xlabel=r"$\beta$", ylabel="residual of the check")
        right.set(xlabel="responses $Y$", ylabel="gap over objective")
        right.set_xticks([2, 4, 16, 64, 256], ["2", "4", "16", "64", "256"])
        right.minorticks_off()
        for axes, top in ((left, 10.0), (right, 1e-6)):
            axes.axhline(ROUNDING, color=GREY, linestyle="--", linewidth=0.9)
            axes.text(
                1.0,
                ROUNDING * 1.7,
                "tolerance of the check",
                color=GREY,
                fontsize=7,
                ha="right",
                transform=axes.get_yaxis_transform(),
            )
            axes.set_ylim(None, top)
            axes.legend(loc="upper left", ncols=2, borderaxespad=0, handletextpad=0.2)
    return figure


def _draw_points(
    axes: Axes,
    places: Sequence[float],
    kinds: Sequence[tuple[str, Sequence[float], str, str]],
    least: float,
) -> None:
    for label, values, colour, marker in kinds:
        shown = [max(value, least) for value in values]
        axes.loglog(places, shown, marker, color=colour, label=label, alpha=0.7)
