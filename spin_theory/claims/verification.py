"""Random instances of all claims, checked and summarised claim by claim."""

import math
import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice

import torch

from spin_theory.claims.instances import Instance, random_instance
from spin_theory.claims.table import all_claims
from spin_theory.minima.closed_forms import Update, closed_form_update

__all__ = ["Claim", "verify"]

CHUNK = 8  # instances that a worker process takes at a time


@dataclass(frozen=True)
class Claim:
    """A claim over all instances.

    Attributes
    ----------
    name : str
        Which theorem, which direction, which penalty.
    instances : int
        How many were checked.
    failures : int
        In how many the check said no.
    worst_residual : float
        The largest residual.
    tolerance : float
        What a residual may be.
    hardest : Instance
        Where the residual was largest.
    """

    name: str
    instances: int
    failures: int
    worst_residual: float
    tolerance: float
    hardest: Instance

    @property
    def holds(self) -> bool:
        """Whether no check said no."""
        return self.failures == 0


def verify(
    *, seeds: Iterable[int], update: Update = closed_form_update, jobs: int = 1
) -> list[Claim]:
    """Check every claim on the random instance of each seed.

    Parameters
    ----------
    seeds : iterable of int
        Seeds of the instances; at least one.
    update : Update, default closed_form_update
        What is claimed to be SPIN's minimiser.
    jobs : int, default 1
        Worker processes; 1 is this one.

    Returns
    -------
    list of Claim
        All claims of :func:`spin_theory.claims.table.all_claims`, in its order.

    Raises
    ------
    ValueError
        If there is no seed or `jobs` < 1.

    Examples
    --------
    >>> all(claim.holds for claim in verify(seeds=range(2)))
    True
    """
    if not jobs >= 1:
        raise ValueError(f"jobs must be >= 1, got {jobs!r}")
    outcomes = [outcome for chunk in _checked(_chunks(seeds), update, jobs) for outcome in chunk]
    if not outcomes:
        raise ValueError("seeds must hold at least one, got none")
    claims = []
    for name in outcomes[0].residuals:
        hardest = max(outcomes, key=lambda outcome: outcome.residuals[name])
        claims.append(
            Claim(
                name=name,
                instances=len(outcomes),
                failures=sum(name in outcome.failed for outcome in outcomes),
                worst_residual=hardest.residuals[name],
                tolerance=hardest.tolerances[name],
                hardest=hardest.instance,
            )
        )
    return claims


@dataclass(frozen=True)
class _Outcome:
    """All claims on one instance."""

    instance: Instance
    residuals: dict[str, float]
    tolerances: dict[str, float]
    failed: frozenset[str]


def _chunks(seeds: Iterable[int]) -> Iterator[list[int]]:
    iterator = iter(seeds)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


def _checked(chunks: Iterable[list[int]], update: Update, jobs: int) -> Iterator[list[_Outcome]]:
    """Outcomes chunk by chunk, in order, here or in worker processes."""
    if jobs == 1:
        for chunk in chunks:
            yield _check(chunk, update)
        return
    # Spawned: a forked torch may hang in the threads that it has not got.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        pending = []
        for chunk in chunks:
            pending.append(pool.submit(_check, chunk, update))
            if len(pending) > 2 * jobs:  # so that a bar around the seeds shows what is done
                yield pending.pop(0).result()
        for future in pending:
            yield future.result()


def _check(seeds: list[int], update: Update) -> list[_Outcome]:
    """Check all claims on the instances of some seeds, in one thread: most tables are small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_outcome(seed, update) for seed in seeds]
    finally:
        torch.set_num_threads(threads)


def _outcome(seed: int, update: Update) -> _Outcome:
    draw = random_instance(seed)
    evidence = {name: check(draw, update) for name, check in all_claims().items()}
    return _Outcome(
        instance=draw.instance,
        residuals={
            name: math.inf if math.isnan(found.residual) else found.residual
            for name, found in evidence.items()
        },
        tolerances={name: found.tolerance for name, found in evidence.items()},
        failed=frozenset(name for name, found in evidence.items() if not found.holds),
    )
