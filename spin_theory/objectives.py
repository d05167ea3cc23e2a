"""SPIN's objective (4.7) and T-SPIN's (7), exactly: sums over all pairs of responses.

Beside the value: the least value any policy can reach, and how far above it a policy is.
"""

import math

import torch
from torch import Tensor

from spin_theory.divergences import bhattacharyya
from spin_theory.hinge import hinge_minimum
from spin_theory.losses import penalty_named, require_beta
from spin_theory.pair_sums import dense_expected_penalty, expected_penalty
from spin_theory.policies import TabularPolicy, prompt_average, require_same_shape

__all__ = [
    "average_penalty",
    "optimal_value",
    "optimality_gap",
    "spin_objective",
    "tspin_objective",
]

DENSE_PAIRS = 2**18
"""Pairs up to which the matrix of all margins is faster than going without it."""


def spin_objective(
    policy: TabularPolicy,
    opponent: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    prompt_probs: Tensor | None = None,
) -> Tensor:
    r"""SPIN's end-to-end objective, the expectation of :func:`spin_loss` over all pairs.

    Parameters
    ----------
    policy, opponent, data : TabularPolicy, shape (X, Y)
        p_theta, p_t and p_data.
    beta : float
        Pull towards the opponent, > 0, no unit. Written :math:`\lambda` in [1]_.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`.
    prompt_probs : Tensor, shape (X,), optional
        Distribution q(x) of the prompts; uniform by default.

    Returns
    -------
    Tensor, shape ()
        The objective, float64, differentiable in a policy built from logits.

    Raises
    ------
    ValueError
        If shapes differ, `beta` is not finite and > 0, `loss_type` is unknown, or
        `prompt_probs` is not a distribution over the prompts.

    Notes
    -----
    Eq. (4.7) of [1]_, by :func:`expected_penalty`: memory O(X Y), time at most O(X Y log Y).

    .. math:: L(\theta, \theta_t) = E_{x \sim q, y \sim p_{data}, y' \sim p_{\theta_t}}
        \ell\left( \beta \log \frac{p_\theta(y|x)}{p_{\theta_t}(y|x)}
        - \beta \log \frac{p_\theta(y'|x)}{p_{\theta_t}(y'|x)} \right)

    References
    ----------
    .. [1] Chen et al., "Self-Play Fine-Tuning Converts Weak Language Models to Strong
       Language Models", ICML 2024, arXiv:2401.01335v3.

    Examples
    --------
    >>> data = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> opponent = TabularPolicy.from_probs([[0.9, 0.1]])
    >>> spin_objective(opponent, opponent, data, beta=1.0)  # log 2, whatever the data
    tensor(0.6931, dtype=torch.float64)
    """
    require_same_shape(policy=policy, opponent=opponent, data=data)
    require_beta(beta)
    advantages = beta * (policy.log_probs - opponent.log_probs)
    per_prompt = average_penalty(
        advantages, data.log_probs, opponent.log_probs, loss_type=loss_type
    )
    return prompt_average(per_prompt, prompt_probs)


