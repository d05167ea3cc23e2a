"""SPIN's first step is the step of SFT."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence
from spin_theory.losses import PENALTIES, penalty_slope, require_beta
from spin_theory.objectives.objectives import spin_objective
from spin_theory.policies import TabularPolicy, prompt_average
from spin_theory.tolerances import ROUNDING

__all__ = ["CLAIMS", "LogProbs", "check_first_step_is_sft"]

LogProbs = Callable[[Tensor], Tensor]
"""A differentiable policy class: from parameters (D,) to normalised log-probs (X, Y)."""


def check_first_step_is_sft(
    log_probs: LogProbs,
    parameters: Tensor,
    data: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    prompt_probs: Tensor | None = None,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check that SPIN's gradient at the opponent is SFT's, for any differentiable class.

    Parameters
    ----------
    log_probs : callable
        From parameters (D,), float64, to normalised log-probs (X, Y): a table, a log-linear
        class, a network.
    parameters : Tensor, shape (D,)
        theta_t, the opponent's.
    data : TabularPolicy, shape (X, Y)
        p_data; it need not be in the class.
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`.
    prompt_probs : Tensor, shape (X,), optional
        Distribution q(x) of the prompts; uniform by default.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: norm of the difference of the two gradients, relative to the size of what
        they sum.

    Raises
    ------
    ValueError
        If `beta` is not finite and > 0, `loss_type` is unknown, or shapes differ.

    Notes
    -----
    :math:`\nabla L(\theta_t, \theta_t) = \beta \, \ell'(0) \, E_{p_{data}} \nabla \log p_\theta`:
    the opponent's score has mean zero under its own samples. So to first order SPIN is SFT on
    summed log-probs with the learning rate scaled by :math:`\beta |\ell'(0)|`.

    Examples
    --------
    >>> data = TabularPolicy.random(2, 4, seed=0)
    >>> features = torch.randn(2, 4, 3, dtype=torch.float64)
    >>> def log_linear(theta):
    ...     return torch.log_softmax(features @ theta, dim=-1)
    >>> check_first_step_is_sft(log_linear, torch.ones(3).double(), data, beta=0.1).holds
    True
    """
    require_beta(beta)
    theta = parameters.detach().clone().requires_grad_()
    table = log_probs(theta)
    opponent = TabularPolicy(table.detach())
    value = spin_objective(
        TabularPolicy(table),
        opponent,
        data,
        beta=beta,
        loss_type=loss_type,
        prompt_probs=prompt_probs,
    )
    (gradient,) = torch.autograd.grad(value, theta, retain_graph=True)
    real = prompt_average((data.probs * table).sum(dim=-1), prompt_probs)
    (sft,) = torch.autograd.grad(real, theta, retain_graph=True)
    # The size of the terms: what the gradient would be if no score cancelled another.
    spread = torch.autograd.grad((table * (data.probs + opponent.probs)).sum(), theta)[0]
    slope = penalty_slope(loss_type)
    size = beta * (sft.norm() + spread.norm() + _largest_score(log_probs, theta))
    size = size + torch.finfo(torch.float64).tiny  # of one response, all scores are zero
    residual = float((gradient - beta * slope * sft).norm() / size)
    return Evidence(
        residual,
        tolerance,
        {"gradient_norm": float(gradient.norm()), "learning_rate_scale": beta * abs(slope)},
    )


def _largest_score(log_probs: LogProbs, theta: Tensor) -> Tensor:
    """Norm of the gradients of all log-probs: the scale on which their sums cancel."""
    rows: Tensor = jacobian(log_probs, theta.detach())  # type: ignore[no-untyped-call]
    largest: Tensor = rows.flatten(0, 1).norm(dim=-1).max()
    return largest


CLAIMS = (
    Claim(
        name="first step is SFT, {loss_type}",
        statement="At the opponent SPIN's gradient is SFT's with another learning rate, in any "
        "differentiable class of policies. The rate is scaled by beta times the size of `l'(0)`.",
        source="derived",
        function=check_first_step_is_sft,
        tolerance=ROUNDING,
        check=lambda draw, _, loss_type: check_first_step_is_sft(
            draw.network,
            draw.parameters.flatten(),
            draw.small_data,
            beta=draw.beta,
            loss_type=loss_type,
        ),
        loss_types=tuple(PENALTIES),
    ),
)
