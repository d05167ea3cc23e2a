"""Where prefixes share parameters, SPIN need not stay at SFT's solution.

Responses are three bits, and each bit sees the one before. Random data tables are not in that
class. Below some beta SFT's solution is a saddle of the iteration in which it is the opponent, and
below a larger one exact play from nearby does not return to it. Few gradient steps return anyway.
"""

import itertools
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure

from paper_figures.style import BLUE, GREEN, GREY, VERMILION, panels
from spin_theory import TabularPolicy, spin_objective, tv
from spin_theory.minima.resting import resting_point
from spin_theory.minima.token_trees import TokenTree

__all__ = ["Numbers", "compute", "draw"]

WORDS = tuple("".join(bits) for bits in itertools.product("ab", repeat=3))
SMALLEST = 0.01
"""Smallest probability of the data, before they are normalised."""
SEED = 6
"""Of the table in which games are played."""
BETA = 0.1
RATE = 0.5
STEPS = (10, 100, 300)
PUSH = 0.01
"""Size of the normal numbers added to SFT's parameters where the games begin."""


@dataclass(frozen=True)
class Numbers:
    """What is drawn: two limits of beta of each table, and distances by steps per iteration."""

    least_betas: tuple[float, ...]
    """Rising: below it SFT's solution is a saddle."""
    stable_betas: tuple[float, ...]
    """Rising: below it exact play does not return."""
    distances: dict[int, tuple[float, ...]]
    """Total variation from SFT's solution by iteration."""


def compute(*, tables: int = 200, iterations: int = 10) -> Numbers:
    """Find the limits on random tables, and play near SFT's solution of one of them.

    Parameters
    ----------
    tables : int, default 200
        How many random data tables.
    iterations : int, default 10
        Of each game.

    Returns
    -------
    Numbers
        Betas and distances without unit.
    """
    tree = TokenTree.sharing(WORDS, last=1)
    drawn = [TabularPolicy.random(1, 8, seed=seed, smallest=SMALLEST) for seed in range(tables)]
    rests = [resting_point(tree, data) for data in drawn]
    data = TabularPolicy.random(1, 8, seed=SEED, smallest=SMALLEST)
    rest = resting_point(tree, data)
    generator = torch.Generator().manual_seed(0)
    push = PUSH * torch.randn(len(rest.parameters), generator=generator, dtype=torch.float64)
    distances = {}
    for steps in STEPS:
        theta, seen = rest.parameters + push, []
        for _ in range(iterations):
            seen.append(float(tv(tree.policy(theta), rest.policy)))
            theta = _descend(tree, theta, data, steps)
        distances[steps] = (*seen, float(tv(tree.policy(theta), rest.policy)))
    return Numbers(
        tuple(sorted(each.least_beta for each in rests)),
        tuple(sorted(each.stable_beta for each in rests)),
        distances,
    )


def _descend(tree: TokenTree, theta: torch.Tensor, data: TabularPolicy, steps: int) -> torch.Tensor:
    opponent = tree.policy(theta)
    for _ in range(steps):
        at = theta.clone().requires_grad_()
        value = spin_objective(tree.policy(at), opponent, data, beta=BETA)
        (gradient,) = torch.autograd.grad(value, at)
        theta = theta - RATE * gradient
    return theta


def draw(numbers: Numbers) -> Figure:
    """Draw the share of tables beyond each limit, and the distance from SFT's solution.

    Parameters
    ----------
    numbers : Numbers
        What :func:`compute` returned.

    Returns
    -------
    Figure
        Two panels: by beta, and by iteration.
    """
    titles = ("SFT's solution, random tables", rf"games at $\beta = {BETA:g}$, one table")
    with panels(*titles, height=2.6) as (figure, (left, right)):
        for label, limits, colour, line in (
            ("is a saddle", numbers.least_betas, VERMILION, "-"),
            ("exact play leaves it", numbers.stable_betas, BLUE, "--"),
        ):
            share = [1 - rank / len(limits) for rank in range(len(limits) + 1)]
            left.step([0.0, *limits], share, where="post", color=colour, ls=line, label=label)
        left.axvline(BETA, color=GREY, linestyle=":", linewidth=0.9)
        left.text(BETA * 1.05, 0.02, "published", color=GREY, fontsize=7)
        left.set(xlabel=r"$\beta$", ylabel="share of tables", xscale="log", xlim=(0.003, 2))
        left.set(ylim=(0, 1.02))
        left.legend(loc="lower left", bbox_to_anchor=(0.0, 0.12))
        looks = zip((BLUE, GREEN, VERMILION), "osD", strict=True)
        for (steps, distances), (colour, marker) in zip(
            numbers.distances.items(), looks, strict=True
        ):
            label = f"{steps} steps per iteration"
            right.semilogy(distances, color=colour, marker=marker, label=label)
        right.set(xlabel="iteration $t$", ylabel="TV from SFT's solution")
        right.set(xticks=range(0, len(distances), 2))
        right.legend(loc="lower left")
    return figure
