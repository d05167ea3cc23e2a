"""The numbers that describe a game: multipliers, effective beta, cycles, how many iterations."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error, written_out
from spin_theory.claims.instances import Draw
from spin_theory.games.iterates import cycle_length, observed_multipliers
from spin_theory.games.rates import (
    effective_beta,
    iterations_to,
    mixing_multipliers,
    multiplier,
    predicted_policy,
)
from spin_theory.minima.closed_forms import closed_form_update
from spin_theory.policies import TabularPolicy, require_same_shape
from spin_theory.tolerances import EXACT, FEW_TERMS, REPEATED, ROUNDING

__all__ = ["CLAIMS", "check_cycle_length", "check_rates", "check_waiting_time"]

Numbers = NDArray[np.float64]

EXPONENTS = {"logistic": 1.0, "exponential": 0.5}
"""c of the closed form `p_t (p_data / p_t)^(c / beta)`."""


def check_rates(
    start: TabularPolicy,
    data: TabularPolicy,
    other: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    tolerance: float = REPEATED,
) -> Evidence:
    r"""Check multipliers, and what is read off iterates: effective beta and fitted multipliers.

    Parameters
    ----------
    start, data, other : TabularPolicy, shape (X, Y)
        p_t, p_data, and any policy that an inexact iteration may have reached.
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.
    tolerance : float, default 1e-11
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest relative error of the multiplier, of the sum and the product of the
        mixed game's, of the effective beta of an exact iteration and of an inexact one against
        a least-squares fit, and of the predicted policy's log-probs, and of multipliers fitted to
        deviations that were made with known ones.

    Raises
    ------
    ValueError
        If shapes differ, `beta` is not finite and > 0, or the penalty has no closed form.

    Examples
    --------
    >>> tables = [TabularPolicy.random(1, 5, seed=seed) for seed in range(3)]
    >>> check_rates(*tables, beta=0.1).holds
    True
    """
    require_same_shape(start=start, data=data, other=other)
    step = written_out(EXPONENTS, loss_type) / beta
    factor = multiplier(beta=beta, loss_type=loss_type)
    one, two = mixing_multipliers(beta=beta, loss_type=loss_type)
    errors = [
        abs(factor - (1 - step)) / (1 + step),
        abs(one + two - (1 - step / 2)) / (1 + step),
        abs(one * two - step / 2) / (1 + step),
    ]
    updated = closed_form_update(start, data, beta=beta, loss_type=loss_type)
    for reached in (updated, other):
        found = effective_beta(start, reached, data, loss_type=loss_type).numpy()
        fitted = [
            EXPONENTS[loss_type] / _share(*tables)
            for tables in zip(_table(start), _table(reached), _table(data), strict=True)
        ]
        # Of an angle near a right one, the beta is large and has lost its digits.
        errors.append(float(np.abs(1 / found - 1 / np.array(fitted)).max() / (1 + step)))
    exactly = effective_beta(start, updated, data, loss_type=loss_type)
    errors.append(float((beta / exactly - 1).abs().max()))
    policy = predicted_policy(start, data, betas=[beta, 2 * beta], loss_type=loss_type)
    power = (1 - step) * (1 - step / 2)
    expected = data.log_probs + power * (start.log_probs - data.log_probs)
    apart = policy.log_probs - torch.log_softmax(expected, dim=-1)
    errors.append(float(apart.abs().max() / (1 + expected.abs().max())))
    errors.append(_fitted(start, data, other))
    return Evidence(largest_error(errors), tolerance, {"multiplier": factor})


def check_waiting_time(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    betas: Sequence[float],
    epsilon: float,
    loss_type: str = "logistic",
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check how many iterations exact SPIN needs to stay near the data.

    Parameters
    ----------
    start, data : TabularPolicy, shape (X, Y)
        p_0 and p_data.
    betas : sequence of float
        The beta of several games, > 0, no unit; one for each game, all of its iterations.
    epsilon : float
        Total variation distance, the largest over prompts, above 1e-13.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: how far the iterate before the last one waited for is within epsilon, or the two
        after it are outside, by the powers of the multiplier written out; infinite where a game
        that does not contract is given a number, or one that does is given none. `contract` is
        how many of the games do.

    Raises
    ------
    ValueError
        If shapes differ, a parameter is out of its range, or the penalty has no closed form.

    Notes
    -----
    The distance from the data falls with the power's size on either side of 0, so two iterates
    within epsilon, an even and an odd one, are enough for all later ones.

    Examples
    --------
    >>> start, data = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> check_waiting_time(start, data, betas=[0.3, 0.7], epsilon=1e-6).holds
    True
    """
    real, ratio = _table(data), _table(start) - _table(data)

    def distance(power: float) -> float:
        logits = real + power * ratio
        highest = logits.max(-1, keepdims=True)
        probs = np.exp(logits - highest)
        probs = probs / probs.sum(-1, keepdims=True)
        return float(np.abs(probs - np.exp(real)).sum(-1).max()) / 2

    errors, contract = [], 0
    for beta in betas:
        factor = 1 - written_out(EXPONENTS, loss_type) / beta
        found = iterations_to(start, data, beta=beta, epsilon=epsilon, loss_type=loss_type)
        contracts = abs(factor) < 1 or distance(1.0) <= epsilon
        contract += contracts
        if found is None or not contracts:
            errors.append(math.inf if contracts or found is not None else 0.0)
            continue
        errors += [distance(factor ** (found + k)) - epsilon for k in (0, 1) if abs(factor) < 1]
        if found > 0:
            errors.append(epsilon - distance(factor ** (found - 1)))
    return Evidence(largest_error(errors), tolerance, {"contract": float(contract)})


