"""What one iteration does to the log-ratio to the data: it multiplies it, by what beta decides.

Exact SPIN multiplies it by 1 - 1/beta at any distance. An SFT term changes the factor near the
data, and the exponential penalty acts as twice the beta.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure

from paper_figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, panels
from spin_theory import TabularPolicy, minimiser, multiplier, play
from spin_theory.games.sft import sft_multiplier

__all__ = ["BETAS", "Numbers", "compute", "draw"]

BETAS = (5.0, 0.7, 0.5, 0.45)
LOOKS = tuple(zip((BLUE, GREEN, ORANGE, VERMILION), "osDv", strict=True))
DATA, START = (0.6, 0.4), (0.45, 0.55)
TABLE = (0.5, 0.3, 0.15, 0.05)
SFT_WEIGHT = 0.1
SMALL = 1e-5
"""Nats of a deviation near the data: its square is lost in the drawn digits."""
LAWS: dict[str, Callable[[float], float]] = {
    "logistic": lambda beta: multiplier(beta=beta),
    "exponential": lambda beta: multiplier(beta=beta, loss_type="exponential"),
    f"logistic, SFT term {SFT_WEIGHT}": lambda beta: sft_multiplier(
        beta=beta, sft_weight=SFT_WEIGHT
    ),
}
LAW_LOOKS = tuple(zip((BLUE, VERMILION, PURPLE), "os^", strict=True))


@dataclass(frozen=True)
class Numbers:
    """What is drawn: signed log-ratios of games, and multipliers by beta."""

    games: dict[float, tuple[float, ...]]
    """By beta: log-odds of the first of two responses, less those of the data, in nats."""
    measured_at: tuple[float, ...]
    measured: dict[str, tuple[float, ...]]
    """By law, at each beta: what a played iteration multiplies a deviation by."""


def compute(*, iterations: int = 8, betas: int = 11) -> Numbers:
    """Play the games, and one iteration at each beta.

    Parameters
    ----------
    iterations : int
        Of each game.
    betas : int
        How many multipliers are measured, from beta 0.15 to 5.

    Returns
    -------
    Numbers
        Log-ratios in nats, multipliers without unit.
    """
    start, data = (TabularPolicy.from_probs([row]) for row in (START, DATA))
    games = {}
    for beta in BETAS:
        game = play(start, data, beta=beta, iterations=iterations)
        games[beta] = tuple(_log_odds(policy, data) for policy in game.policies)
    places = torch.logspace(-0.83, 0.7, betas, dtype=torch.float64).tolist()
    measured = {name: tuple(_measured(name, beta) for beta in places) for name in LAWS}
    return Numbers(games, tuple(places), measured)


def _log_odds(policy: TabularPolicy, data: TabularPolicy) -> float:
    ratio = (policy.log_probs - data.log_probs)[0]
    return float(ratio[0] - ratio[1])


def _measured(name: str, beta: float) -> float:
    """Play one iteration with the certified search, which knows of no multiplier."""
    data = TabularPolicy.from_probs([TABLE])
    push = torch.tensor([[1.0, -1.0, 0.5, -0.5]], dtype=torch.float64)
    start = TabularPolicy.from_logits(data.log_probs + SMALL * push)
    game = play(
        start,
        data,
        beta=beta,
        iterations=1,
        solver=minimiser,
        loss_type=name.partition(",")[0],
        sft_weight=SFT_WEIGHT if "SFT" in name else 0.0,
    )
    before, after = ((policy.log_probs - data.log_probs)[0] for policy in game.policies)
    before, after = (part - part.mean() for part in (before, after))
    return float((after @ before) / (before @ before))


def draw(numbers: Numbers) -> Figure:
    """Draw the games with their closed form, and measured multipliers on their laws.

    Parameters
    ----------
    numbers : Numbers
        What :func:`compute` returned.

    Returns
    -------
    Figure
        Two panels; lines are the law.
    """
    titles = (r"log-ratio by iteration; lines: $m^t$", r"$m$ by $\beta$; marks: played")
    with panels(*titles, height=2.7) as (figure, (left, right)):
        for (beta, values), (colour, marker) in zip(numbers.games.items(), LOOKS, strict=True):
            factor = multiplier(beta=beta)
            law = [values[0] * factor**t for t in range(len(values))]
            left.plot(law, color=colour, linewidth=0.9)
            label = rf"$\beta = {beta:g}$, $m = {factor:.3g}$"
            left.plot(values, marker, color=colour, label=label)
        left.axhline(0, color=GREY, linewidth=0.8)
        left.set(xlabel="iteration $t$", ylabel=r"log-odds of $p_t$ over $p_{\mathrm{data}}$")
        left.set_ylim(-3.4, 4.6)
        left.legend(loc="upper left", ncols=2, columnspacing=0.8)
        right.axhspan(-1, 1, color="#EEEEEE", linewidth=0)
        right.axhline(0, color=GREY, linewidth=0.8)
        fine = torch.logspace(-0.9, 0.75, 200, dtype=torch.float64).tolist()
        for (name, law_of), (colour, marker) in zip(LAWS.items(), LAW_LOOKS, strict=True):
            right.plot(fine, [law_of(beta) for beta in fine], color=colour)
            right.plot(
                numbers.measured_at, numbers.measured[name], marker, color=colour, label=name
            )
        right.text(0.14, 0.8, "settles at the data", fontsize=7, color=GREY, va="center")
        right.set(xscale="log", ylim=(-3.4, 1.3), xlabel=r"$\beta$", ylabel="multiplier $m$")
        right.set_xticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
        right.minorticks_off()
        right.legend(loc="lower right")
    return figure
