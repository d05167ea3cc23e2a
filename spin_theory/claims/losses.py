"""The penalties and the losses of single pairs, against their formulas written out again."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error, written_out
from spin_theory.claims.instances import Draw
from spin_theory.losses import (
    PENALTIES,
    penalty_named,
    penalty_slope,
    sft_loss,
    spin_loss,
    tspin_loss,
)
from spin_theory.minima.closed_forms import closed_form_exponent
from spin_theory.policies import TabularPolicy, require_same_shape
from spin_theory.tolerances import FEW_TERMS, ROUNDING

__all__ = ["CLAIMS", "check_pair_losses", "check_penalty"]

Numbers = NDArray[np.float64]

WIDE = np.linspace(-60.0, 60.0, 49)
"""Margins that every penalty is also tried on: softplus turns linear at -20."""


def check_penalty(
    margins: Tensor, *, loss_type: str = "logistic", tolerance: float = ROUNDING
) -> Evidence:
    r"""Check a penalty, its derivatives, its conjugate and its facts against their formulas.

    Parameters
    ----------
    margins : Tensor, shape (...)
        Where it is checked, no unit; margins from -60 to 60 are added.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest relative error of :math:`\ell`, of the logarithms of its
        derivatives, of :math:`\ell'(0)` and of Fenchel's equality :math:`\ell(t) = h(u) - u t` at
        :math:`u = -\ell'(t)`; infinite where a fact of the penalty, such as its exponent, is wrong.

    Raises
    ------
    ValueError
        If `loss_type` is unknown, or nothing is written out for it.

    Examples
    --------
    >>> check_penalty(torch.linspace(-5.0, 5.0, 7).double(), loss_type="hinge").holds
    True
    """
    formula, slope_at_zero, facts = written_out(_PENALTIES, loss_type)
    penalty = penalty_named(loss_type)
    at = np.concatenate([margins.double().flatten().numpy(), WIDE])
    values, log_slopes, log_curvatures = formula(at)
    points = torch.from_numpy(at)
    log_slope, log_curvature = penalty.log_derivatives(points)
    errors = [
        _apart(penalty(points), values, np.abs(values)),
        _apart(log_slope, log_slopes, 1 + np.abs(at)),
        _apart(log_curvature, log_curvatures, 1 + np.abs(at)),
        *(
            abs(slope - slope_at_zero)
            for slope in (penalty.slope_at_zero, penalty_slope(loss_type))
        ),
    ]
    if penalty.conjugate is not None:
        used = torch.from_numpy(np.exp(log_slopes))
        legendre = (penalty.conjugate(used) - used * points).numpy()
        sizes = 1 + np.abs(values) + np.abs(used.numpy() * at)  # 1 - u rounds to 1
        errors.append(float((np.abs(legendre - values) / sizes).max()))
    stated = (
        penalty.name,
        penalty.exponent,
        penalty.kinks,
        penalty.bounded_below,
        penalty.suits_newton,
        penalty.steepest,
    )
    if stated != (loss_type, *facts):
        errors.append(np.inf)
    if penalty.exponent is not None and closed_form_exponent(loss_type) != facts[0]:
        errors.append(np.inf)
    if penalty.even_curvature:
        mirrored = penalty.log_derivatives(-points)[1].numpy()
        errors.append(_apart(log_curvature, mirrored, 1 + np.abs(at)))
    return Evidence(largest_error(errors), tolerance, {"slope_at_zero": penalty.slope_at_zero})


def check_pair_losses(
    policy: TabularPolicy,
    opponent: TabularPolicy,
    initial: TabularPolicy,
    *,
    beta: float,
    history_weight: float = 0.1,
    sft_weight: float = 0.3,
    loss_type: str = "logistic",
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check the losses of SPIN, T-SPIN and SFT on the log-probs of single responses.

    Parameters
    ----------
    policy, opponent, initial : TabularPolicy, shape (X, Y)
        Give log-probs: responses from the left are real, from the right generated, and one place
        further proto.
    beta : float
        Pull towards the opponent, > 0, no unit.
    history_weight : float, default 0.1
        Weight of T-SPIN's history term, >= 0, no unit.
    sft_weight : float, default 0.3
        Weight of the SFT term, >= 0, per nat.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest error of a loss, relative to it and to the slope times its margin.

    Raises
    ------
    ValueError
        If shapes differ, a parameter is out of its range, or nothing is written out for the
        penalty.

    Notes
    -----
    Eq. (4.7) of SPIN and eq. (7) of T-SPIN for one pair, and the negative log-prob.

    Examples
    --------
    >>> tables = [TabularPolicy.random(1, 5, seed=seed) for seed in range(3)]
    >>> check_pair_losses(*tables, beta=0.5).holds
    True
    """
    require_same_shape(policy=policy, opponent=opponent, initial=initial)
    formula = written_out(_PENALTIES, loss_type)[0]
    real, reference = policy.log_probs, opponent.log_probs
    generated, reference_generated = (table.flip(-1).contiguous() for table in (real, reference))
    proto = initial.log_probs.roll(1, dims=-1)
    pair = spin_loss(
        policy_real_logps=real,
        policy_generated_logps=generated,
        opponent_real_logps=reference,
        opponent_generated_logps=reference_generated,
        beta=beta,
        loss_type=loss_type,
        sft_weight=sft_weight,
    )
    triplet = tspin_loss(
        policy_real_logps=real,
        policy_generated_logps=generated,
        policy_proto_logps=proto,
        beta=beta,
        history_weight=history_weight,
        loss_type=loss_type,
        sft_weight=sft_weight,
    )
    y, other, old = (table.numpy() for table in (real, generated, proto))
    p, q = reference.numpy(), reference_generated.numpy()
    margin, current, history = y - p - other + q, y - other, other - old
    # A margin's rounding is that of its terms, and the loss follows it by its slope.
    sizes = [
        np.abs(y) + np.abs(p) + np.abs(other) + np.abs(q),
        np.abs(y) + np.abs(other),
        np.abs(other) + np.abs(old),
    ]
    values, slopes = zip(
        *(formula(beta * each)[:2] for each in (margin, current, history)), strict=True
    )
    spread = [
        value + np.exp(slope) * beta * size + sft_weight * np.abs(y) + 1e-300
        for value, slope, size in zip(map(np.abs, values), slopes, sizes, strict=True)
    ]
    errors = [
        _apart(pair, values[0] - sft_weight * y, spread[0]),
        _apart(
            triplet,
            values[1] + history_weight * values[2] - sft_weight * y,
            spread[1] + history_weight * spread[2],
        ),
        _apart(sft_loss(policy_real_logps=real), -y, np.abs(y)),
    ]
    return Evidence(largest_error(errors), tolerance, {"largest_loss": float(pair.max())})


