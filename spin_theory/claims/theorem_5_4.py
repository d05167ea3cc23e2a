"""Theorem 5.4 of SPIN: the closed-form update is the global minimiser."""

from dataclasses import dataclass

import torch
from torch import Tensor

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.divergences import tv
from spin_theory.minima.closed_forms import Update, closed_form_update
from spin_theory.minima.minimise import minimise
from spin_theory.minima.newton import newton
from spin_theory.minima.optimal import optimality_gap
from spin_theory.policies import TabularPolicy, require_same_shape
from spin_theory.tolerances import ROUNDING, STATIONARY, SUMS

__all__ = [
    "CLAIMS",
    "Theorem54Evidence",
    "check_groups_that_hardly_meet",
    "check_theorem_5_4",
]


@dataclass(frozen=True)
class Theorem54Evidence:
    """What :func:`check_theorem_5_4` rests on.

    Attributes
    ----------
    holds : bool
        Whether `residual` is within `tolerance` and the minimiser is certified: its `gap`
        within `tolerance` too.
    beta : float
        The lambda of the theorem.
    loss_type : str
        The penalty.
    residual : float
        Largest total variation distance between claimed update and minimiser over prompts, or
        the claimed update's own gap relative to the objective, whichever is larger: near a
        point mass the first sees no wrong exponent, the second does.
    tolerance : float
        Largest residual at which the claim holds.
    gap : float
        How far the minimiser's objective is above the least possible one.
    gradient_norm : float
        Norm of the gradient at the minimiser.
    objective : float
        The minimiser's objective.
    lower_bound : float
        A value that no policy can go below.
    """

    holds: bool
    beta: float
    loss_type: str
    residual: float
    tolerance: float
    gap: float
    gradient_norm: float
    objective: float
    lower_bound: float


def check_theorem_5_4(
    data: TabularPolicy,
    opponent: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    prompt_probs: Tensor | None = None,
    update: Update = closed_form_update,
    tolerance: float = ROUNDING,
) -> Theorem54Evidence:
    r"""Check that the closed-form update is the global minimiser of (4.7).

    Parameters
    ----------
    data, opponent : TabularPolicy, shape (X, Y)
        p_data and p_t.
    beta : float
        Pull towards the opponent, > 0, no unit. Written :math:`\lambda` in [1]_.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty; the theorem is about the logistic one.
    prompt_probs : Tensor, shape (X,), optional
        Distribution q(x) that the certificate is averaged over; uniform by default.
    update : Update, default closed_form_update
        The function that is claimed to give the minimiser.
    tolerance : float, default 1e-12
        Largest residual and gap at which the claim holds. Below beta = 0.1 rounding grows like
        1/beta.

    Returns
    -------
    Theorem54Evidence
        Whether the claim held, and the numbers.

    Raises
    ------
    ValueError
        If shapes differ, `beta` is not finite and > 0, `prompt_probs` is not a distribution, or
        the penalty has no closed form.

    Notes
    -----
    Theorem 5.4 of [1]_. The update is compared with :func:`minimise`, which starts at the
    opponent and knows of no closed form; its own optimality is certified by the gap.

    References
    ----------
    .. [1] Chen et al., "Self-Play Fine-Tuning Converts Weak Language Models to Strong
       Language Models", ICML 2024, arXiv:2401.01335v3.

    Examples
    --------
    >>> opponent, data = (TabularPolicy.random(1, 8, seed=seed) for seed in (0, 1))
    >>> check_theorem_5_4(data, opponent, beta=0.1).holds
    True
    >>> def to_the_data(opponent, data, *, beta, loss_type="logistic"):
    ...     return data
    >>> check_theorem_5_4(data, opponent, beta=0.1, update=to_the_data).holds
    False
    """
    claimed = update(opponent, data, beta=beta, loss_type=loss_type)
    minimum = minimise(opponent, data, beta=beta, loss_type=loss_type, prompt_probs=prompt_probs)
    # Near a point mass total variation sees no wrong exponent; the objective's gap does.
    above = optimality_gap(claimed, opponent, data, beta=beta, loss_type=loss_type)
    residual = largest_error(
        [float(tv(claimed, minimum.policy).max()), float(above) / minimum.objective]
    )
    return Theorem54Evidence(
        holds=residual <= tolerance and minimum.gap <= tolerance,
        beta=beta,
        loss_type=loss_type,
        residual=residual,
        tolerance=tolerance,
        gap=minimum.gap,
        gradient_norm=minimum.gradient_norm,
        objective=minimum.objective,
        lower_bound=minimum.lower_bound,
    )


def check_groups_that_hardly_meet(
    data: TabularPolicy,
    opponent: TabularPolicy,
    *,
    apart: float = 40.0,
    tolerance: float = STATIONARY,
) -> Evidence:
    r"""Check the search where rounding hides the gradient between two groups of responses.

    Parameters
    ----------
    data, opponent : TabularPolicy, shape (X, Y)
        p_data and p_t within a group.
    apart : float, default 40.0
        How much rarer the second group is under the data, and the first under the opponent, in
        nats.
    tolerance : float, default 1e-10
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual, in nats: how far a score is, up to a constant, from the log-ratio of data and
        opponent, which Theorem 5.4 rests on.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> data, opponent = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> check_groups_that_hardly_meet(data, opponent).holds
    True
    """
    require_same_shape(data=data, opponent=opponent)
    real = torch.cat([data.log_probs, data.log_probs - apart], dim=-1)
    generated = torch.cat([opponent.log_probs - apart, opponent.log_probs], dim=-1)
    exact = real - generated
    near = exact + torch.cat(
        [data.log_probs, opponent.log_probs], dim=-1
    )  # Newton takes 1 nat a step
    log_weights = real[:, :, None] + generated[:, None, :]
    found = newton(log_weights, loss_type="logistic", start=near).scores
    errors = (found - found[:, :1]) - (exact - exact[:, :1])
    return Evidence(largest_error(errors.abs().flatten().tolist()), tolerance)


CLAIMS = (
    Claim(
        name="5.4 closed form, logistic",
        statement="The minimiser of SPIN's objective is `p_t (p_data / p_t)^(1 / beta)`, "
        "normalised.",
        source="SPIN, Theorem 5.4",
        function=check_theorem_5_4,
        tolerance=ROUNDING,
        check=lambda draw, update, _: check_theorem_5_4(
            draw.data, draw.opponent, beta=draw.beta, update=update
        ),
    ),
    Claim(
        name="closed form, exponential",
        statement="For the exponential penalty the exponent is `1 / (2 beta)`.",
        source="derived",
        function=check_theorem_5_4,
        tolerance=SUMS,
        check=lambda draw, update, loss_type: check_theorem_5_4(
            draw.data, draw.opponent, beta=draw.beta, loss_type=loss_type, update=update
        ),
        loss_types=("exponential",),
    ),
    Claim(
        name="minimum, groups that hardly meet",
        statement="The search finds the logistic minimiser also where two groups of responses "
        "hang together by less than a 1e-16th of what holds each together.",
        source="derived",
        function=check_groups_that_hardly_meet,
        tolerance=ROUNDING,
        check=lambda draw, *_: check_groups_that_hardly_meet(draw.small_data, draw.small_start),
    ),
)
