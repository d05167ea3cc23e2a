"""The least value that any policy reaches, and how far above it a given policy is."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from spin_theory.divergences import bhattacharyya, tv
from spin_theory.losses import penalty_named, require_beta
from spin_theory.minima.certificates import certify
from spin_theory.minima.hinge import hinge_minimum
from spin_theory.minima.newton import newton
from spin_theory.minima.rounding import rounded_down
from spin_theory.objectives.objectives import average_penalty, spin_objective
from spin_theory.policies import (
    TabularPolicy,
    pair_log_probs,
    pairwise_differences,
    prompt_average,
    require_same_shape,
)
from spin_theory.tolerances import EQUAL_TV

__all__ = ["optimal_value", "optimality_gap"]


def optimal_value(
    opponent: TabularPolicy,
    data: TabularPolicy,
    *,
    loss_type: str = "logistic",
    prompt_probs: Tensor | None = None,
) -> Tensor:
    r"""Least value that (4.7) takes over all policies, whatever beta is.

    Parameters
    ----------
    opponent, data : TabularPolicy, shape (X, Y)
        p_t and p_data.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`.
    prompt_probs : Tensor, shape (X,), optional
        Distribution q(x) of the prompts; uniform by default.

    Returns
    -------
    Tensor, shape ()
        The infimum of the objective, float64, rounded down: a lower bound for every policy.

    Raises
    ------
    ValueError
        If shapes differ, `loss_type` is unknown, or `prompt_probs` is not a distribution.

    Notes
    -----
    Per prompt, with :math:`P = p_{data} \otimes p_t` and :math:`Q = p_t \otimes p_{data}`:
    logistic :math:`\log 2 - JS(P, Q)` (Lemma C.2 of [1]_); exponential :math:`BC(p_{data},
    p_t)^2`, the square of the Bhattacharyya coefficient; hinge by :func:`hinge_minimum`;
    correlation minus infinity, unless the two tables are equal but for rounding and it is the
    constant 1. The value of any other penalty is what :func:`certify` proves at Newton's minimum.

    References
    ----------
    .. [1] Chen et al., "Self-Play Fine-Tuning Converts Weak Language Models to Strong
       Language Models", ICML 2024, arXiv:2401.01335v3.

    Examples
    --------
    >>> opponent = TabularPolicy.from_probs([[0.2, 0.8]])
    >>> optimal_value(opponent, TabularPolicy.from_probs([[0.8, 0.2]]), loss_type="exponential")
    tensor(0.6400, dtype=torch.float64)
    """
    require_same_shape(opponent=opponent, data=data)
    penalty = penalty_named(loss_type)
    if loss_type in _LEAST_VALUES:
        values = _LEAST_VALUES[loss_type](data, opponent)
        reach = data.log_probs.abs().amax(dim=-1) + opponent.log_probs.abs().amax(dim=-1)
        values = rounded_down(values, values, reach)
    elif penalty.bounded_below:
        log_weights = pair_log_probs(data.log_probs, opponent.log_probs).detach()
        best = newton(log_weights, loss_type=loss_type).scores
        values = certify(log_weights, best, loss_type=loss_type).lower_bound
    else:
        equal = tv(data, opponent) <= EQUAL_TV
        at_zero = penalty(torch.zeros_like(equal, dtype=torch.float64))
        values = torch.where(equal, at_zero, -math.inf)
    return prompt_average(values, prompt_probs)


def optimality_gap(
    policy: TabularPolicy,
    opponent: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    prompt_probs: Tensor | None = None,
) -> Tensor:
    r"""How far a policy's objective is above the least possible one.

    Parameters
    ----------
    policy, opponent, data : TabularPolicy, shape (X, Y)
        p_theta, p_t and p_data.
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`.
    prompt_probs : Tensor, shape (X,), optional
        Distribution q(x) of the prompts; uniform by default.

    Returns
    -------
    Tensor, shape ()
        :func:`spin_objective` minus :func:`optimal_value`, float64, at least 0 (hinge and
        correlation: up to rounding).

    Raises
    ------
    ValueError
        As :func:`spin_objective`.

    Notes
    -----
    Logistic and exponential gaps are sums of nonnegative terms, not a subtraction, so gaps far
    below the rounding of the objective keep their digits. Logistic: :math:`E_M KL(Ber(\eta) \|
    Ber(\sigma(\mathrm{margin})))` with :math:`M = (P + Q)/2`, :math:`\eta = P/(P + Q)`.
    Exponential: Lagrange's identity for the Cauchy-Schwarz inequality behind :math:`BC^2`.

    Examples
    --------
    >>> opponent = TabularPolicy.from_probs([[0.2, 0.8]])
    >>> data = TabularPolicy.from_probs([[0.8, 0.2]])
    >>> optimality_gap(data, opponent, data, beta=1.0)  # at beta = 1 the data are the minimiser
    tensor(0., dtype=torch.float64)
    """
    require_same_shape(policy=policy, opponent=opponent, data=data)
    beta = require_beta(beta)
    penalty_named(loss_type)
    if loss_type not in _GAPS:
        value = spin_objective(
            policy,
            opponent,
            data,
            beta=beta,
            loss_type=loss_type,
            prompt_probs=prompt_probs,
        )
        least = optimal_value(opponent, data, loss_type=loss_type, prompt_probs=prompt_probs)
        return value - least
    margins = pairwise_differences(beta * (policy.log_probs - opponent.log_probs))  # (X, Y, Y)
    log_odds = pairwise_differences(data.log_probs - opponent.log_probs)  # log P/Q of each pair
    log_weights = pair_log_probs(data.log_probs, opponent.log_probs)  # log P
    gaps = _GAPS[loss_type](margins, log_odds, log_weights)
    return prompt_average(gaps.sum(dim=(-2, -1)), prompt_probs)


def _logistic_least(data: TabularPolicy, opponent: TabularPolicy) -> Tensor:
    """Average the penalty where f = log(p_data/p_t): E_P log[(P + Q)/P] = log 2 - JS(P, Q)."""
    log_ratios = data.log_probs - opponent.log_probs
    return average_penalty(log_ratios, data.log_probs, opponent.log_probs, loss_type="logistic")


_LEAST_VALUES: dict[str, Callable[[TabularPolicy, TabularPolicy], Tensor]] = {
    "logistic": _logistic_least,
    "exponential": lambda data, opponent: bhattacharyya(data, opponent).square(),
    "hinge": lambda data, opponent: hinge_minimum(data, opponent)[0],
}
"""Least values (X,) of SPIN's objective by penalty, of data and opponent."""