def check_cycle_length(
    tables: Sequence[TabularPolicy], data: TabularPolicy, *, tolerance: float = 0.0
) -> Evidence:
    r"""Check the period that is read off a sequence of iterates.

    Parameters
    ----------
    tables : sequence of TabularPolicy, shape (X, Y)
        Different policies, at least two.
    data : TabularPolicy, shape (X, Y)
        A policy that others approach.
    tolerance : float, default 0.0
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: in how many sequences the period is wrong: the given tables repeated 1, 2, ...
        at a time, the same after a different beginning, and a slow approach to the data, which
        has no period.

    Examples
    --------
    >>> tables = [TabularPolicy.random(1, 5, seed=seed) for seed in range(3)]
    >>> check_cycle_length(tables[:2], tables[2]).holds
    True
    """
    wrong = 0
    for period in range(1, len(tables) + 1):
        cycle = list(tables[:period])
        # A game that never moved says nothing about where it would settle.
        wrong += cycle_length(cycle * 8) != (period if period > 1 else None)
        wrong += cycle_length([data, *tables, data] + cycle * 8) != period
    slow = [
        TabularPolicy.from_logits(data.log_probs + 0.9**t * (tables[0].log_probs - data.log_probs))
        for t in range(12)
    ]
    wrong += cycle_length(slow) is not None
    return Evidence(float(wrong), tolerance, {"sequences": 2.0 * len(tables) + 1})


def _table(policy: TabularPolicy) -> Numbers:
    return policy.log_probs.numpy()


def _share(opponent: Numbers, policy: Numbers, data: Numbers) -> float:
    """Least-squares share of the way to the data, of one prompt, weighted by the data."""
    root = np.sqrt(np.exp(data))
    design = np.stack([root * (data - opponent), root], axis=1)  # a constant is free
    return float(np.linalg.lstsq(design, root * (policy - opponent), rcond=None)[0][0])


def _fitted(one: TabularPolicy, limit: TabularPolicy, other: TabularPolicy) -> float:
    """Error of multipliers that are fitted to deviations made with 0.7 and -0.4."""
    pushes = [table.log_probs - limit.log_probs for table in (one, other)]
    pushes = [push - push.mean(dim=-1, keepdim=True) for push in pushes]
    pushes = [push / push.abs().max() for push in pushes]

    def made(*factors: float) -> list[TabularPolicy]:
        parts = list(zip(factors, pushes, strict=False))
        return [
            TabularPolicy.from_logits(
                limit.log_probs + sum(factor**t * push for factor, push in parts)
            )
            for t in range(5)
        ]

    single = observed_multipliers(made(0.7), limit)
    errors = [abs(single[0] - 0.7)]
    if limit.log_probs.shape[-1] > 2:  # two directions need three responses
        errors += [
            abs(found - right)
            for found, right in zip(
                observed_multipliers(made(0.7, -0.4), limit, order=2), (0.7, -0.4), strict=True
            )
        ]
    return max(errors)


def _waiting(draw: Draw) -> Evidence:
    far = float((draw.small_data.log_probs - draw.small_start.log_probs).abs().max())
    epsilon = 1e-4 * min(1.0, far)
    betas = (draw.beta, 0.5 + draw.beta)  # the second one always contracts
    return check_waiting_time(draw.small_start, draw.small_data, betas=betas, epsilon=epsilon)


CLAIMS = (
    Claim(
        name="multipliers, {loss_type}",
        statement="A multiplier is `1 - 1 / beta` for logistic and `1 - 1 / (2 beta)` for "
        "exponential. An effective beta is the one of the least-squares share of the way to the "
        "data, and a fit to iterates finds the multipliers that made them.",
        source="derived",
        function=check_rates,
        tolerance=REPEATED,
        check=lambda draw, _, loss_type: check_rates(
            draw.small_start,
            draw.small_data,
            draw.small_other,
            beta=draw.beta,
            loss_type=loss_type,
        ),
        loss_types=("logistic", "exponential"),
    ),
    Claim(
        name="iterations until near the data",
        statement="The number of iterations until exact SPIN stays within a distance of the data "
        "is the least one, and there is none where the log-ratio does not contract.",
        source="derived",
        function=check_waiting_time,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: _waiting(draw),
    ),
    Claim(
        name="length of a cycle",
        statement="The period that is read off iterates is that of a sequence which repeats, and a "
        "slow approach has none.",
        source="derived",
        function=check_cycle_length,
        tolerance=EXACT,
        check=lambda draw, *_: check_cycle_length(
            [draw.small_start, draw.small_other, draw.small_data], draw.small_data
        ),
    ),
)
