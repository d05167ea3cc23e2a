"""What a check returns: whether the claim held, by how much, and the numbers it rests on."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from spin_theory.divergences import tv
from spin_theory.losses import penalty_named
from spin_theory.policies import TabularPolicy

__all__ = ["Evidence", "Finding", "errors_of_powers", "largest_error", "written_out"]

T = TypeVar("T")


class Finding(Protocol):
    """What every check returns, whatever else its evidence holds."""

    @property
    def residual(self) -> float:
        """How far the claim is from holding exactly; at least 0, or nan."""

    @property
    def tolerance(self) -> float:
        """How large the residual may be."""

    @property
    def holds(self) -> bool:
        """Whether the claim held."""


@dataclass(frozen=True)
class Evidence:
    """Outcome of one check of one claim.

    Attributes
    ----------
    residual : float
        How far the claim is from holding exactly, in the unit that the check names; at least 0.
    tolerance : float
        How large the residual may be.
    numbers : mapping of str to float
        What else was computed on the way, by name.

    Examples
    --------
    >>> Evidence(residual=1e-16, tolerance=1e-12).holds
    True
    >>> Evidence(residual=float("nan"), tolerance=1e-12).holds
    False
    """

    residual: float
    tolerance: float
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether the residual is within its tolerance; nan is not."""
        return bool(self.residual <= self.tolerance)


def largest_error(errors: Iterable[float]) -> float:
    """Reduce errors to the largest one, or to nan if one is nan, which `max` may pass over.

    Parameters
    ----------
    errors : iterable of float
        Each in the unit of the residual; one below 0 counts as 0.

    Returns
    -------
    float
        At least 0, or nan.

    Examples
    --------
    >>> largest_error([0.5, float("nan")]), largest_error([-1.0])
    (nan, 0.0)
    """
    found = [0.0, *errors]
    return math.nan if any(map(math.isnan, found)) else max(found)


def errors_of_powers(
    policies: Iterable[TabularPolicy],
    start: TabularPolicy,
    rest: TabularPolicy,
    *,
    powers: Iterable[float],
    scales: Iterable[float],
) -> list[float]:
    r"""Compare policies with powers of the log-ratio between a start and where it rests.

    Parameters
    ----------
    policies : iterable of TabularPolicy, shape (X, Y)
        The policies that were played.
    start, rest : TabularPolicy, shape (X, Y)
        p_0 and q.
    powers : iterable of float
        c of each policy, which is claimed to be :math:`\propto q (p_0/q)^c`.
    scales : iterable of float
        What rounding was multiplied by on the way to each, > 0.

    Returns
    -------
    list of float
        Largest total variation distance over prompts, over its scale.

    Examples
    --------
    >>> start, rest = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> max(errors_of_powers([start, rest], start, rest, powers=[1, 0], scales=[1, 1])) < 1e-15
    True
    """
    log_ratio = start.log_probs - rest.log_probs
    errors = []
    for policy, power, scale in zip(policies, powers, scales, strict=True):
        predicted = TabularPolicy.from_logits(rest.log_probs + power * log_ratio)
        errors.append(float(tv(policy, predicted).max()) / scale)
    return errors


def written_out(facts: Mapping[str, T], loss_type: str) -> T:
    """Look up a penalty's formula in a check, which does not use those of `losses`.

    Parameters
    ----------
    facts : mapping
        Penalty to what is written out for it.
    loss_type : str
        The penalty.

    Returns
    -------
    object
        The fact.

    Raises
    ------
    ValueError
        If the penalty is unknown, or nothing is written out for it yet.
    """
    penalty_named(loss_type)
    if loss_type not in facts:
        raise ValueError(f"this claim is not implemented for the penalty {loss_type!r}")
    return facts[loss_type]
