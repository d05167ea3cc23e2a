"""The losses of SPIN, T-SPIN and SFT on log-probs of real, generated and proto responses."""

from torch import Tensor

from spin_theory.losses.arguments import require_beta, require_one_shape, require_weight
from spin_theory.losses.penalties import penalty_named

__all__ = ["sft_loss", "spin_loss", "tspin_loss", "with_sft"]


def spin_loss(
    *,
    policy_real_logps: Tensor,
    policy_generated_logps: Tensor,
    opponent_real_logps: Tensor,
    opponent_generated_logps: Tensor,
    beta: float,
    loss_type: str = "logistic",
    sft_weight: float = 0.0,
) -> Tensor:
    r"""Score how well the policy separates real from generated responses.

    Parameters
    ----------
    policy_real_logps, policy_generated_logps : Tensor, shape (...)
        Log-probs of the real response :math:`y` and the generated response :math:`y'`
        under the policy, in nats, summed (not averaged) over tokens.
    opponent_real_logps, opponent_generated_logps : Tensor, shape (...)
        The same under the frozen opponent that generated :math:`y'`.
    beta : float
        Pull towards the opponent, > 0, no unit. Written :math:`\lambda` in [1]_.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell` of Assumption 5.1.
    sft_weight : float, default 0.0
        Weight of :func:`sft_loss` of the real response, added to the loss, >= 0, per nat. It is
        not part of [1]_.

    Returns
    -------
    Tensor, shape (...)
        Loss of each pair; the caller reduces it.

    Raises
    ------
    ValueError
        If shapes differ (nothing broadcasts), `beta` is not finite and > 0, `sft_weight` is not
        finite and >= 0, or `loss_type` is unknown.

    Notes
    -----
    Eq. (4.7) of [1]_ for one pair. The bracket is the margin; at :math:`\theta = \theta_t` it
    is zero and the loss, without an SFT term, is :math:`\ell(0)`.

    .. math:: \ell\left( \beta \left[ \log \frac{p_\theta(y|x)}{p_{\theta_t}(y|x)}
        - \log \frac{p_\theta(y'|x)}{p_{\theta_t}(y'|x)} \right] \right)

    References
    ----------
    .. [1] Chen et al., "Self-Play Fine-Tuning Converts Weak Language Models to Strong
       Language Models", ICML 2024, arXiv:2401.01335v3.

    Examples
    --------
    >>> import torch
    >>> logps = torch.tensor([-3.0], dtype=torch.float64)
    >>> spin_loss(
    ...     policy_real_logps=logps + 1.0,
    ...     policy_generated_logps=logps,
    ...     opponent_real_logps=logps,
    ...     opponent_generated_logps=logps,
    ...     beta=1.0,
    ...     loss_type="exponential",
    ... )
    tensor([0.3679], dtype=torch.float64)
    """
    real, generated, opponent_real, opponent_generated = require_one_shape(
        policy_real_logps=policy_real_logps,
        policy_generated_logps=policy_generated_logps,
        opponent_real_logps=opponent_real_logps,
        opponent_generated_logps=opponent_generated_logps,
    )
    beta, sft_weight = require_beta(beta), require_weight("sft_weight", sft_weight)
    penalty = penalty_named(loss_type)
    real_log_ratio = real - opponent_real
    generated_log_ratio = generated - opponent_generated
    losses = penalty(beta * (real_log_ratio - generated_log_ratio))
    return with_sft(losses, policy_real_logps=real, sft_weight=sft_weight)


