"""Where games rest that do not rest at the data: samples at a temperature, and T-SPIN.

At temperature T exact SPIN rests at p_data^T. T-SPIN with history has a fixed point of its own, and
one game of it ends in a cycle of two although that point attracts every start near it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.style import BLUE, GREEN, GREY, ORANGE, VERMILION, panels
from spin_theory import (
    InnerProblem,
    TabularPolicy,
    minimiser,
    play,
    tempered_limit,
    tempered_samples,
    tv,
    without_reference,
)
from spin_theory.claims.basins import BETA, DATA, HISTORY_WEIGHT, POINT, START

__all__ = ["PUSHES", "TEMPERATURES", "TEMPERED_BETA", "Numbers", "compute", "draw"]

TEMPERATURES = (0.7, 1.0, 1.5)
TEMPERED_BETA = 2.0
TABLES = ((0.15, 0.25, 0.6), (0.6, 0.3, 0.1))
"""Start and data of the games at a temperature."""
PUSHES = (0.1, 0.8)
"""Nats of the first response's push away from T-SPIN's fixed point, at two starts."""


@dataclass(frozen=True)
class Numbers:
    """What is drawn: total variation distances by iteration."""

    tempered: dict[float, tuple[float, ...]]
    """By temperature: from the data."""
    limits: dict[float, float]
    """By temperature: of p_data^T from the data."""
    tspin: dict[str, tuple[float, ...]]
    """By start: from T-SPIN's fixed point."""
    point_to_data: float
    """Of that point from the data."""


def compute(*, iterations: int = 12) -> Numbers:
    """Play the games.

    Parameters
    ----------
    iterations : int
        Of each.

    Returns
    -------
    Numbers
        Distances without unit.
    """
    start, data = (TabularPolicy.from_probs([row]) for row in TABLES)
    tempered = {}
    for temperature in TEMPERATURES:
        rule = partial(tempered_samples, temperature=temperature)
        game = play(start, data, beta=TEMPERED_BETA, iterations=iterations, opponent=rule)
        tempered[temperature] = tuple(game.tv.tolist())
    limits = {
        temperature: float(tv(data, tempered_limit(data, temperature=temperature)))
        for temperature in TEMPERATURES
    }
    initial, point, target = (TabularPolicy.from_probs([row]) for row in (START, POINT, DATA))
    starts = {"from $p_0$": initial}
    for push in PUSHES:
        away = torch.tensor([[push, 0.0, 0.0]], dtype=torch.float64)
        starts[f"{push:g} nats from it"] = TabularPolicy.from_logits(point.log_probs + away)
    tspin = {}
    for name, begin in starts.items():
        game = play(
            begin,
            target,
            beta=BETA,
            history_weight=HISTORY_WEIGHT,
            iterations=iterations,
            opponent=without_reference,
            solver=partial(_with_history_of, initial),
        )
        tspin[name] = tuple(float(tv(policy, point)) for policy in game.policies)
    return Numbers(tempered, limits, tspin, float(tv(point, target)))


def _with_history_of(
    initial: TabularPolicy,
    problem: InnerProblem,
    *,
    start: TabularPolicy,
    generator: torch.Generator,
) -> TabularPolicy:
    """Solve an iteration whose proto responses are this policy's, wherever the game began."""
    return minimiser(replace(problem, initial=initial), start=start, generator=generator)


def draw(numbers: Numbers) -> Figure:
    """Draw the distance from the data at each temperature, and from T-SPIN's fixed point.

    Parameters
    ----------
    numbers : Numbers
        What :func:`compute` returned.

    Returns
    -------
    Figure
        Two panels by iteration.
    """
    titles = (
        rf"SPIN at temperature $T$, $\beta = {TEMPERED_BETA:g}$",
        "T-SPIN: one game, two ends",
    )
    with panels(*titles, height=2.6) as (figure, (left, right)):
        names = [f"$T = {temperature:g}$" for temperature in numbers.tempered]
        _draw_lines(left, names, list(numbers.tempered.values()))
        for temperature, limit in numbers.limits.items():
            if temperature != 1:
                left.axhline(limit, color=GREY, linestyle="--", linewidth=0.9)
        end = len(numbers.tempered[1.0]) - 1
        for axes, place, label in (
            (left, max(numbers.limits.values()), r"dashed: $p_{\mathrm{data}}^T$"),
            (right, numbers.point_to_data, "the data"),
        ):
            axes.text(end + 0.4, place + 0.018, label, color=GREY, fontsize=7, ha="right")
        _draw_lines(right, list(numbers.tspin), list(numbers.tspin.values()))
        left.set(ylabel="TV from the data", ylim=(0, None))
        right.set(ylabel="TV from T-SPIN's fixed point", ylim=(-0.02, 1.35))
        right.axhline(numbers.point_to_data, color=GREY, linestyle=":", linewidth=0.9)
        left.legend(loc="upper right")
        right.legend(loc="upper right", ncols=2)
    return figure


def _draw_lines(axes: Axes, names: Sequence[str], lines: Sequence[Sequence[float]]) -> None:
    looks = zip((BLUE, VERMILION, GREEN, ORANGE), "osD^", strict=True)
    for name, line, (colour, marker) in zip(names, lines, looks, strict=False):
        axes.plot(line, color=colour, marker=marker, label=name)
    axes.set(xlabel="iteration $t$", xticks=range(0, len(lines[0]), 2))
