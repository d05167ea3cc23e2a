"""Sums over all pairs of responses, and games: each target with what this run measured.

``python -m benchmarks.theory`` takes a few minutes and 1 GB. It refuses a machine that is busy
with something else, unless told ``--busy-ok``. Times that are compared are taken in turns, on at
most two cores, and the best of each counts; the exit code is 0 whether or not the targets are met.
"""

import argparse
import os
import resource
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from benchmarks import games, inexact
from spin_theory import TabularPolicy, spin_objective
from spin_theory.losses import PENALTIES, penalty_named
from spin_theory.objectives.pair_sums import dense_expected_penalty, expected_penalty

Tables = tuple[Tensor, Tensor, Tensor]
CORES = 2
BUSY = 1.0
"""Load, averaged over a minute, above which times would be those of something else."""
DENSE_ROWS = 1000
"""Rows of the matrix of margins at a time: 80 MB at 10,000 responses."""
GROWTH = 12.0
"""From 1e5 to 1e6 responses: linear times 1.2."""


def draw_tables(responses: int, reach: float, *, smallest: float, seed: int = 0) -> Tables:
    """Scores over a range and two policies, log-uniform before they are normalised.

    Parameters
    ----------
    responses : int
        Y.
    reach : float
        Range of the scores, so of the margins, in nats.
    smallest : float
        Lower end of the probabilities, in (0, 1].
    seed : int, default 0
        Seed of the draw.

    Returns
    -------
    tuple of Tensor, shape (1, Y)
        Scores, log-probs of the data and of the opponent.
    """
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(1, responses, generator=generator, dtype=torch.float64) * reach
    real, generated = (
        TabularPolicy.random(1, responses, seed=seed + i, smallest=smallest).log_probs
        for i in (1, 2)
    )
    return scores, real, generated


def value_and_gradient(
    average: Callable[..., Tensor], tables: Tables, loss_type: str
) -> tuple[Tensor, Tensor]:
    """Compute the expected penalty and its gradient in the scores.

    Parameters
    ----------
    average : callable
        :func:`expected_penalty` or :func:`dense_expected_penalty`.
    tables : tuple of Tensor, shape (X, Y)
        Scores, log-probs of the data and of the opponent.
    loss_type : str
        The penalty.

    Returns
    -------
    tuple of Tensor, shape (X,) and (X, Y)
        Value and gradient.
    """
    scores = tables[0].detach().requires_grad_()
    values = average(scores, *tables[1:], loss_type=loss_type)
    (gradient,) = torch.autograd.grad(values.sum(), scores)
    return values.detach(), gradient


def dense_value_and_gradient(tables: Tables, loss_type: str) -> tuple[Tensor, Tensor]:
    """Compute the same from the matrix of margins, some rows at a time.

    Parameters
    ----------
    tables : tuple of Tensor, shape (1, Y)
        Scores, log-probs of the data and of the opponent.
    loss_type : str
        The penalty.

    Returns
    -------
    tuple of Tensor, shape () and (Y,)
        Value and gradient.
    """
    penalty = penalty_named(loss_type)
    scores = tables[0][0].detach().requires_grad_()
    real, generated = (table[0].exp() for table in tables[1:])
    total, gradient = scores.new_zeros(()), torch.zeros_like(scores)
    for start in range(0, len(scores), DENSE_ROWS):
        rows = slice(start, start + DENSE_ROWS)
        value = real[rows] @ penalty(scores[rows, None] - scores) @ generated
        gradient += torch.autograd.grad(value, scores)[0]
        total += value.detach()
    return total, gradient