def tspin_objective(
    policy: TabularPolicy,
    opponent: TabularPolicy,
    initial: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    history_weight: float,
    loss_type: str = "logistic",
    prompt_probs: Tensor | None = None,
) -> Tensor:
    r"""T-SPIN's end-to-end objective, the expectation of :func:`tspin_loss` over all triplets.

    Parameters
    ----------
    policy, opponent, initial, data : TabularPolicy, shape (X, Y)
        pi_theta, pi_t (who generates), pi_0 (who gave the proto responses) and p_data.
    beta : float
        Scale on log-prob differences, > 0, no unit. Written :math:`\alpha` in [1]_.
    history_weight : float
        Weight of the historical advantage, >= 0, no unit. Written :math:`\beta` in [1]_.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`.
    prompt_probs : Tensor, shape (X,), optional
        Distribution q(x) of the prompts; uniform by default.

    Returns
    -------
    Tensor, shape ()
        The objective, float64, differentiable in a policy built from logits.

    Raises
    ------
    ValueError
        If shapes differ, `beta` is not finite and > 0, `history_weight` is not finite and
        >= 0, `loss_type` is unknown, or `prompt_probs` is not a distribution.

    Notes
    -----
    Eq. (7) of [1]_. The triplet's loss is a sum of two terms in two responses each, so its
    expectation is a sum over pairs, not triplets; each by :func:`expected_penalty`.

    References
    ----------
    .. [1] Wang et al., "Triplets Better Than Pairs", NeurIPS 2025, arXiv:2601.08198v1.

    Examples
    --------
    >>> uniform = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> tspin_objective(  # log 2 * (1 + 0.5), as every margin is zero
    ...     uniform, uniform, uniform, uniform, beta=1.0, history_weight=0.5
    ... )
    tensor(1.0397, dtype=torch.float64)
    """
    require_same_shape(policy=policy, opponent=opponent, initial=initial, data=data)
    require_beta(beta)
    if not 0 <= history_weight < math.inf:
        raise ValueError(f"history_weight must be finite and >= 0, got {history_weight!r}")
    scores = beta * policy.log_probs
    current = average_penalty(scores, data.log_probs, opponent.log_probs, loss_type=loss_type)
    historical = average_penalty(scores, opponent.log_probs, initial.log_probs, loss_type=loss_type)
    return prompt_average(current + history_weight * historical, prompt_probs)


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
        The infimum of the objective, float64: a lower bound for every policy.

    Raises
    ------
    ValueError
        If shapes differ, `loss_type` is unknown, or `prompt_probs` is not a distribution.

    Notes
    -----
    Per prompt, with :math:`P = p_{data} \otimes p_t` and :math:`Q = p_t \otimes p_{data}`:
    logistic :math:`\log 2 - JS(P, Q)` (Lemma C.2 of [1]_); exponential :math:`BC(p_{data},
    p_t)^2`, the square of the Bhattacharyya coefficient; hinge by :func:`hinge_minimum`;
    correlation minus infinity, unless the two tables are equal and it is the constant 1.

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
    penalty_named(loss_type)
    if loss_type == "logistic":
        # log 2 - JS(P, Q) = E_P log[(P + Q)/P]: the expected penalty where f = log(p_data/p_t).
        log_ratios = data.log_probs - opponent.log_probs
        values = average_penalty(
            log_ratios, data.log_probs, opponent.log_probs, loss_type=loss_type
        )
    elif loss_type == "exponential":
        values = bhattacharyya(data, opponent).square()
    elif loss_type == "hinge":
        values, _ = hinge_minimum(data, opponent)
    else:
        equal = (data.log_probs == opponent.log_probs).all(dim=-1)
        values = torch.where(equal, 1.0, -math.inf).to(torch.float64)
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
    require_beta(beta)
    penalty_named(loss_type)
    if loss_type not in ("logistic", "exponential"):
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
    margins = _pairwise(beta * (policy.log_probs - opponent.log_probs))
    log_odds = _pairwise(data.log_probs - opponent.log_probs)  # log P/Q of each pair
    log_weights = data.log_probs[:, :, None] + opponent.log_probs[:, None, :]  # log P
    gap = _logistic_gap if loss_type == "logistic" else _exponential_gap
    return prompt_average(gap(margins, log_odds, log_weights).sum(dim=(-2, -1)), prompt_probs)


def _pairwise(scores: Tensor) -> Tensor:
    """Differences of (X, Y) scores: (X, Y, Y), entry [x, y, y'] = score(y) - score(y')."""
    return scores[:, :, None] - scores[:, None, :]


def average_penalty(
    scores: Tensor, log_real: Tensor, log_generated: Tensor, *, loss_type: str
) -> Tensor:
    """Average the penalty over pairs: :func:`expected_penalty`, or dense where that is faster.

    Parameters
    ----------
    scores, log_real, log_generated : Tensor, shape (X, Y)
        As for :func:`expected_penalty`.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}
        The penalty.

    Returns
    -------
    Tensor, shape (X,)
        The expected penalty of each prompt, differentiable in the scores.

    Raises
    ------
    ValueError
        As :func:`expected_penalty`.
    """
    penalty_named(loss_type)
    prompts, responses = scores.shape
    small = prompts * responses**2 <= DENSE_PAIRS
    dense = small and loss_type in ("logistic", "hinge")  # the others factorise
    average = dense_expected_penalty if dense else expected_penalty
    return average(scores, log_real, log_generated, loss_type=loss_type)


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