def _logistic_gap(margins: Tensor, log_odds: Tensor, log_weights: Tensor) -> Tensor:
    """(P + Q)/2 * KL(Ber(eta) || Ber(sigma(margin))), elementwise."""
    eta, other = torch.sigmoid(log_odds), torch.sigmoid(-log_odds)
    excess = margins - log_odds
    # KL = eta [l(margin) - l(log_odds)] + other [l(-margin) - l(-log_odds)]; where the two are
    # close, each bracket is a log1p of the excess, which keeps the digits.
    near = excess.clamp(-1, 1)
    close = eta * torch.log1p(other * torch.expm1(-near)) + other * torch.log1p(
        eta * torch.expm1(near)
    )
    penalty = penalty_named("logistic")
    far = eta * (penalty(margins) - penalty(log_odds)) + other * (
        penalty(-margins) - penalty(-log_odds)
    )
    # log(P + Q) = log P + log(1 + Q/P)
    weights = (log_weights + penalty(log_odds)).exp() / 2
    return weights * torch.where(excess.abs() <= 1, close, far).clamp(min=0)  # but for rounding


def _exponential_gap(margins: Tensor, log_odds: Tensor, log_weights: Tensor) -> Tensor:
    """Half of (a_y b_y' - a_y' b_y)^2 with a^2 = p_data exp(-f), b^2 = p_t exp(f), elementwise."""
    # a_y b_y' = sqrt(P exp(-margin)), a_y' b_y = sqrt(Q exp(margin)): logs differ by `excess`.
    excess = margins - log_odds / 2
    larger = ((log_weights - log_odds / 2 + excess.abs()) / 2).exp()
    return (larger * torch.expm1(-excess.abs())).square() / 2


_GAPS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "logistic": _logistic_gap,
    "exponential": _exponential_gap,
}
"""Gaps of each pair by penalty, from margins, log odds and log weights (X, Y, Y)."""
