"""Witnesses of Theorem 5.2: at which beta the data have a lower objective than the opponent."""

import torch
from torch import Tensor

from spin_theory.losses import penalty_named, require_beta
from spin_theory.policies import TabularPolicy, prompt_average, require_same_shape

__all__ = ["objective_drop_at_data"]


def objective_drop_at_data(
    opponent: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    prompt_probs: Tensor | None = None,
) -> Tensor:
    r"""How far (4.7) falls from p_theta = p_t to p_theta = p_data, without cancellation.

    Parameters
    ----------
    opponent, data : TabularPolicy, shape (X, Y)
        p_t and p_data.
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`.
    prompt_probs : Tensor, shape (X,), optional
        Distribution q(x) of the prompts; uniform by default.

    Returns
    -------
    Tensor, shape ()
        :math:`\ell(0) - L(p_{data}, p_t)`, float64; beta is a witness of Theorem 5.2 where it
        is positive, which is an interval from 0.

    Raises
    ------
    ValueError
        If shapes differ, `beta` is not finite and > 0, `loss_type` is unknown, or
        `prompt_probs` is not a distribution.

    Notes
    -----
    With s = log P/Q the difference of log(p_data/p_t) between y and y', and t = beta s, the pairs
    (y, y') and (y', y) together drop by :math:`P [\ell(0) - \ell(t)] + Q [\ell(0) - \ell(-t)]`.
    Where t is small that cancels, and is written :math:`-(P - Q) o(t) - (P + Q) e(t)` instead,
    with o and e the odd and even part of :math:`\ell(t) - \ell(0)`.

    Examples
    --------
    >>> opponent = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> data = TabularPolicy.from_probs([[0.8, 0.2]])
    >>> float(objective_drop_at_data(opponent, data, beta=0.5, loss_type="exponential")) > 0
    True
    >>> float(objective_drop_at_data(opponent, data, beta=1.5, loss_type="exponential")) > 0
    False
    """
    require_same_shape(opponent=opponent, data=data)
    require_beta(beta)
    penalty = penalty_named(loss_type)
    log_ratios = data.log_probs - opponent.log_probs
    # Antisymmetric, so the pairs with log P/Q >= 0 stand for all; the others are set to drop 0.
    log_odds = (log_ratios[:, :, None] - log_ratios[:, None, :]).clamp(min=0)  # (X, Y, Y)
    real_first = (data.log_probs[:, :, None] + opponent.log_probs[:, None, :]).exp()  # P
    real_last = real_first * torch.exp(-log_odds)  # Q
    margins = beta * log_odds
    odd, even = _odd_and_even(margins.clamp(max=1), loss_type)
    near = real_first * torch.expm1(-log_odds) * odd - (real_first + real_last) * even
    at_zero = penalty(torch.zeros_like(margins))
    far = real_first * (at_zero - penalty(margins)) + real_last * (at_zero - penalty(-margins))
    drops = torch.where(margins <= 1, near, far)
    return prompt_average(drops.sum(dim=(-2, -1)), prompt_probs)


def _odd_and_even(margins: Tensor, loss_type: str) -> tuple[Tensor, Tensor]:
    """Odd and even part of l(t) - l(0) at margins 0 <= t <= 1."""
    if loss_type == "logistic":  # -t/2 + log cosh(t/2), and cosh(t/2) = 1 + 2 sinh(t/4)^2
        return -margins / 2, torch.log1p(2 * torch.sinh(margins / 4).square())
    if loss_type == "exponential":  # -sinh t + (cosh t - 1)
        return -torch.sinh(margins), 2 * torch.sinh(margins / 2).square()
    return -margins, torch.zeros_like(margins)  # hinge and correlation are 1 - t here
