"""SPIN's least loss: log 2 - JS of pairs, whatever beta; and what the data themselves lose.

The floor over all policies depends on the opponent alone. Beta decides which policy reaches it:
the data do at beta = 1 only, so at another beta the loss is no score of how near a policy is.
"""

import math
from dataclasses import dataclass
from itertools import starmap

import torch
from matplotlib.figure import Figure

from paper_figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    panels,
)
from spin_theory import TabularPolicy, js, minimise, optimality_gap, tv

__all__ = ["Numbers", "compute", "draw"]

BETAS = (0.1, 0.5, 0.9, 1.5, 5.0)
LOOKS = tuple(zip((VERMILION, ORANGE, GREEN, SKY, PURPLE), "osD^v", strict=True))


@dataclass(frozen=True)
class Numbers:
    """What is drawn, in nats, averaged over prompts; opponents from near the data to far."""

    tv: tuple[float, ...]
    """Of data and opponent."""
    least: tuple[float, ...]
    """Least objective that the search found."""
    certified: tuple[float, ...]
    """No policy has less than this: a bound from the search's own gradient."""
    floor: tuple[float, ...]
    """log 2 - JS of pairs."""
    cheap: tuple[tuple[float, ...], tuple[float, ...]]
    """Bounds on the floor from JS(p_data, p_t): log 2 - 2 JS, and log 2 - JS."""
    excess: dict[float, tuple[float, ...]]
    """By beta: how far the objective of p_data is above the floor."""


def compute(*, prompts: int = 16, responses: int = 8, points: int = 13, seed: int = 0) -> Numbers:
    """Minimise the objective against opponents at growing distance.

    Parameters
    ----------
    prompts, responses : int
        Size of the tables.
    points : int
        Opponents.
    seed : int
        Of the data; the direction of the opponents has the next one.

    Returns
    -------
    Numbers
        Floors, certificates, and the excess of the data by beta.
    """
    data, other = (
        TabularPolicy.random(prompts, responses, seed=seed + k, smallest=1e-2) for k in (0, 1)
    )
    steps = torch.linspace(0.1, 3.1, points, dtype=torch.float64).tolist()
    # p_data (other / p_data)^s, normalised: s = 0 is the data.
    opponents = [
        TabularPolicy.from_logits(data.log_probs + s * (other.log_probs - data.log_probs))
        for s in steps
    ]
    found = [minimise(opponent, data, beta=1.0) for opponent in opponents]
    single = [float(js(data, opponent).mean()) for opponent in opponents]
    return Numbers(
        tv=tuple(float(tv(data, opponent).mean()) for opponent in opponents),
        least=tuple(minimum.objective for minimum in found),
        certified=tuple(minimum.lower_bound for minimum in found),
        floor=tuple(
            math.log(2) - float(js(*_pairs(data, opponent)).mean()) for opponent in opponents
        ),
        cheap=(
            tuple(max(0.0, math.log(2) - 2 * value) for value in single),
            tuple(math.log(2) - value for value in single),
        ),
        excess={
            beta: tuple(float(optimality_gap(data, p, data, beta=beta)) for p in opponents)
            for beta in BETAS
        },
    )


def _pairs(data: TabularPolicy, opponent: TabularPolicy) -> tuple[TabularPolicy, TabularPolicy]:
    """P = p_data x p_t and Q = p_t x p_data, tables over pairs of responses."""

    def product(one: TabularPolicy, two: TabularPolicy) -> TabularPolicy:
        pairs = one.log_probs[:, :, None] + two.log_probs[:, None, :]
        return TabularPolicy.from_logits(pairs.flatten(start_dim=1))

    one, two = starmap(product, [(data, opponent), (opponent, data)])
    return one, two


def draw(numbers: Numbers) -> Figure:
    """Draw the floor with its certificates, and the excess of the data.

    Parameters
    ----------
    numbers : Numbers
        What :func:`compute` returned.

    Returns
    -------
    Figure
        Two panels by the distance of the opponent.
    """
    titles = (
        r"the floor: the same at every $\beta$",
        r"the data reach it at $\beta = 1$ only",
    )
    with panels(*titles, height=2.6) as (figure, (left, right)):
        lower, upper = numbers.cheap
        left.fill_between(
            numbers.tv,
            lower,
            upper,
            color="#DDDDDD",
            linewidth=0,
            label=r"by $\mathrm{JS}(p_{\mathrm{data}}, p_t)$ alone",
        )
        left.plot(
            numbers.tv, numbers.floor, color=BLUE, label=r"$\log 2 - \mathrm{JS}(P, Q)$ of pairs"
        )
        left.plot(numbers.tv, numbers.least, "o", color=VERMILION, label="least loss, by search")
        left.plot(numbers.tv, numbers.certified, "k+", markersize=6, label="certified lower bound")
        left.axhline(math.log(2), color=GREY, linewidth=0.8, linestyle="--")
        left.text(0.98, math.log(2) + 0.01, r"$\log 2$", color=GREY, fontsize=7, ha="right")
        left.set(xlim=(0, 1), ylim=(0, 0.76), ylabel="SPIN's loss  [nats]")
        left.legend(loc="lower left")
        for (beta, excess), (colour, marker) in zip(numbers.excess.items(), LOOKS, strict=True):
            right.plot(
                numbers.tv, excess, color=colour, marker=marker, label=rf"$\beta = {beta:g}$"
            )
        right.set(xlim=(0, 1), yscale="log", ylim=(1e-6, 1))
        right.set_ylabel(r"loss of $p_\theta = p_{\mathrm{data}}$ above it  [nats]")
        right.legend(loc="lower left", ncols=2)
        for axes in (left, right):
            axes.set_xlabel(r"$\mathrm{TV}(p_{\mathrm{data}}, p_t)$")
    return figure
