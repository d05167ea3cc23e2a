"""Held-out NLL per token of policies and their differences, with intervals over prompts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas

from spin_train.run.policies import Policy
from spin_train.stages.evaluate import FEWEST_FOR_ERRORS

__all__ = [
    "CONFIDENCE",
    "Estimate",
    "margins_by_prompt",
    "nll",
    "nll_difference",
    "right_answers",
]

CONFIDENCE = 0.95
"""Of every interval here."""


@dataclass(frozen=True)
class Estimate:
    """A number from held-out prompts, with an interval where there are enough of them."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def sign(self) -> int:
        """1 or -1 where the interval is on one side of 0, else 0."""
        if self.low is None or self.high is None:
            return 0
        return (self.low > 0) - (self.high < 0)


def nll(policy: Policy) -> Estimate | None:
    """NLL per token of the human responses, nats; None before the policy is evaluated."""
    numbers = policy.numbers
    if numbers is None or "real_nll_per_token" not in numbers:
        return None
    rows = _rows(policy.evaluation_by_example)
    if rows is None:  # evaluated before examples were written
        return Estimate(numbers["real_nll_per_token"])
    return _ratio(-rows["real_logps"], rows["real_tokens"], rows["prompt"])


def nll_difference(
    policy: Policy, other: Policy, same: Mapping[int, int] | None = None
) -> Estimate | None:
    """NLL per token of a policy minus another's, nats, on the same responses.

    The interval is of the differences response by response. That is narrower than the intervals of
    the two numbers suggest, as what is hard for one policy is hard for the other. None where one of
    them is not evaluated. For a policy of another run `same` says which rows are the same: the
    number of a row in the other run's data, and its number here.
    """
    both = [_rows(one.evaluation_by_example) for one in (policy, other)]
    if both[0] is None or both[1] is None:
        found = [nll(one) for one in (policy, other)]
        if found[0] is None or found[1] is None or same is not None:
            return None
        return Estimate(found[0].value - found[1].value)
    theirs = both[1]["real_logps"].rename("other")
    if same is not None:
        theirs = theirs[theirs.index.isin(list(same))].rename(index=dict(same))
    rows = both[0].join(theirs, how="inner")
    if rows.empty:
        return None
    return _ratio(rows["other"] - rows["real_logps"], rows["real_tokens"], rows["prompt"])


def right_answers(policy: Policy) -> Estimate | None:
    """Share of right answers by greedy decoding, with Wilson's interval; None without any."""
    found = policy.answers or {}
    if "exact_match" not in found:
        return None
    return Estimate(*(found[f"exact_match{end}"] for end in ("", "_low", "_high")))


def margins_by_prompt(policy: Policy) -> dict[int, float]:
    """Mean margin of a policy by the number of the row, nats; empty where it has none."""
    path = policy.evaluation_by_example
    if not path.is_file():
        return {}
    frame = pandas.read_parquet(path)
    if "margin" not in frame:
        return {}
    means = frame.groupby("prompt_id")["margin"].mean()
    return {int(row): float(value) for row, value in means.items()}


def _rows(path: Path) -> pandas.DataFrame | None:
    """Read one line per held-out row; several samples of it have the same human response."""
    if not path.is_file():
        return None
    frame = pandas.read_parquet(path, columns=["prompt_id", "prompt", "real_logps", "real_tokens"])
    return frame.groupby("prompt_id").first()


def _ratio(sums: pandas.Series, tokens: pandas.Series, prompts: pandas.Series) -> Estimate:
    """Sum over rows per token, with the interval of a ratio (delta method, Student's t).

    Rows of one prompt are not independent, so what is independent is the sum of each prompt.
    """
    value = float(sums.sum() / tokens.sum())
    residuals = (sums - value * tokens).groupby(prompts).sum().to_numpy()
    count = len(residuals)
    if count < FEWEST_FOR_ERRORS or not math.isfinite(value):
        return Estimate(value)
    from scipy.stats import t  # half a second to import

    error = np.sqrt(count / (count - 1) * (residuals**2).sum()) / tokens.sum()
    reach = float(t.ppf((1 + CONFIDENCE) / 2, count - 1) * error)
    return Estimate(value, value - reach, value + reach)
