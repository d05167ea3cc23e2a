"""Which policy of a run is the best by a held-out number, and when to stop looking."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from spin_train.config.schema import SelectionConfig
from spin_train.errors import UserError
from spin_train.run.policies import Policy

__all__ = ["Judged", "best_of", "iterations_wanted", "judged"]


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
                f"selection.metric: {policy.evaluation} has no number {selection.metric!r}; "
                f"choose one of {', '.join(sorted(numbers))}"
            )
    return found


def best_of(policies: Sequence[Policy], selection: SelectionConfig) -> Judged | None:
    """Best policy so far, the earliest of equals; None before the first evaluation."""
    return min(
        judged(policies, selection),
        key=lambda policy: _cost(selection, policy.value),
        default=None,
    )


def iterations_wanted(
    policies: Sequence[Policy], selection: SelectionConfig, iterations: int
) -> int:
    """How many iterations to play, given what is evaluated so far.

    All `iterations`, or fewer if `selection.patience` iterations in a row brought no better policy.
    """
    if selection.patience is None:
        return iterations
    best, since = math.inf, 0
    for found in judged(policies, selection):
        cost = _cost(selection, found.value)
        since = 0 if cost < best else since + 1
        best = min(best, cost)
        if since >= selection.patience and found.policy.iteration > 0:
            return found.policy.iteration
    return iterations


def _cost(selection: SelectionConfig, value: float) -> float:
    if math.isnan(value):
        return math.inf
    return value if selection.better == "min" else -value