def _apart(found: Tensor, expected: Numbers, sizes: Numbers) -> float:
    """Largest error relative to the sizes; equal numbers, infinite ones too, are 0 apart."""
    with np.errstate(invalid="ignore"):
        errors = np.abs(found.numpy() - expected) / np.maximum(sizes, 1e-300)
    return float(np.where(found.numpy() == expected, 0.0, errors).max())


def _logistic(t: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    down, up = np.logaddexp(0, -t), np.logaddexp(0, t)
    return down, -up, -up - down  # l' = -sigma(-t), l'' = sigma(t) sigma(-t)


def _hinge(t: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    below = t < 1
    return (
        np.where(below, 1 - t, 0.0),
        np.where(below, 0.0, -np.inf),
        np.full_like(t, -np.inf),
    )


def _exponential(t: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    return np.exp(-t), -t, -t


def _correlation(t: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    return 1 - t, np.zeros_like(t), np.full_like(t, -np.inf)


_PENALTIES: dict[
    str,
    tuple[Callable[[Numbers], tuple[Numbers, Numbers, Numbers]], float, tuple[object, ...]],
] = {
    "logistic": (_logistic, -0.5, (1.0, (), True, True, 1.0)),
    "hinge": (_hinge, -1.0, (None, (1.0,), True, False, 1.0)),
    "exponential": (_exponential, -1.0, (0.5, (), True, True, np.inf)),
    "correlation": (_correlation, -1.0, (None, (), False, False, 1.0)),
}
"""Value, log of the slope's size and log of the curvature; l'(0); exponent, kinks, bounds."""


def _margins(draw: Draw) -> Tensor:
    return draw.beta * (draw.data.log_probs - draw.opponent.log_probs)


CLAIMS = (
    Claim(
        name="penalty, {loss_type}",
        statement="The penalties are `log(1 + e^-t)`, `max(0, 1 - t)`, `e^-t` and `1 - t`. Their "
        "derivatives, conjugates and exponents are those of these formulas.",
        source="SPIN, Assumption 5.1",
        function=check_penalty,
        tolerance=FEW_TERMS,
        check=lambda draw, _, loss_type: check_penalty(_margins(draw), loss_type=loss_type),
        loss_types=tuple(PENALTIES),
    ),
    Claim(
        name="loss of a pair, {loss_type}",
        statement="SPIN's loss is the penalty of beta times the difference of two log-ratios. "
        "T-SPIN's is that of two differences of log-probs, one of them weighted, and SFT's is the "
        "negative log-prob, which an SFT term adds to either, weighted.",
        source="SPIN, eq. (4.7); T-SPIN, eq. (7)",
        function=check_pair_losses,
        tolerance=FEW_TERMS,
        check=lambda draw, _, loss_type: check_pair_losses(
            draw.small_data,
            draw.small_start,
            draw.small_other,
            beta=draw.beta,
            loss_type=loss_type,
        ),
        loss_types=tuple(PENALTIES),
    ),
)
