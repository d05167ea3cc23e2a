"""The convergence meter: how often its bound holds, and how often it proves a difference.

Samples are drawn where the meter sees least at a total variation distance: two responses, in every
prompt. Bars are exact intervals of 95 % (Clopper and Pearson) for the repeated experiment.
"""

from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binomtest

from paper_figures.style import BLUE, GREY, VERMILION, panels
from spin_theory import TabularPolicy, convergence_meter, power
from spin_theory.hardest import hardest_js

__all__ = ["Experiment", "Numbers", "Share", "compute", "draw"]

CONFIDENCE = 0.95
POINTS: dict[int, tuple[float, ...]] = {100: (0.0, 0.2, 0.35, 0.5), 400: (0.0, 0.1, 0.2, 0.3)}
"""Total variation distances that are tried, by number of held-out pairs."""
APART = 0.005  # of the two numbers of pairs at one distance, so that both are seen
MARGIN_TV = 0.2
"""Where the data are the opponent, margins are those of a policy that is this far from it."""


@dataclass(frozen=True)
class Share:
    """A share of repetitions, with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Experiment:
    """Shares of repetitions at one distance and number of pairs."""

    tv: float
    samples: int
    covered: Share
    """The lower bound was at most JS(P, Q)."""
    proved: Share
    """The lower bound was above 0."""


@dataclass(frozen=True)
class Numbers:
    """What is drawn."""

    experiments: tuple[Experiment, ...]
    curve_tv: tuple[float, ...]
    curves: dict[int, tuple[float, ...]]
    """By number of pairs: the power that `spin_theory.power` computes, at each of `curve_tv`."""


def compute(
    *,
    points: dict[int, tuple[float, ...]] = POINTS,
    repeats: int = 75,
    curve_points: int = 16,
    seed: int = 0,
) -> Numbers:
    """Repeat the meter's experiment with fresh samples.

    Parameters
    ----------
    points : dict
        By number of held-out pairs, each of its own prompt: total variation distances.
    repeats : int
        Experiments at each.
    curve_points : int
        Distances at which the power is computed.
    seed : int
        Of the samples.

    Returns
    -------
    Numbers
        Shares, in [0, 1].
    """
    generator = torch.Generator().manual_seed(seed)
    grid = torch.linspace(0, 0.6, curve_points, dtype=torch.float64).tolist()
    return Numbers(
        experiments=tuple(
            _experiment(tv, samples, repeats, generator)
            for samples, distances in points.items()
            for tv in distances
        ),
        curve_tv=tuple(grid),
        curves={n: tuple(power(tv=tv, samples=n) for tv in grid) for n in points},
    )


def _experiment(tv: float, samples: int, repeats: int, generator: torch.Generator) -> Experiment:
    data, opponent = _hardest(tv)
    best, other = _hardest(tv or MARGIN_TV)
    score = (best.log_probs - other.log_probs)[0]  # f(y), nats
    truth = hardest_js(tv)
    covered = proved = 0
    for _ in range(repeats):
        real, generated = (
            torch.multinomial(table.probs[0], samples, replacement=True, generator=generator)
            for table in (data, opponent)
        )
        margins = score[real] - score[generated]
        meter = convergence_meter(margins, prompts=torch.arange(samples), confidence=CONFIDENCE)
        covered += meter.lower_bound <= truth
        proved += meter.lower_bound > 0
    return Experiment(tv, samples, _share(covered, repeats), _share(proved, repeats))


def _hardest(tv: float) -> tuple[TabularPolicy, TabularPolicy]:
    """Return data and opponent at this distance whose JS(P, Q) is least."""
    high, low = (1 + tv) / 2, (1 - tv) / 2
    return TabularPolicy.from_probs([[high, low]]), TabularPolicy.from_probs([[low, high]])


def _share(count: int, repeats: int) -> Share:
    interval = binomtest(count, repeats).proportion_ci(0.95, method="exact")
    return Share(count / repeats, float(interval.low), float(interval.high))


def draw(numbers: Numbers) -> Figure:
    """Draw power and coverage by distance.

    Parameters
    ----------
    numbers : Numbers
        What :func:`compute` returned.

    Returns
    -------
    Figure
        Two panels; bars are intervals of 95 %.
    """
    with panels("power; lines: as computed", "coverage", height=2.5) as (figure, (left, right)):
        for (samples, curve), colour, marker in zip(
            numbers.curves.items(), (BLUE, VERMILION), "os", strict=False
        ):
            left.plot(numbers.curve_tv, curve, color=colour)
            found = [e for e in numbers.experiments if e.samples == samples]
            label = f"{samples} held-out pairs"
            _bars(left, [(e.tv, e.proved) for e in found], colour, marker, label)
            _bars(right, [(e.tv, e.covered) for e in found], colour, marker, label)
        right.axhline(CONFIDENCE, color=GREY, linestyle="--", linewidth=0.8)
        right.text(0.425, CONFIDENCE, "promised", color=GREY, fontsize=7, ha="center", va="bottom")
        left.set(ylim=(-0.02, 1.02), ylabel="share of bounds above 0")
        right.set(ylim=(0.85, 1.005), ylabel=r"share of bounds $\leq \mathrm{JS}(P, Q)$")
        left.legend(loc="lower right")
        for axes in (left, right):
            axes.set(xlim=(-0.02, 0.62), xlabel=r"$\mathrm{TV}(p_{\mathrm{data}}, p_t)$")
    return figure


def _bars(
    axes: Axes, found: list[tuple[float, Share]], colour: str, marker: str, label: str
) -> None:
    shares = [share for _, share in found]
    aside = APART if marker == "s" else -APART
    axes.errorbar(
        [tv + aside for tv, _ in found],
        [share.value for share in shares],
        yerr=[
            [share.value - share.low for share in shares],
            [share.high - share.value for share in shares],
        ],
        fmt=marker,
        color=colour,
        capsize=2,
        elinewidth=0.8,
        label=label,
    )
