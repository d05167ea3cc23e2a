"""The sums over all pairs of responses: each target beside what this run measured.

``python -m benchmarks.theory`` takes about a minute. Times are the best of several, on at most
two cores; the exit code is 0 whether or not the targets are met.
"""

import os
import time
from collections.abc import Callable

import torch
from torch import Tensor

from spin_theory import TabularPolicy, spin_objective
from spin_theory.losses import PENALTIES
from spin_theory.pair_sums import dense_expected_penalty, expected_penalty

Tables = tuple[Tensor, Tensor, Tensor]
CORES = 2


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
    scores = tables[0].clone().requires_grad_()
    values = average(scores, *tables[1:], loss_type=loss_type)
    (gradient,) = torch.autograd.grad(values.sum(), scores)
    return values.detach(), gradient


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Best wall time of a piece of work, after one run to warm up.

    Parameters
    ----------
    work : callable
        What to time.
    repeats : int
        How often.

    Returns
    -------
    float
        Seconds.
    """
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def report(claim: str, target: str, measured: str, met: bool) -> None:
    """Print one line of the table.

    Parameters
    ----------
    claim, target, measured : str
        The three columns.
    met : bool
        Whether the target is met.
    """
    print(f"{claim:<52} {target:>9} {measured:>11}  {'pass' if met else 'MISS'}")


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
    times = {}
    for responses, repeats in ((10**5, 15), (10**6, 9)):
        for reach, limit in ((0.0, 0.25), (5.0, 0.25), (19.0, 0.25), (100.0, 0.5), (700.0, 0.5)):
            taken = times[responses, reach] = time_of("logistic", responses, repeats, reach)
            if responses == 10**6:
                claim = f"logistic, Y = 1,000,000, margins within {reach:g}"
                report(claim, f"{limit} s", f"{taken:.3f} s", taken <= limit)
    for reach in (5.0, 700.0):
        ratio = times[10**6, reach] / times[10**5, reach]
        claim = f"logistic, growth from 1e5 to 1e6, margins within {reach:g}"
        report(claim, "12x", f"{ratio:.1f}x", ratio <= 12)
    for loss_type in ("hinge", "exponential", "correlation"):
        small, large = (
            time_of(loss_type, size, repeats) for size, repeats in ((10**5, 9), (10**6, 3))
        )
        claim = f"{loss_type}, Y = 1,000,000 ({large:.2f} s): growth from 1e5"
        report(claim, "12x", f"{large / small:.1f}x", large <= 12 * small)


def time_of(loss_type: str, responses: int, repeats: int, reach: float = 5.0) -> float:
    """Best wall time of value and gradient.

    Parameters
    ----------
    loss_type : str
        The penalty.
    responses, repeats : int
        Y, and how often to run.
    reach : float, default 5.0
        Range of the margins, in nats.

    Returns
    -------
    float
        Seconds.
    """
    tables = draw_tables(responses, reach, smallest=1e-12)
    return seconds(lambda: value_and_gradient(expected_penalty, tables, loss_type), repeats)


def report_against_dense() -> None:
    """Time SPIN's whole objective at 10,000 responses against the matrix of margins."""
    tables = draw_tables(10_000, 20.0, smallest=1e-12)
    dense = seconds(lambda: value_and_gradient(dense_expected_penalty, tables, "logistic"), 2)
    fast = seconds(lambda: value_and_gradient(expected_penalty, tables, "logistic"), 15)
    claim = f"logistic, Y = 10,000: dense {dense:.2f} s over fast {1e3 * fast:.1f} ms"
    report(claim, "100x", f"{dense / fast:.0f}x", dense >= 100 * fast)
    logits = tables[0].clone().requires_grad_()
    opponent, data = (TabularPolicy(table) for table in tables[1:])

    def objective() -> None:
        policy = TabularPolicy.from_logits(logits)
        torch.autograd.grad(spin_objective(policy, opponent, data, beta=1.0), logits)

    whole = seconds(objective, 15)
    claim = f"the same for spin_objective in the logits, {1e3 * whole:.1f} ms"
    report(claim, "100x", f"{dense / whole:.0f}x", dense >= 100 * whole)


def main() -> None:
    """Print the machine and the table."""
    torch.set_num_threads(min(CORES, os.cpu_count() or 1))
    load = ", ".join(f"{part:.2f}" for part in os.getloadavg())
    print(f"{os.cpu_count()} cores, load {load}; {torch.get_num_threads()} threads, float64")
    print(f"{'value and gradient of the expected penalty':<52} {'target':>9} {'measured':>11}")
    report_errors()
    report_times()
    report_against_dense()


if __name__ == "__main__":
    main()