def best_seconds(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Best wall time of each piece of work, taken in turns after a round to warm up.

    Parameters
    ----------
    works : mapping of callable
        What to time, by name.
    rounds : int
        How often.

    Returns
    -------
    dict of float
        Seconds, by name.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    return {name: min(taken[1:]) for name, taken in times.items()}


def report(claim: str, target: str, measured: str, met: bool) -> None:
    """Print one line of the table.

    Parameters
    ----------
    claim, target, measured : str
        The three columns.
    met : bool
        Whether the target is met.
    """
    print(f"{claim:<62} {target:>9} {measured:>11}  {'pass' if met else 'MISS'}")


def report_errors() -> None:
    """Compare with the dense sum at 4,096 responses, over hard tables."""
    for loss_type in PENALTIES:
        worst_value = worst_gradient = 0.0
        for reach in (0.0, 1.0, 20.0, 700.0, 1000.0):
            for smallest in (1e-1, 1e-300):
                tables = draw_tables(4096, reach, smallest=smallest)
                value, gradient = value_and_gradient(expected_penalty, tables, loss_type)
                dense, slope = value_and_gradient(dense_expected_penalty, tables, loss_type)
                if not bool(dense.isfinite()):  # exponential: the sum exceeds float64 ...
                    assert torch.equal(value, dense)  # ... and must say so
                    continue
                scale = float(slope.abs().max())
                error = (gradient / scale - slope / scale).norm() / (slope / scale).norm()
                worst_value = max(worst_value, float(abs(value / dense - 1)))
                worst_gradient = max(worst_gradient, float(error))
        for name, worst in (("value", worst_value), ("gradient", worst_gradient)):
            claim = f"{loss_type}, {name}: relative error, Y = 4,096"
            report(claim, "1e-12", f"{worst:.1e}", worst <= 1e-12)


def report_times() -> None:
    """Time value and gradient at a million responses, and how that grows."""
    limits = {0.0: 0.25, 5.0: 0.25, 19.0: 0.25, 100.0: 0.5, 700.0: 0.5, 1e6: 0.5, 1e12: 0.5}
    for reach, limit in limits.items():
        small, large = times_at_two_sizes("logistic", reach)
        claim = f"logistic, Y = 1,000,000, margins within {reach:g}"
        report(claim, f"{limit} s", f"{large:.3f} s", large <= limit)
        report(
            "    growth from Y = 100,000", "12x", f"{large / small:.1f}x", large <= GROWTH * small
        )
    for loss_type in ("hinge", "exponential", "correlation"):
        small, large = times_at_two_sizes(loss_type, 5.0)
        claim = f"{loss_type}, Y = 1,000,000 ({large:.3f} s): growth from 100,000"
        report(claim, "12x", f"{large / small:.1f}x", large <= GROWTH * small)
    few = best_seconds(
        {"sparse": work("logistic", 1000, 1e9), "dense": work("logistic", 1000, 1)}, 20
    )
    report(
        "logistic, Y = 1,000: margins within 1e9 over within 1",
        "1.2x",
        f"{few['sparse'] / few['dense']:.2f}x",
        few["sparse"] <= 1.2 * few["dense"],
    )


def times_at_two_sizes(loss_type: str, reach: float) -> tuple[float, float]:
    """Best wall times of value and gradient at 100,000 and at 1,000,000 responses.

    Parameters
    ----------
    loss_type : str
        The penalty.
    reach : float
        Range of the margins, in nats.

    Returns
    -------
    tuple of float
        Seconds.
    """
    works = {f"{size}": work(loss_type, size, reach) for size in (10**5, 10**6)}
    small, large = best_seconds(works, 9).values()
    return small, large


def work(loss_type: str, responses: int, reach: float) -> Callable[[], object]:
    """Piece of work to time: value and gradient over one prompt.

    Parameters
    ----------
    loss_type : str
        The penalty.
    responses : int
        Y.
    reach : float
        Range of the margins, in nats.

    Returns
    -------
    callable
        Without arguments.
    """
    tables = draw_tables(responses, reach, smallest=1e-12)
    return lambda: value_and_gradient(expected_penalty, tables, loss_type)


def report_against_dense() -> None:
    """Time SPIN's whole objective at 10,000 responses against the matrix of margins."""
    tables = draw_tables(10_000, 20.0, smallest=1e-12)
    logits = tables[0].clone().requires_grad_()
    opponent, data = (TabularPolicy(table) for table in tables[1:])

    def objective() -> None:
        policy = TabularPolicy.from_logits(logits)
        torch.autograd.grad(spin_objective(policy, opponent, data, beta=1.0), logits)

    works = {
        "the sum": lambda: value_and_gradient(expected_penalty, tables, "logistic"),
        "spin_objective in the logits": objective,
    }
    fast = best_seconds(works, 20)
    dense = best_seconds({"": lambda: dense_value_and_gradient(tables, "logistic")}, 3)[""]
    for name, taken in fast.items():
        claim = f"{name}, Y = 10,000, {1e3 * taken:.1f} ms: dense {dense:.2f} s"
        report(claim, "100x", f"{dense / taken:.0f}x", dense >= 100 * taken)


def main() -> None:
    """Print the machine and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--busy-ok", action="store_true", help="time things on a busy machine too")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    if load > BUSY and not arguments.busy_ok:
        parser.error(f"the load is {load:.2f}, more than {BUSY:g}: wait, or give --busy-ok")
    torch.set_num_threads(min(CORES, os.cpu_count() or 1))
    print(f"{os.cpu_count()} cores, load {load:.2f}; {torch.get_num_threads()} threads, float64")
    print(f"{'value and gradient of the expected penalty':<62} {'target':>9} {'measured':>11}")
    report_errors()
    report_times()
    report_against_dense()
    for line in [*games.measure(), *inexact.measure()]:
        report(*line)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # from KiB
    report("most memory in use", "4 GiB", f"{memory:.1f} GiB", memory <= 4)
    print(f"load at the end {os.getloadavg()[0]:.2f}, of which this run makes up to {CORES}")


if __name__ == "__main__":
    main()
