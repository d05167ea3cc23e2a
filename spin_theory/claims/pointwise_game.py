"""What self-play with SPACE's and GSIL's losses does at the opponent and near the data."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.claims.instances import Draw
from spin_theory.games.pointwise import pointwise_curvature, pointwise_multiplier
from spin_theory.losses import GSIL_LOSSES, PointwiseLoss, gsil, space
from spin_theory.objectives.pointwise import pointwise_objective
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import FEW_TERMS, REPEATED, ROUNDING

__all__ = ["CLAIMS", "check_pointwise_first_step", "check_pointwise_game"]

LogProbs = Callable[[Tensor], Tensor]

AS_RELEASED = {"scale": 0.01, "shift": 2.0}
"""Scale and shift of GSIL's published runs."""


def check_pointwise_first_step(
    log_probs: LogProbs,
    parameters: Tensor,
    data: TabularPolicy,
    *,
    losses: Sequence[PointwiseLoss],
    tolerance: float = REPEATED,
) -> Evidence:
    r"""Check that the gradient at the opponent is SFT's, in any differentiable class.

    Parameters
    ----------
    log_probs : callable
        From parameters (D,), float64, to normalised log-probs (X, Y).
    parameters : Tensor, shape (D,)
        theta_t, the opponent's.
    data : TabularPolicy, shape (X, Y)
        p_data; it need not be in the class.
    losses : sequence of PointwiseLoss
        Such as ``space(mu)``.
    tolerance : float, default 1e-11
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: norm of the difference of a gradient and `sft_factor` times SFT's, relative to
        the scores and the slopes that they sum.

    Raises
    ------
    ValueError
        If shapes differ.

    Notes
    -----
    The generated term has mean zero: the opponent's score under its own samples.

    Examples
    --------
    >>> data = TabularPolicy.random(1, 4, seed=0)
    >>> check_pointwise_first_step(
    ...     lambda theta: torch.log_softmax(theta, dim=-1)[None],
    ...     torch.zeros(4, dtype=torch.float64),
    ...     data,
    ...     losses=[space(3.0)],
    ... ).holds
    True
    """
    theta = parameters.detach().clone().requires_grad_()
    table = log_probs(theta)
    opponent = TabularPolicy(table.detach())
    real = (data.probs * table).sum(dim=-1).mean()
    (sft,) = torch.autograd.grad(real, theta, retain_graph=True)
    scores: Tensor = jacobian(log_probs, theta.detach())  # type: ignore[no-untyped-call]
    largest = float(scores.flatten(0, 1).norm(dim=-1).max()) + torch.finfo(torch.float64).tiny
    errors = []
    for loss in losses:
        value = pointwise_objective(TabularPolicy(table), opponent, data, loss=loss)
        (gradient,) = torch.autograd.grad(value, theta, retain_graph=True)
        (slope, _), (other_slope, _) = loss.derivatives()
        apart = gradient + loss.sft_factor * sft
        errors.append(float(apart.norm()) / (largest * (abs(slope) + abs(other_slope))))
    return Evidence(largest_error(errors), tolerance, {"sft_norm": float(sft.norm())})


def check_pointwise_game(
    data: TabularPolicy,
    *,
    losses: Sequence[PointwiseLoss],
    sft_weight: float = 0.0,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check what exact iterations of pointwise losses do near the data.

    Parameters
    ----------
    data : TabularPolicy, shape (1, Y)
        p_data.
    losses : sequence of PointwiseLoss
        Such as ``space(mu)``.
    sft_weight : float, default 0.0
        Weight of the SFT term, >= 0, per nat.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest error of the Hessian against the curvature times :math:`C =
        \mathrm{diag}(p) - p p^T`, and of the gradient's derivative in the opponent's logits
        against minus the multiplier times that; infinite where a multiplier is given though the
        data are no minimum. `least_curvature` is the smallest one, which may be below 0.

    Raises
    ------
    ValueError
        If `sft_weight` is not finite and >= 0.

    Notes
    -----
    By the implicit function theorem an exact iteration is :math:`-H^{-1} \partial g / \partial
    \log p_t`, to first order.

    Examples
    --------
    >>> data = TabularPolicy.random(1, 4, seed=0, smallest=0.1)
    >>> check_pointwise_game(data, losses=[space(3.0), gsil("brier", scale=0.4)]).holds
    True
    """
    p = data.probs[0]
    # One direction is enough: what is claimed is a factor.
    along = torch.linspace(-1.0, 2.0, len(p), dtype=torch.float64).cos()
    moved = p * (along - p @ along)  # C times it
    errors, curvatures = [], []
    for loss in losses:
        logits, opponent = (data.log_probs.clone().requires_grad_() for _ in range(2))
        value = pointwise_objective(
            TabularPolicy.from_logits(logits),
            TabularPolicy.from_logits(opponent),
            data,
            loss=loss,
            sft_weight=sft_weight,
        )
        (gradient,) = torch.autograd.grad(value, logits, create_graph=True)
        hessian, push = torch.autograd.grad(gradient[0] @ along, (logits, opponent))
        curvature = pointwise_curvature(loss, sft_weight=sft_weight)
        curvatures.append(curvature)
        size = max(abs(number) for term in loss.derivatives() for number in term) + sft_weight
        errors.append(float((hessian[0] - curvature * moved).abs().max()) / size)
        if curvature > 0:
            rate = pointwise_multiplier(loss, sft_weight=sft_weight)
            errors.append(float((push[0] + rate * curvature * moved).abs().max()) / size)
            continue
        try:
            pointwise_multiplier(loss, sft_weight=sft_weight)
        except ValueError:
            continue
        errors.append(math.inf)
    return Evidence(largest_error(errors), tolerance, {"least_curvature": min(curvatures)})


def _losses(draw: Draw) -> list[PointwiseLoss]:
    """SPACE, and GSIL's losses at the instance's beta, at scale 1 or as released, in turn."""
    scales = [{"scale": draw.beta, "shift": 0.3}, {"scale": 1.0, "shift": 0.0}, AS_RELEASED]
    return [
        space(draw.mu),
        *(
            gsil(name, **scales[(draw.instance.seed + place) % 3])
            for place, name in enumerate(GSIL_LOSSES)
        ),
    ]


CLAIMS = (
    Claim(
        name="first step of SPACE and GSIL",
        statement="At the opponent the gradient is SFT's times the slope of the real term, in any "
        "differentiable class of policies: `mu / (1 + mu)` for SPACE, and `a / 2` for GSIL's "
        "Bernoulli without a shift.",
        source="derived",
        function=check_pointwise_first_step,
        tolerance=REPEATED,
        check=lambda draw, *_: check_pointwise_first_step(
            draw.network, draw.parameters.flatten(), draw.small_data, losses=_losses(draw)
        ),
    ),
    Claim(
        name="games of SPACE and GSIL",
        statement="Near the data an exact iteration multiplies deviations by `1 - F / c`, with F "
        "the factor of the first step and c the curvature: 0 for SPACE at every mu, "
        "and `1 - 1 / a` for GSIL's Bernoulli. Where c is below 0, as at the released `a = 0.01` "
        "and `b = 2`, the data are no minimum of their own game.",
        source="derived",
        function=check_pointwise_game,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: check_pointwise_game(
            draw.small_data, losses=_losses(draw), sft_weight=0.1 * (draw.instance.seed % 2)
        ),
    ),
)
