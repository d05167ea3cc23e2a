"""The speed of exact play in closed form: multipliers and what follows from them."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spin_theory.divergences import tv
from spin_theory.inputs import number, numbers
from spin_theory.losses import require_beta
from spin_theory.minima.closed_forms import closed_form_exponent
from spin_theory.policies import TabularPolicy, require_same_shape
from spin_theory.tolerances import EQUAL_TV, ROUNDING

__all__ = [
    "effective_beta",
    "iterations_to",
    "mixing_multipliers",
    "multiplier",
    "predicted_policy",
]


def multiplier(*, beta: float, loss_type: str = "logistic") -> float:
    r"""Factor by which one iteration multiplies the log-ratio of policy to data.

    Parameters
    ----------
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.

    Returns
    -------
    float
        :math:`m = 1 - 1/\beta`, for the exponential penalty :math:`1 - 1/(2\beta)`, no unit.
        The log-ratio contracts where :math:`|m| < 1`, that is beta > 1/2 (exponential: 1/4); it
        vanishes in one step at m = 0, comes back every second step at m = -1, and diverges
        while changing sign below.

    Raises
    ------
    ValueError
        If `beta` is not finite and > 0, or the penalty has no closed form.

    Notes
    -----
    Follows from Theorem 5.4: :math:`p_{t+1}/p_{data} \propto (p_t/p_{data})^m`.

    Examples
    --------
    >>> multiplier(beta=0.5), multiplier(beta=2.0)
    (-1.0, 0.5)
    """
    return 1 - closed_form_exponent(loss_type) / require_beta(beta)


def predicted_policy(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    betas: Sequence[float],
    loss_type: str = "logistic",
) -> TabularPolicy:
    r"""Iterate after the given betas, without playing.

    Parameters
    ----------
    start, data : TabularPolicy, shape (X, Y)
        p_0 and p_data.
    betas : sequence of float
        The beta of each iteration, > 0, no unit; the order does not matter.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.

    Returns
    -------
    TabularPolicy
        :math:`p_t \propto p_{data} (p_0/p_{data})^{\prod_k m_k}`, the :math:`m_k` by
        :func:`multiplier`.

    Raises
    ------
    ValueError
        If shapes differ, a beta is not finite and > 0, or the penalty has no closed form.

    Examples
    --------
    >>> start = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> data = TabularPolicy.from_probs([[0.8, 0.2]])
    >>> predicted_policy(start, data, betas=[0.5, 0.5]).probs  # a cycle of length two
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    require_same_shape(start=start, data=data)
    power = math.prod(
        multiplier(beta=beta, loss_type=loss_type) for beta in numbers("betas", betas)
    )
    return TabularPolicy.from_logits(data.log_probs + power * (start.log_probs - data.log_probs))


def mixing_multipliers(*, beta: float, loss_type: str = "logistic") -> tuple[complex, complex]:
    r"""Multipliers of SPIN with the samples of the last two iterates mixed, near the data.

    Parameters
    ----------
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.

    Returns
    -------
    tuple of complex
        The roots of :math:`r^2 - (1 - \frac{1}{2\beta}) r + \frac{1}{2\beta}` (exponential:
        :math:`2\beta` for :math:`\beta`), no unit.

    Raises
    ------
    ValueError
        If `beta` is not finite and > 0, or the penalty has no closed form.

    Notes
    -----
    Stable near the data where beta > 1/2; at 1/2 the roots are i and -i, so that just above a
    game from afar goes round in four for a thousand iterations before it settles. The rate is
    :math:`1/\sqrt{2\beta}` while the roots are complex, :math:`0.086 < \beta < 2.914`.

    Examples
    --------
    >>> round(abs(mixing_multipliers(beta=2.0)[0]), 12)  # 1/sqrt(4), as plain SPIN: 1 - 1/2
    0.5
    """
    half = (1 - multiplier(beta=beta, loss_type=loss_type)) / 2  # 1/(2 beta)
    one, two = np.roots([1.0, -(1 - half), half])
    return complex(one), complex(two)


