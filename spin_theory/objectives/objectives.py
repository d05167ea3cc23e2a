"""SPIN's objective (4.7) and T-SPIN's (7), exactly: sums over all pairs of responses."""

from torch import Tensor

from spin_theory.losses import penalty_named, require_beta, require_weight
from spin_theory.objectives.pair_sums import (
    FACTORISED,
    expected_penalty,
    small_expected_penalty,
)
from spin_theory.policies import TabularPolicy, prompt_average, require_same_shape

__all__ = ["average_penalty", "spin_objective", "tspin_objective"]

DENSE_PAIRS = 2**18
"""Pairs up to which the matrix of all margins is faster than going without it."""


def spin_objective(
    policy: TabularPolicy,
    opponent: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    sft_weight: float = 0.0,
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
    sft_weight : float, default 0.0
        Weight of the expected negative log-prob of real responses, which is added, >= 0, per nat.
    prompt_probs : Tensor, shape (X,), optional
        Distribution q(x) of the prompts; uniform by default.

    Returns
    -------
    Tensor, shape ()
        The objective, float64, differentiable in a policy built from logits.

    Raises
    ------
    ValueError
        If shapes differ, `beta` is not finite and > 0, `sft_weight` is not finite and >= 0,
        `loss_type` is unknown, or `prompt_probs` is not a distribution over the prompts.

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
    beta, sft_weight = require_beta(beta), require_weight("sft_weight", sft_weight)
    advantages = beta * (policy.log_probs - opponent.log_probs)
    per_prompt = average_penalty(
        advantages, data.log_probs, opponent.log_probs, loss_type=loss_type
    )
    return prompt_average(_with_sft(per_prompt, policy, data, sft_weight), prompt_probs)


def tspin_objective(
    policy: TabularPolicy,
    opponent: TabularPolicy,
    initial: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    history_weight: float,
    loss_type: str = "logistic",
    sft_weight: float = 0.0,
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
    sft_weight : float, default 0.0
        Weight of the expected negative log-prob of real responses, which is added, >= 0, per nat.
    prompt_probs : Tensor, shape (X,), optional
        Distribution q(x) of the prompts; uniform by default.

    Returns
    -------
    Tensor, shape ()
        The objective, float64, differentiable in a policy built from logits.

    Raises
    ------
    ValueError
        If shapes differ, `beta` is not finite and > 0, a weight is not finite and >= 0,
        `loss_type` is unknown, or `prompt_probs` is not a distribution.

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
    beta, history_weight = require_beta(beta), require_weight("history_weight", history_weight)
    sft_weight = require_weight("sft_weight", sft_weight)
    scores = beta * policy.log_probs  # (X, Y); no reference, so no log-ratio
    current = average_penalty(scores, data.log_probs, opponent.log_probs, loss_type=loss_type)
    historical = average_penalty(scores, opponent.log_probs, initial.log_probs, loss_type=loss_type)
    per_prompt = current + history_weight * historical
    return prompt_average(_with_sft(per_prompt, policy, data, sft_weight), prompt_probs)


def average_penalty(
    scores: Tensor, log_real: Tensor, log_generated: Tensor, *, loss_type: str
) -> Tensor:
    """Average the penalty over pairs, by the faster of the dense sum and :func:`expected_penalty`.

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
    dense = small and loss_type not in FACTORISED
    average = small_expected_penalty if dense else expected_penalty
    return average(scores, log_real, log_generated, loss_type=loss_type)


def _with_sft(
    per_prompt: Tensor, policy: TabularPolicy, data: TabularPolicy, sft_weight: float
) -> Tensor:
    """Add the expected negative log-prob of real responses, weighted, (X,)."""
    if sft_weight == 0:
        return per_prompt
    return per_prompt - sft_weight * (data.probs * policy.log_probs).sum(dim=-1)
