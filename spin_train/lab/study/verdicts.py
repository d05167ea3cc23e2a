"""What a study says: the best setting of each arm, means over seeds, and paired differences.

Nothing is reported on the prompts that an arm's setting was chosen by.
"""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from spin_train.lab.study.arms import CONTROL
from spin_train.lab.study.cells import Cell, Study

__all__ = ["CONFIDENCE", "Mean", "Result", "mean_of", "results"]

CONFIDENCE = 0.95
"""Of every interval."""


@dataclass(frozen=True)
class Mean:
    """A mean over seeds with half the width of its interval, by Student's t."""

    value: float
    half: float
    """nan for one seed."""

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval is on one side of 0, else 0."""
        return (self.value - self.half > 0) - (self.value + self.half < 0)


def mean_of(values: Sequence[float]) -> Mean:
    """Average numbers, one per seed."""
    if len(values) < 2:
        return Mean(values[0], math.nan)
    from scipy.stats import t  # half a second to import

    reach = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    error = statistics.stdev(values) / math.sqrt(len(values))
    return Mean(statistics.fmean(values), reach * error)


@dataclass(frozen=True)
class Result:
    """An arm from a base at its best setting, on test prompts; or the base, `arm` None."""

    base: str
    arm: str | None
    setting: str
    """Learning rate and steps per iteration."""
    seeds: int
    kl: Mean
    valid: Mean
    greedy: Mean
    displacement: Mean
    from_base: Mean
    """KL minus the base's, by seed."""
    from_control: Mean
    """KL minus that of continued SFT, by seed."""

    @property
    def against_base(self) -> str:
        """Whether the arm is better than what it began with."""
        return _verdict(self.from_base)

    @property
    def against_control(self) -> str:
        """Whether the arm is better than continued SFT."""
        return _verdict(self.from_control)


def _verdict(difference: Mean) -> str:
    if math.isnan(difference.half):
        return "one seed"
    return {-1: "better", 0: "no difference", 1: "worse"}[difference.sign]


def results(cells: Sequence[Cell], study: Study) -> list[Result]:
    """Choose and compare; of each base only seeds whose cells are all there count.

    The best setting of an arm has the least mean KL on validation prompts, and is the same for all
    seeds. A base without a whole seed is left out.
    """
    known = {cell.key: cell for cell in cells}
    settings = list(itertools.product(study.rates, study.steps))
    start = (None, 0.0, 0)
    found = []
    for base in study.bases:
        wanted = [start, *((arm.name, *setting) for arm in study.arms for setting in settings)]
        seeds = [
            seed
            for seed in range(study.seeds)
            if all((base.name, seed, *key) in known for key in wanted)
        ]
        if not seeds:
            continue
        of = {key: [known[base.name, seed, *key] for seed in seeds] for key in wanted}
        best = {
            arm.name: min((of[arm.name, *setting] for setting in settings), key=_chosen_by)
            for arm in study.arms
        }
        for ends in (of[start], *best.values()):
            found.append(_result(ends, of[start], best[CONTROL]))
    return found


def _chosen_by(cells: Sequence[Cell]) -> float:
    mean = statistics.fmean(cell.validation.kl for cell in cells)
    return math.inf if math.isnan(mean) else mean


def _result(ends: Sequence[Cell], start: Sequence[Cell], control: Sequence[Cell]) -> Result:
    setting = f"{ends[0].learning_rate:g}, {ends[0].steps}" if ends[0].arm else "as it is"
    return Result(
        base=ends[0].base,
        arm=ends[0].arm,
        setting=setting,
        seeds=len(ends),
        kl=mean_of([cell.test.kl for cell in ends]),
        valid=mean_of([cell.test.valid for cell in ends]),
        greedy=mean_of([cell.test.greedy for cell in ends]),
        displacement=mean_of([cell.displacement for cell in ends]),
        from_base=_difference(ends, start),
        from_control=_difference(ends, control),
    )


def _difference(ones: Sequence[Cell], others: Sequence[Cell]) -> Mean:
    return mean_of([one.test.kl - other.test.kl for one, other in zip(ones, others, strict=True)])
