"""SPIN's Figures 4 and 5 as experiments: epochs against iterations, and the number of rows.

64 games of 8 responses on rows that are drawn once, as `python -m benchmarks.finite_game` plays
them, with other rows and samples for each seed. Bars are intervals of 95 % for the mean over seeds.
"""

from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t as student

from benchmarks.finite_game import ROWS, RULES, tables
from paper_figures.style import BLUE, ORANGE, VERMILION, panels
from spin_theory.games.finite import FiniteGame, play_rows

__all__ = ["Mean", "Numbers", "compute", "draw"]

SIZES = (ROWS * 14 // 50, ROWS * 26 // 50, ROWS)
"""The paper's 14k, 26k and 50k rows, in its proportions: 224, 416 and 800."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Mean:
    """A mean over seeds, and half the width of its interval."""

    value: float
    half: float


@dataclass(frozen=True)
class Numbers:
    """What is drawn: KL(p_data || p) in nats, averaged over games."""

    epochs: tuple[int, ...]
    """Passes over the rows, all iterations together."""
    iterated: tuple[Mean, ...]
    one_opponent: tuple[Mean, ...]
    """After the first, middle and last of `epochs`."""
    control: tuple[Mean, ...]
    sizes: tuple[int, ...]
    spin_by_size: tuple[Mean, ...]
    control_by_size: tuple[Mean, ...]


def compute(*, seeds: int = 4, iterations: int = 6) -> Numbers:
    """Play every game once per seed.

    Parameters
    ----------
    seeds : int
        Of rows, samples and orders, at least 2.
    iterations : int
        Of self-play, two epochs each.

    Returns
    -------
    Numbers
        Means and intervals, in nats.
    """
    per_iteration = int(RULES["epochs"])
    epochs = tuple(per_iteration * (t + 1) for t in range(iterations))
    games = {size: [_play(seed, size, iterations) for seed in range(seeds)] for size in SIZES}
    largest = games[ROWS]
    return Numbers(
        epochs=epochs,
        iterated=_by_iteration([game.spin.kl for game in largest]),
        one_opponent=tuple(
            _mean([float(_play(s, ROWS, 1, epochs=count).spin.kl[-1]) for s in range(seeds)])
            for count in _three(epochs)
        ),
        control=_by_iteration([game.control.kl for game in largest]),
        sizes=SIZES,
        spin_by_size=tuple(
            _mean([float(game.spin.kl[-1]) for game in games[size]]) for size in SIZES
        ),
        control_by_size=tuple(
            _mean([float(game.control.kl[-1]) for game in games[size]]) for size in SIZES
        ),
    )


def _play(seed: int, rows: int, iterations: int, **changes: Any) -> FiniteGame:
    start, data = tables()
    rules = RULES | changes
    return play_rows(start, data, rows=rows, iterations=iterations, beta=1.0, seed=seed, **rules)


def _three(epochs: tuple[int, ...]) -> tuple[int, ...]:
    """Each takes a training of its own, from the start, so there are few."""
    return epochs[0], epochs[(len(epochs) - 1) // 2], epochs[-1]


def _by_iteration(tracks: list[torch.Tensor]) -> tuple[Mean, ...]:
    """Average over seeds after each iteration, without the start."""
    return tuple(_mean(column) for column in torch.stack(tracks).T[1:].tolist())


def _mean(values: list[float]) -> Mean:
    """Student's interval."""
    found = torch.tensor(values, dtype=torch.float64)
    error = float(found.std()) / len(values) ** 0.5
    return Mean(
        float(found.mean()), error * float(student.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    )


def draw(numbers: Numbers) -> Figure:
    """Draw distances by epochs, and by the number of rows.

    Parameters
    ----------
    numbers : Numbers
        What :func:`compute` returned.

    Returns
    -------
    Figure
        Two panels on logarithmic KL axes.
    """
    titles = (f"epochs against iterations, {ROWS} rows", "rows, after equal steps")
    with panels(*titles, height=2.6) as (figure, (left, right)):
        _bars(
            left,
            _three(numbers.epochs),
            numbers.one_opponent,
            (VERMILION, "s"),
            "SPIN, one opponent",
        )
        _bars(left, numbers.epochs, numbers.iterated, (BLUE, "o"), "SPIN, 2 epochs per iteration")
        _bars(left, numbers.epochs, numbers.control, (ORANGE, "^"), "SFT, the same steps")
        _bars(right, numbers.sizes, numbers.spin_by_size, (BLUE, "o"), "SPIN, 6 iterations")
        _bars(right, numbers.sizes, numbers.control_by_size, (ORANGE, "^"), "SFT, the same steps")
        left.set(xlabel="epochs, all together", xticks=numbers.epochs)
        right.set(xlabel="rows per game", xticks=numbers.sizes)
        left.set_ylabel(r"$\mathrm{KL}(p_{\mathrm{data}}\,\|\,p)$  [nats]")
        for axes in (left, right):
            axes.set_yscale("log")
        left.set_ylim(None, 6)
        left.legend(loc="upper right")
        right.legend(loc="lower left")
    return figure


def _bars(
    axes: Axes, places: tuple[int, ...], means: tuple[Mean, ...], look: tuple[str, str], label: str
) -> None:
    colour, marker = look
    values, halves = zip(*((mean.value, mean.half) for mean in means), strict=True)
    axes.errorbar(places, values, yerr=halves, color=colour, marker=marker, capsize=2, label=label)
