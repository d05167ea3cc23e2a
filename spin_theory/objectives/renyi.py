"""A loss of whole batches: the variational bound of a Renyi divergence, as IRIS is said to have."""

import math

import torch
from torch import Tensor

from spin_theory.inputs import number
from spin_theory.policies import TabularPolicy, prompt_average, require_same_shape

__all__ = ["renyi_objective"]


def renyi_objective(
    policy: TabularPolicy,
    opponent: TabularPolicy,
    data: TabularPolicy,
    *,
    order: float,
    prompt_probs: Tensor | None = None,
) -> Tensor:
    r"""Sum the loss of two tilted means, one of real and one of generated responses.

    Parameters
    ----------
    policy, opponent, data : TabularPolicy, shape (X, Y)
        p_theta, p_t and p_data.
    order : float
        Order :math:`\alpha`, > 0 and not 1, no unit.
    prompt_probs : Tensor, shape (X,), optional
        Distribution q(x) of the prompts; uniform by default.

    Returns
    -------
    Tensor, shape ()
        The loss, which is to be minimised, float64; differentiable in a policy built from logits.

    Raises
    ------
    ValueError
        If shapes differ, `order` is not finite, > 0 and different from 1, or `prompt_probs` is
        not a distribution over the prompts.

    Notes
    -----
    With r the log-ratio of policy and opponent

    .. math:: \frac1\alpha \log E_{p_t} e^{\alpha r}
        - \frac1{\alpha - 1} \log E_{p_{data}} e^{(\alpha - 1) r} .

    A constant added to r changes nothing, and the least value, at the data, is
    :math:`-D_\alpha(p_{data} \| p_t)/\alpha`. The formula is a reconstruction from the abstract
    of IRIS [1]_, which we have not read in full. The logarithms are of means over all responses
    to a prompt, so that this is no sum over pairs, and it is not trained here.

    References
    ----------
    .. [1] Liao et al., "IRIS: Interpolative Renyi Iterative Self-play for Large Language Model
       Fine-Tuning", arXiv:2604.20933.

    Examples
    --------
    >>> half = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> float(renyi_objective(half, half, half, order=2.0))
    0.0
    """
    require_same_shape(policy=policy, opponent=opponent, data=data)
    order = number("order", order)
    if not 0 < order < math.inf or order == 1:
        raise ValueError(f"order must be finite, > 0 and not 1, got {order!r}")
    log_ratio = policy.log_probs - opponent.log_probs
    real = torch.logsumexp(data.log_probs + (order - 1) * log_ratio, dim=-1) / (order - 1)
    generated = torch.logsumexp(opponent.log_probs + order * log_ratio, dim=-1) / order
    return prompt_average(generated - real, prompt_probs)
