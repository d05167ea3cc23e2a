"""The end of the witnesses, bracketed by sums that know nothing of the functions under check."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from spin_theory.claims.evidence import written_out
from spin_theory.policies import TabularPolicy

__all__ = ["bracket", "drop_by_pairs"]


def drop_by_pairs(
    opponent: TabularPolicy, data: TabularPolicy, loss_type: str, beta: float
) -> tuple[float, float]:
    """Sum how far the objective at p_data is below l(0), pair by pair.

    Parameters
    ----------
    opponent, data : TabularPolicy, shape (X, Y)
        p_t and p_data.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}
        The penalty.
    beta : float
        Pull towards the opponent, > 0, no unit.

    Returns
    -------
    drop, size : float
        The drop averaged over prompts, and the same of the sizes of its terms: a pair and its
        mirror nearly cancel, so each term is written without l(0).
    """
    log_ratios = data.log_probs - opponent.log_probs
    margins = beta * (log_ratios[:, :, None] - log_ratios[:, None, :])
    weights = data.probs[:, :, None] * opponent.probs[:, None, :]
    terms = weights * written_out(_FALLS, loss_type)(margins)
    sums = [(math.fsum(row), math.fsum(map(abs, row))) for row in terms.flatten(1).tolist()]
    drop, size = (sum(part) / len(sums) for part in zip(*sums, strict=True))
    return drop, size


_FALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "logistic": lambda t: torch.where(
        t.abs() < 1,
        -torch.log1p(torch.expm1(-t.clamp(-1, 1)) / 2),
        math.log(2) - torch.logaddexp(torch.zeros_like(t), -t),
    ),
    "hinge": lambda t: t.clamp(max=1),
    "exponential": lambda t: -torch.expm1(-t),
    "correlation": lambda t: t,
}
"""l(0) - l(t)."""


def bracket(opponent: TabularPolicy, data: TabularPolicy, loss_type: str, limit: float) -> float:
    """Find how closely both sides of the end of the witnesses can be distinguished.

    Parameters
    ----------
    opponent, data : TabularPolicy, shape (X, Y)
        p_t and p_data.
    loss_type : {'logistic', 'hinge', 'exponential'}
        The penalty.
    limit : float
        What is claimed to be lambda*.

    Returns
    -------
    float
        Least power of ten, as a relative distance from `limit`, at which p_data is below theta_t
        on the left and not on the right; infinite where there is none below 1.
    """
    if not 0 < limit < math.inf:
        return math.inf
    for power in range(-15, 0):
        share = 10.0**power
        inside, outside = (
            drop_by_pairs(opponent, data, loss_type, limit * side)[0]
            for side in (1 - share, 1 + share)
        )
        if inside > 0 and not outside > 0:  # nan where an exponential overflows
            return share
    return math.inf
