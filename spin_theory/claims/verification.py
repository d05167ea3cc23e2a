"""All claims checked on random instances, summarised claim by claim."""

import math
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch

from spin_theory.claims.instances import Instance, random_instance
from spin_theory.claims.table import CASES
from spin_theory.minima.closed_forms import Update, closed_form_update

__all__ = ["Verdict", "verify"]

CHUNK = 8  # instances that a worker process takes at a time


@dataclass(frozen=True)
class Verdict:
    """The outcome for one claim and penalty over all instances.

    Attributes
    ----------
    name : str
        Which theorem, which direction, which penalty.
    instances : int
        Number of instances checked.
    failures : int
        Number of instances in which the claim failed.
    worst_residual : float
        Largest residual; infinite if one was nan.
    tolerance : float
        How large a residual may be.
    hardest : Instance
        The instance with the largest residual.
    """

    name: str
    instances: int
    failures: int
    worst_residual: float
    tolerance: float
    hardest: Instance

    @property
    def holds(self) -> bool:
        """Whether the claim held in every instance."""
        return self.failures == 0


def verify(
    *,
    seeds: Iterable[int],
    update: Update = closed_form_update,
    jobs: int = 1,
    names: Sequence[str] | None = None,
) -> list[Verdict]:
    """Check every claim on the random instance of each seed.

    Parameters
    ----------
    seeds : iterable of int
        Seeds of the instances; at least one.
    update : Update, default closed_form_update
        The function that is claimed to give SPIN's minimiser.
    jobs : int, default 1
        Worker processes; with 1 everything runs in this process.
    names : sequence of str, optional
        Which of :data:`spin_theory.claims.table.CASES` to check; all of them by default.

    Returns
    -------
    list of Verdict
        One for each of :data:`spin_theory.claims.table.CASES`, in that order, or for each of
        `names`.

    Raises
    ------
    ValueError
        If there is no seed or `jobs` < 1.

    Examples
    --------
    >>> (verdict,) = verify(seeds=range(2), names=["5.4 closed form, logistic"])
    >>> verdict.instances, verdict.holds
    (2, True)
    """
    if not jobs >= 1:
        raise ValueError(f"jobs must be >= 1, got {jobs!r}")
    check = partial(_check, update=update, names=tuple(CASES if names is None else names))
    outcomes = [outcome for chunk in _checked(_chunks(seeds), check, jobs) for outcome in chunk]
    if not outcomes:
        raise ValueError("seeds must hold at least one seed, got none")
    verdicts = []
    for name in outcomes[0].residuals:
        hardest = max(outcomes, key=lambda outcome: outcome.residuals[name])
        verdicts.append(
            Verdict(
                name=name,
                instances=len(outcomes),
                failures=sum(name in outcome.failed for outcome in outcomes),
                worst_residual=hardest.residuals[name],
                tolerance=hardest.tolerances[name],
                hardest=hardest.instance,
            )
        )
    return verdicts


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


def _checked(
    chunks: Iterable[list[int]], check: Callable[[list[int]], list[_Outcome]], jobs: int
) -> Iterator[list[_Outcome]]:
    """Yield the outcomes chunk by chunk, in order, from here or from worker processes."""
    if jobs == 1:
        for chunk in chunks:
            yield check(chunk)
        return
    # Spawned, because a forked torch may wait forever for threads that exist only in its parent.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        pending = []
        for chunk in chunks:
            pending.append(pool.submit(check, chunk))
            if len(pending) > 2 * jobs:  # so that a bar around the seeds shows what is done
                yield pending.pop(0).result()
        for future in pending:
            yield future.result()


def _check(seeds: list[int], update: Update, names: tuple[str, ...]) -> list[_Outcome]:
    """Check claims on the instances of some seeds, in one thread: most tables are small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_outcome(seed, update, names) for seed in seeds]
    finally:
        torch.set_num_threads(threads)


def _outcome(seed: int, update: Update, names: tuple[str, ...]) -> _Outcome:
    draw = random_instance(seed)
    evidence = {name: CASES[name](draw, update) for name in names}
    return _Outcome(
        instance=draw.instance,
        residuals={
            name: math.inf if math.isnan(found.residual) else found.residual
            for name, found in evidence.items()
        },
        tolerances={name: found.tolerance for name, found in evidence.items()},
        failed=frozenset(name for name, found in evidence.items() if not found.holds),
    )
