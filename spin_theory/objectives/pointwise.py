"""The objective of a loss that scores each response alone: SPACE's and GSIL's, exactly."""

from torch import Tensor

from spin_theory.losses import PointwiseLoss, require_weight
from spin_theory.policies import TabularPolicy, prompt_average, require_same_shape

__all__ = ["pointwise_objective"]


def pointwise_objective(
    policy: TabularPolicy,
    opponent: TabularPolicy,
    data: TabularPolicy,
    *,
    loss: PointwiseLoss,
    sft_weight: float = 0.0,
    prompt_probs: Tensor | None = None,
) -> Tensor:
    r"""Sum a pointwise loss over all real and generated responses, by their probabilities.

    Parameters
    ----------
    policy, opponent, data : TabularPolicy, shape (X, Y)
        p_theta, p_t and p_data.
    loss : PointwiseLoss
        Such as ``space(mu)`` or ``gsil(loss_type, scale=..., shift=...)``.
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
        If shapes differ, `sft_weight` is not finite and >= 0, or `prompt_probs` is not a
        distribution over the prompts.

    Notes
    -----
    Not convex in the logits: the policy's normaliser does not cancel, as it does in SPIN's margin.

    .. math:: E_{y \sim p_{data}} \phi\left( \log \frac{p_\theta(y)}{p_t(y)} \right)
        + E_{y' \sim p_t} \psi\left( \log \frac{p_\theta(y')}{p_t(y')} \right)

    Examples
    --------
    >>> from spin_theory.losses import space
    >>> half = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> round(float(pointwise_objective(half, half, half, loss=space(1.0))), 4)  # 2 log 2
    1.3863
    """
    require_same_shape(policy=policy, opponent=opponent, data=data)
    weight = require_weight("sft_weight", sft_weight)
    log_ratio = policy.log_probs - opponent.log_probs
    real = loss.real(log_ratio) - weight * policy.log_probs
    values = data.probs * real + opponent.probs * loss.generated(log_ratio)
    return prompt_average(values.sum(dim=-1), prompt_probs)
