"""Which policy of a run is the best by a held-out number, and when to stop early."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from spin_train.config.sections import SelectionConfig
from spin_train.errors import UserError
from spin_train.run.policies import Policy

__all__ = ["Judged", "best_of", "better_control", "iterations_wanted", "judged"]

ROUNDING = 1e-6
"""Relative: float32 rounds at 6e-8, so sums of log-probs in another order differ by a few 1e-7."""


@dataclass(frozen=True)
class Judged:
    """A policy with the number that it is judged by."""

    policy: Policy
    value: float
    """Its `selection.metric`."""

    @property
    def name(self) -> str:
        """Name of the policy: p_0, p_1, ..."""
        return self.policy.name


def judged(policies: Sequence[Policy], selection: SelectionConfig) -> list[Judged]:
    """Policies of self-play that are evaluated, in order, each with its number.

    p_0 is left out where the metric takes an opponent, which p_0 has none of. A self-play
    evaluation that lacks the metric is a `UserError`.
    """
    found = []
    for policy in policies:
        numbers = policy.numbers
        if policy.control or numbers is None:
            continue
        if policy.iteration == 0 and selection.metric == "loss":
            continue  # of SFT: not comparable with the loss of self-play
        value = numbers.get(selection.metric)
        if isinstance(value, int | float):
            found.append(Judged(policy, value))
        elif policy.iteration > 0:
            raise UserError(
                f"selection.metric: {policy.evaluation} has no value {selection.metric!r}; "
                f"choose one of {', '.join(sorted(numbers))}"
            )
    return found


def best_of(policies: Sequence[Policy], selection: SelectionConfig) -> Judged | None:
    """Best policy so far; of policies that differ by rounding alone, the earliest."""
    best = None
    for found in judged(policies, selection):
        if best is None or _is_better(selection, found.value, best.value):
            best = found
    return best


def better_control(policies: Sequence[Policy], selection: SelectionConfig) -> Judged | None:
    """Best control, if it is better than the best policy of self-play by more than rounding.

    None where the metric takes self-play's own loss, which a control does not have.
    """
    best = best_of(policies, selection)
    if best is None or selection.metric == "loss":
        return None
    found = None
    for policy in policies:
        value = (policy.numbers or {}).get(selection.metric) if policy.control else None
        if isinstance(value, int | float) and _is_better(
            selection, value, found.value if found else best.value
        ):
            found = Judged(policy, value)
    return found


def iterations_wanted(
    policies: Sequence[Policy], selection: SelectionConfig, iterations: int
) -> int:
    """How many iterations to play, given what is evaluated so far.

    All `iterations`, or fewer if `selection.patience` iterations in a row brought no better policy.
    """
    if selection.patience is None:
        return iterations
    best, since = math.nan, 0
    for found in judged(policies, selection):
        better = _is_better(selection, found.value, best)
        best, since = (found.value, 0) if better else (best, since + 1)
        if since >= selection.patience and found.policy.iteration > 0:
            return found.policy.iteration
    return iterations


def _is_better(selection: SelectionConfig, value: float, best: float) -> bool:
    """Whether a value is better by more than rounding; what is not finite is worse than any."""
    if not (math.isfinite(value) and math.isfinite(best)):
        return math.isfinite(value)
    differs = not math.isclose(value, best, rel_tol=ROUNDING)
    return differs and (value < best) == (selection.better == "min")
