"""Theorem 5.2, seen: SPIN's objective over two responses, for every penalty.

At an opponent that is the data no policy is better than it. At any other opponent the minimum is
elsewhere, and for some beta already the data are better: the witnesses of its necessity.
"""

import math
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.style import BLUE, GREEN, GREY, ORANGE, VERMILION, panels
from spin_theory import TabularPolicy, minimise
from spin_theory.losses import penalty_named
from spin_theory.objectives.objectives import average_penalty

__all__ = ["Landscape", "Numbers", "compute", "draw"]

PENALTIES = ("logistic", "exponential", "hinge", "correlation")
LOOKS = dict(
    zip(PENALTIES, ((BLUE, "-"), (VERMILION, "--"), (GREEN, "-."), (ORANGE, ":")), strict=True)
)
LOWEST, HIGHEST = -0.65, 1.1  # of the axis, in units of the penalty


@dataclass(frozen=True)
class Landscape:
    """The objective of one opponent, less its value at the opponent itself, which is l(0)."""

    opponent: float
    values: dict[str, tuple[float, ...]]
    """By penalty, at each policy."""
    minima: dict[str, tuple[float, float]]
    """By penalty that has a minimum and only one: the policy, and the value there."""


@dataclass(frozen=True)
class Numbers:
    """What is drawn; a policy is its probability of the first of two responses."""

    data: float
    beta: float
    policies: tuple[float, ...]
    at_data: Landscape
    off_data: Landscape
    betas: tuple[float, ...]
    witnesses: dict[str, tuple[float, ...]]
    """By penalty: the objective of the data at each beta, less l(0), opponent off the data."""


def compute(
    *, data: float = 0.7, off: float = 0.35, beta: float = 1.0, points: int = 199
) -> Numbers:
    """Evaluate the objective over all policies of two responses.

    Parameters
    ----------
    data, off : float
        Probability of the first response under the data, and under an opponent off the data.
    beta : float
        Of both landscapes.
    points : int
        Policies, evenly spaced, and betas.

    Returns
    -------
    Numbers
        The objectives less l(0), in units of the penalty.
    """
    policies = torch.linspace(0, 1, points + 2, dtype=torch.float64)[1:-1]
    betas = torch.logspace(-2, 1, points, dtype=torch.float64)
    towards = _log_ratios(torch.tensor([data], dtype=torch.float64), off)  # (1, 2)
    return Numbers(
        data=data,
        beta=beta,
        policies=tuple(policies.tolist()),
        at_data=_landscape(policies, data, data, beta),
        off_data=_landscape(policies, off, data, beta),
        betas=tuple(betas.tolist()),
        witnesses={
            name: tuple(_above(betas[:, None] * towards, off, data, name).tolist())
            for name in PENALTIES
        },
    )


def _landscape(policies: torch.Tensor, opponent: float, data: float, beta: float) -> Landscape:
    scores = beta * _log_ratios(policies, opponent)
    minima = {}
    for name in ("logistic", "exponential", "hinge"):
        if name == "hinge" and opponent == data:
            continue  # flat around the data
        found = minimise(_table(opponent), _table(data), beta=beta, loss_type=name)
        least = found.objective - float(penalty_named(name)(torch.zeros(())))
        minima[name] = (float(found.policy.probs[0, 0]), least)
    values = {name: tuple(_above(scores, opponent, data, name).tolist()) for name in PENALTIES}
    return Landscape(opponent, values, minima)


def _above(scores: torch.Tensor, opponent: float, data: float, loss_type: str) -> torch.Tensor:
    """Objective of each row of scores, beta times log-ratio, less l(0)."""
    real, generated = (_table(p).log_probs.expand_as(scores) for p in (data, opponent))
    at_zero = penalty_named(loss_type)(torch.zeros((), dtype=torch.float64))
    return average_penalty(scores, real, generated, loss_type=loss_type) - at_zero


def _log_ratios(policies: torch.Tensor, opponent: float) -> torch.Tensor:
    logs = torch.stack([policies, 1 - policies], dim=-1).log()
    return logs - _table(opponent).log_probs


def _table(first: float) -> TabularPolicy:
    return TabularPolicy.from_probs([[first, 1 - first]])


def draw(numbers: Numbers) -> Figure:
    """Draw both landscapes, and where the data are better than the opponent.

    Parameters
    ----------
    numbers : Numbers
        What :func:`compute` returned.

    Returns
    -------
    Figure
        Three panels, one line per penalty.
    """
    titles = (
        "opponent at the data",
        "opponent off the data",
        r"$p_\theta = p_{\mathrm{data}}$, opponent of (b)",
    )
    with panels(*titles, height=2.5, pad=12, sharey=True) as (figure, (left, middle, right)):
        _draw_landscape(left, numbers, numbers.at_data)
        _draw_landscape(middle, numbers, numbers.off_data)
        for name, (colour, dashes) in LOOKS.items():
            right.plot(numbers.betas, numbers.witnesses[name], color=colour, linestyle=dashes)
        right.axhline(0, color=GREY, linewidth=0.8)
        right.set(xscale="log", xlabel=r"$\beta$")
        left.set_ylabel(r"objective $-\ \ell(0)$")
        left.set_ylim(LOWEST, HIGHEST)
        handles = left.get_lines()[: len(PENALTIES)]
        figure.legend(handles, PENALTIES, loc="outside upper center", ncols=len(PENALTIES))
    return figure


def _draw_landscape(axes: Axes, numbers: Numbers, landscape: Landscape) -> None:
    for name, (colour, dashes) in LOOKS.items():
        axes.plot(numbers.policies, landscape.values[name], color=colour, linestyle=dashes)
    for size, (name, (place, least)) in zip((6, 3, 4), landscape.minima.items(), strict=False):
        axes.plot(place, least, "o", color=LOOKS[name][0], markersize=size, zorder=3)
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    marks = {numbers.data: r"$p_{\mathrm{data}}$", landscape.opponent: "$p_t$"}
    if math.isclose(landscape.opponent, numbers.data):
        marks = {numbers.data: r"$p_t = p_{\mathrm{data}}$"}
    for place, label in marks.items():
        axes.axvline(place, color=GREY, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
        axes.text(place, HIGHEST, label, ha="center", va="bottom", fontsize=7)
    axes.set(xlim=(0, 1), xlabel=r"$p_\theta(y_1)$")
