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

__all__ = ["CONFIDENCE", "FEWEST", "MEASURES", "Mean", "Result", "mean_of", "results"]

CONFIDENCE = 0.95
"""Of every interval."""
FEWEST = 3
"""Seeds of a verdict: two that agree by chance have an interval that is as narrow as they like."""
MEASURES = {"kl": -1, "valid": 1, "greedy": 1}
"""Numbers of a `Score` by which settings can be chosen: whether more is better, or less."""
_VERDICTS = {1: "better", 0: "no difference", -1: "worse"}


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
    """What it was chosen by, minus the base's, by seed."""
    from_control: Mean
    """The same minus that of continued SFT, by seed."""
    chosen_by: str = "kl"
    """A name of `MEASURES`."""

    @property
    def against_base(self) -> str:
        """Whether the arm is better than what it began with."""
        return self._verdict(self.from_base)

    @property
    def against_control(self) -> str:
        """Whether the arm is better than continued SFT."""
        return self._verdict(self.from_control)

    def _verdict(self, difference: Mean) -> str:
        if self.seeds < FEWEST:
            return "too few seeds"
        return _VERDICTS[difference.sign * MEASURES[self.chosen_by]]


def results(cells: Sequence[Cell], study: Study, *, by: str = "kl") -> list[Result]:
    """Choose and compare; of each base only seeds whose cells are all there count.

    The best setting of an arm has the best mean of a measure on validation prompts, and is the same
    for all seeds. A base without a whole seed is left out.
    """

    def chosen_by(ends: Sequence[Cell]) -> float:
        """Least where a setting is best; one that diverged never is."""
        mean = statistics.fmean(float(getattr(cell.validation, by)) for cell in ends)
        return math.inf if math.isnan(mean) else -MEASURES[by] * mean

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
            arm.name: min((of[arm.name, *setting] for setting in settings), key=chosen_by)
            for arm in study.arms
        }
        for ends in (of[start], *best.values()):
            found.append(_result(ends, of[start], best[CONTROL], by))
    return found


def _result(
    ends: Sequence[Cell], start: Sequence[Cell], control: Sequence[Cell], by: str
) -> Result:
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
        from_base=_difference(ends, start, by),
        from_control=_difference(ends, control, by),
        chosen_by=by,
    )


def _difference(ones: Sequence[Cell], others: Sequence[Cell], by: str) -> Mean:
    pairs = zip(ones, others, strict=True)
    return mean_of([getattr(one.test, by) - getattr(other.test, by) for one, other in pairs])
