"""Claims about the beta that margins show."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from spin_theory.calibration import MarginBeta, beta_of_margins
from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.minima.closed_forms import closed_form_update
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import Tolerance

__all__ = ["CLAIMS", "check_beta_of_margins"]

_FACTORS = {"logistic": 1.0, "exponential": 2.0}  # of the log of the odds, over beta
_NUDGE = 1e-4  # of a prompt's weight; the error of the difference is its square
_TOLERANCE = Tolerance(1e-6, "differences of a root in weights, relative; seen: below 1e-8")


def check_beta_of_margins(
    data: TabularPolicy,
    opponent: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    estimate: Callable[..., MarginBeta] = beta_of_margins,
    tolerance: float = _TOLERANCE,
) -> Evidence:
    r"""Check that the margins of an exact iteration show its beta, and how sure they are of it.

    Parameters
    ----------
    data, opponent : TabularPolicy, shape (X, Y)
        p_data and p_t.
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.
    estimate : callable, default beta_of_margins
        The function that is claimed to find it.
    tolerance : float, default 1e-6
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest relative error of beta, and of the standard error against the
        infinitesimal jackknife: beta's change with the weight of each prompt, by differences.

    Raises
    ------
    ValueError
        If shapes differ or a parameter is out of its range.

    Notes
    -----
    All pairs are taken, weighted by :math:`p_{data}(y) p_t(y')`. For the standard error all pairs
    with one real response share a prompt.

    Examples
    --------
    >>> data, opponent = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> check_beta_of_margins(data, opponent, beta=0.1).holds
    True
    """
    policy = closed_form_update(opponent, data, beta=beta, loss_type=loss_type)
    errors = []
    for row in range(len(data.log_probs)):
        log_ratio = (policy.log_probs - opponent.log_probs)[row]
        margins = (log_ratio[:, None] - log_ratio).flatten()  # (Y * Y,)
        weights = (data.probs[row][:, None] * opponent.probs[row]).flatten()
        prompts = torch.arange(len(log_ratio)).repeat_interleave(len(log_ratio))
        found = estimate(margins, prompts=prompts, weights=weights)
        errors.append(abs(found.beta / (_FACTORS[loss_type] * beta) - 1))
        jackknife = _jackknife(estimate, margins, prompts, weights)
        errors.append(abs(found.standard_error / jackknife - 1) if jackknife else math.inf)
    return Evidence(largest_error(errors), tolerance)


def _jackknife(
    estimate: Callable[..., MarginBeta], margins: Tensor, prompts: Tensor, weights: Tensor
) -> float:
    """Take the standard error of beta from its derivative in the weight of each prompt."""
    names = torch.unique(prompts)
    squares = 0.0
    for name in names:
        ends = []
        for sign in (-1, 1):
            factor = 1 + sign * _NUDGE * (prompts == name).double()
            ends.append(estimate(margins, prompts=prompts, weights=weights * factor).beta)
        squares += ((ends[1] - ends[0]) / (2 * _NUDGE)) ** 2
    return math.sqrt(len(names) / (len(names) - 1) * squares)


CLAIMS = (
    Claim(
        name="beta of margins, {loss_type}",
        statement="The factor that calibrates the margins of an exact iteration is its beta, `2 "
        "beta` for exponential; its standard error is the sandwich over prompts.",
        source="derived",
        function=check_beta_of_margins,
        tolerance=_TOLERANCE,
        check=lambda draw, _, loss_type: check_beta_of_margins(
            draw.small_data, draw.small_start, beta=draw.beta, loss_type=loss_type
        ),
        loss_types=("logistic", "exponential"),
    ),
)
