"""Theorem 5.4 of SPIN: the closed-form update is the global minimiser."""

from dataclasses import dataclass

from torch import Tensor

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import largest_error
from spin_theory.divergences import tv
from spin_theory.minima.closed_forms import Update, closed_form_update
from spin_theory.minima.minimise import minimise
from spin_theory.minima.optimal import optimality_gap
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import ROUNDING

__all__ = ["CLAIMS", "Theorem54Evidence", "check_theorem_5_4"]


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
        tolerance=ROUNDING,
        check=lambda draw, update, loss_type: check_theorem_5_4(
            draw.data, draw.opponent, beta=draw.beta, loss_type=loss_type, update=update
        ),
        loss_types=("exponential",),
    ),
)