def iterations_to(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    epsilon: float,
    loss_type: str = "logistic",
) -> int | None:
    r"""Count the iterations of exact SPIN until the policy stays within epsilon of the data.

    Parameters
    ----------
    start, data : TabularPolicy, shape (X, Y)
        p_0 and p_data.
    beta : float
        Pull towards the opponent, > 0, no unit.
    epsilon : float
        Total variation distance, the largest over prompts, > 0; below 1e-13 it counts as 1e-13,
        as rounding allows no less.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.

    Returns
    -------
    int or None
        The least such number; None where the log-ratio does not contract.

    Raises
    ------
    ValueError
        If shapes differ, `epsilon` or `beta` is not > 0, or the penalty has no closed form.

    Notes
    -----
    Along :math:`p_{data} (p_0/p_{data})^s` total variation from the data grows with :math:`|s|` on
    either side of 0, and s = m^t, so the even and the odd iterations are searched by bisection.

    Examples
    --------
    >>> start, data = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> iterations_to(start, data, beta=1.0, epsilon=1e-6)
    1
    """
    require_same_shape(start=start, data=data)
    epsilon = number("epsilon", epsilon)
    if not epsilon > 0:
        raise ValueError(f"epsilon must be > 0, got {epsilon!r}")
    factor = multiplier(beta=beta, loss_type=loss_type)

    def far(iteration: int) -> bool:
        power = factor**iteration
        logits = data.log_probs + power * (start.log_probs - data.log_probs)
        distance = float(tv(TabularPolicy.from_logits(logits), data).max())
        return distance > max(epsilon, EQUAL_TV)

    if abs(factor) >= 1:
        return None if far(0) else 0
    # s = m^t shrinks with t; for m < 0 it changes sign, so that even and odd t are two sequences.
    last = -1  # the last iteration that is far
    for parity in (0, 1):
        if not far(parity):
            continue
        low, high = 0, 1  # in steps of two iterations
        while far(parity + 2 * high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if far(parity + 2 * middle) else (low, middle)
        last = max(last, parity + 2 * low)
    return last + 1


def effective_beta(
    opponent: TabularPolicy,
    policy: TabularPolicy,
    data: TabularPolicy,
    *,
    loss_type: str = "logistic",
) -> Tensor:
    r"""Beta at which one exact iteration would come nearest to an inexact one.

    Parameters
    ----------
    opponent, policy, data : TabularPolicy, shape (X, Y)
        p_t, the p_{t+1} that a run reached, and p_data.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.

    Returns
    -------
    Tensor, shape (X,)
        Beta of each prompt, no unit; infinite where the policy did not move, negative where it
        moved away from the data, nan where the opponent is the data, each but for rounding.

    Raises
    ------
    ValueError
        If shapes differ or the penalty has no closed form.

    Notes
    -----
    The multiplier m of :math:`\log p_{t+1}/p_{data} = m \log p_t/p_{data}` by least squares
    under p_data; :math:`\beta = 1/(1 - m)` for logistic, half of it for exponential.

    Examples
    --------
    >>> from spin_theory.minima.closed_forms import closed_form_update
    >>> opponent, data = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> float(effective_beta(opponent, closed_form_update(opponent, data, beta=2.0), data).round())
    2.0
    """
    require_same_shape(opponent=opponent, policy=policy, data=data)
    moved = policy.log_probs - opponent.log_probs
    wanted = data.log_probs - opponent.log_probs
    weights = data.probs
    moved, wanted = (part - (weights * part).sum(dim=-1, keepdim=True) for part in (moved, wanted))
    # In units of the largest, so that no square of a diverging game outgrows float64.
    unit = torch.maximum(moved.abs(), wanted.abs()).amax(dim=-1, keepdim=True).clamp(min=1.0)
    moved, wanted = moved / unit, wanted / unit
    step, distance = ((weights * part.square()).sum(dim=-1).sqrt() for part in (moved, wanted))
    share = (weights * moved * wanted).sum(dim=-1) / distance.square()
    share = share.where(step > ROUNDING, 0.0).where(distance > ROUNDING, math.nan)
    return closed_form_exponent(loss_type) / share  # 1 - m is the exponent over beta