def tspin_loss(
    *,
    policy_real_logps: Tensor,
    policy_generated_logps: Tensor,
    policy_proto_logps: Tensor,
    beta: float,
    history_weight: float,
    loss_type: str = "logistic",
    sft_weight: float = 0.0,
) -> Tensor:
    r"""Score a triplet of real, generated and proto responses, without a reference policy.

    Parameters
    ----------
    policy_real_logps, policy_generated_logps, policy_proto_logps : Tensor, shape (...)
        Log-probs under the policy of the real response :math:`y`, of :math:`y'` sampled from
        the last iterate and of :math:`y_0` sampled from the initial policy, in nats, summed
        (not averaged) over tokens.
    beta : float
        Scale on the log-prob differences, > 0, no unit. Written :math:`\alpha` in [1]_.
    history_weight : float
        Weight of the historical advantage, >= 0, no unit. Written :math:`\beta` in [1]_.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`.
    sft_weight : float, default 0.0
        Weight of :func:`sft_loss` of the real response, added to the loss, >= 0, per nat. It is
        not part of [1]_.

    Returns
    -------
    Tensor, shape (...)
        Loss of each triplet; the caller reduces it.

    Raises
    ------
    ValueError
        If shapes differ (nothing broadcasts), `beta` is not finite and > 0, a weight is not
        finite and >= 0, or `loss_type` is unknown.

    Notes
    -----
    Eq. (7) of [1]_ for one triplet:

    .. math:: \ell\left(\beta \log \frac{\pi_\theta(y|x)}{\pi_\theta(y'|x)}\right)
        + w\, \ell\left(\beta \log \frac{\pi_\theta(y'|x)}{\pi_\theta(y_0|x)}\right),
        \qquad w = \text{history weight}.

    References
    ----------
    .. [1] Wang et al., "Triplets Better Than Pairs", NeurIPS 2025, arXiv:2601.08198v1.

    Examples
    --------
    >>> import torch
    >>> logps = torch.tensor([-3.0], dtype=torch.float64)
    >>> tspin_loss(
    ...     policy_real_logps=logps + 0.5,
    ...     policy_generated_logps=logps,
    ...     policy_proto_logps=logps,
    ...     beta=2.0,
    ...     history_weight=0.5,
    ...     loss_type="correlation",
    ... )
    tensor([0.5000], dtype=torch.float64)
    """
    real, generated, proto = require_one_shape(
        policy_real_logps=policy_real_logps,
        policy_generated_logps=policy_generated_logps,
        policy_proto_logps=policy_proto_logps,
    )
    beta, sft_weight = require_beta(beta), require_weight("sft_weight", sft_weight)
    history_weight = require_weight("history_weight", history_weight)
    penalty = penalty_named(loss_type)
    current_advantage, historical_advantage = real - generated, generated - proto
    current, historical = penalty(beta * current_advantage), penalty(beta * historical_advantage)
    losses = current + history_weight * historical
    return with_sft(losses, policy_real_logps=real, sft_weight=sft_weight)


def sft_loss(*, policy_real_logps: Tensor) -> Tensor:
    r"""Negative log-prob of each real response: what SPIN is to first order.

    Parameters
    ----------
    policy_real_logps : Tensor, shape (...)
        Log-probs of the real response under the policy, in nats, summed over tokens.

    Returns
    -------
    Tensor, shape (...)
        Loss of each response, in nats; the caller reduces it.

    Notes
    -----
    At :math:`\theta = \theta_t` the expected gradient of :func:`spin_loss` over
    :math:`y' \sim p_{\theta_t}` is :math:`\beta |\ell'(0)|` times the gradient of this loss,
    since the opponent's score has mean zero under its own samples.

    Examples
    --------
    >>> import torch
    >>> sft_loss(policy_real_logps=torch.tensor([-2.5]))
    tensor([2.5000])
    """
    (real,) = require_one_shape(policy_real_logps=policy_real_logps)
    return -real


def with_sft(losses: Tensor, *, policy_real_logps: Tensor, sft_weight: float) -> Tensor:
    r"""Add an SFT term to losses: what the literature on DPO calls an NLL coefficient.

    Parameters
    ----------
    losses : Tensor, shape (...)
        Loss of each pair or triplet.
    policy_real_logps : Tensor, shape (...)
        Log-probs of the real response under the policy, in nats, summed over tokens.
    sft_weight : float
        Weight w of the term, >= 0, per nat. With log-probs averaged over tokens instead, the
        same effect needs w times the number of tokens.

    Returns
    -------
    Tensor, shape (...)
        :math:`\text{losses} + w \, [-\log p_\theta(y|x)]`; the same tensor for w = 0.

    Examples
    --------
    >>> import torch
    >>> with_sft(torch.ones(1), policy_real_logps=torch.tensor([-2.5]), sft_weight=0.1)
    tensor([1.2500])
    """
    if sft_weight == 0:  # so that 0 * inf is not nan
        return losses
    return losses + sft_weight * sft_loss(policy_real_logps=policy_real_logps)
