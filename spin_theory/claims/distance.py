"""What the objective says about the distance between opponent and data, down to distance zero."""

import math

import torch
from torch import Tensor

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.divergences import js, tv
from spin_theory.losses import penalty_named, spin_loss
from spin_theory.minima.optimal import optimality_gap
from spin_theory.objectives.objectives import spin_objective
from spin_theory.policies import TabularPolicy, require_same_shape
from spin_theory.tolerances import EQUAL_TV, FEW_TERMS, ROUNDING

__all__ = ["CLAIMS", "check_degeneracy", "check_distance_bounds", "pair_policies"]


def pair_policies(
    data: TabularPolicy, opponent: TabularPolicy
) -> tuple[TabularPolicy, TabularPolicy]:
    r"""Distributions of the pairs (y, y') in the two orders.

    Parameters
    ----------
    data, opponent : TabularPolicy, shape (X, Y)
        p_data and p_t.

    Returns
    -------
    TabularPolicy, TabularPolicy, shape (X, Y * Y)
        :math:`P = p_{data} \otimes p_t` and :math:`Q = p_t \otimes p_{data}`.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> p, q = (TabularPolicy.from_probs([[a, 1 - a]]) for a in (0.5, 0.2))
    >>> pair_policies(p, q)[0].probs
    tensor([[0.1000, 0.4000, 0.1000, 0.4000]], dtype=torch.float64)
    """
    require_same_shape(data=data, opponent=opponent)
    pairs = data.log_probs[:, :, None] + opponent.log_probs[:, None, :]
    return TabularPolicy(pairs.flatten(1)), TabularPolicy(pairs.mT.flatten(1))


def check_distance_bounds(
    data: TabularPolicy,
    opponent: TabularPolicy,
    margins: Tensor,
    *,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check that a SPIN loss on fresh pairs bounds the distance of opponent and data.

    Parameters
    ----------
    data, opponent : TabularPolicy, shape (X, Y)
        p_data and p_t.
    margins : Tensor, shape (X, Y, Y)
        Margin of y over y', no unit; fixed before the pairs are drawn, and antisymmetric.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest violation in nats of meter <= JS(P, Q) <= log 2, JS <= JS(P, Q)
        <= 2 JS, and TV >= meter / (2 log 2). `meter` is log 2 minus the expected logistic loss.

    Raises
    ------
    ValueError
        If shapes differ.

    Notes
    -----
    The convergence meter: positive, it proves a difference; otherwise nothing. A margin that is
    not antisymmetric proves nothing either, and fails this check where it seems to.

    Examples
    --------
    >>> data, opponent = (TabularPolicy.random(1, 3, seed=seed) for seed in (0, 1))
    >>> check_distance_bounds(data, opponent, torch.zeros(1, 3, 3).double()).holds
    True
    >>> check_distance_bounds(data, opponent, torch.full((1, 3, 3), 9.0).double()).holds
    False
    """
    pairs, swapped = pair_policies(data, opponent)
    if tuple(margins.shape) != (*data.log_probs.shape, data.log_probs.shape[1]):
        raise ValueError(f"margins must have shape (X, Y, Y), got {tuple(margins.shape)}")
    losses = penalty_named("logistic")(margins.flatten(1))
    meter = math.log(2) - (pairs.probs * losses).sum(dim=-1)
    of_pairs, of_responses, distance = js(pairs, swapped), js(data, opponent), tv(data, opponent)
    violations = torch.stack(
        [
            meter - of_pairs,
            of_pairs - math.log(2),
            of_responses - of_pairs,
            of_pairs - 2 * of_responses,
            meter / (2 * math.log(2)) - distance,
        ]
    )
    numbers = {"meter": float(meter.mean()), "tv": float(distance.mean())}
    return Evidence(float(violations.max().clamp(min=0)), tolerance, numbers)


def check_degeneracy(
    data: TabularPolicy,
    other: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check what is left of SPIN's objective where the opponent is the data.

    Parameters
    ----------
    data, other : TabularPolicy, shape (X, Y)
        p_data = p_t, and another policy.
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the value at y' = y as strings against the constant l(0); where the two are
        equal as distributions, that p_data is the minimiser and the other policy above it by
        the gap's identity (logistic, exponential), that the objective is flat while no margin
        exceeds 1 (hinge), or everywhere (correlation). `rise` is how far the other is above.

    Raises
    ------
    ValueError
        If shapes differ, or a parameter is out of its range.

    Notes
    -----
    Fact behind the degeneracy claim of [1]_: true of one pair of equal strings; as
    distributions, logistic and exponential keep p_data as their only minimiser.

    References
    ----------
    .. [1] Wang et al., "Triplets Better Than Pairs", NeurIPS 2025, arXiv:2601.08198v1.

    Examples
    --------
    >>> data, other = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> check_degeneracy(data, other, beta=1.0).numbers["rise"] > 0
    True
    >>> check_degeneracy(data, other, beta=1.0, loss_type="correlation").holds
    True
    """
    require_same_shape(data=data, other=other)
    penalty = penalty_named(loss_type)
    scores = beta * (other.log_probs - data.log_probs)
    at_zero = float(penalty(torch.zeros((), dtype=torch.float64)))
    on_equal_strings = spin_loss(
        policy_real_logps=other.log_probs,
        policy_generated_logps=other.log_probs,
        opponent_real_logps=data.log_probs,
        opponent_generated_logps=data.log_probs,
        beta=beta,
        loss_type=loss_type,
    )
    errors = [float((on_equal_strings - at_zero).abs().max())]
    at_data, value = (
        float(spin_objective(policy, data, data, beta=beta, loss_type=loss_type))
        for policy in (data, other)
    )
    rise = value - at_data
    errors.append(abs(at_data - at_zero))
    if loss_type in ("logistic", "exponential"):
        gap = float(optimality_gap(other, data, data, beta=beta, loss_type=loss_type))
        equal = float(tv(other, data).max()) <= EQUAL_TV
        errors.append(abs(rise - gap) / (1 + value) if gap > 0 or equal else math.inf)
        rise = gap
    elif loss_type == "correlation":
        errors.append(abs(rise) / (1 + float(scores.abs().max())))
    elif loss_type == "hinge":
        # Scaled so that no margin exceeds 1: up to there the hinge is a straight line.
        reach = float((scores.amax(dim=-1) - scores.amin(dim=-1)).max())
        flat = TabularPolicy.from_logits(data.log_probs + scores / (beta * max(1.0, reach)))
        errors.append(
            abs(float(spin_objective(flat, data, data, beta=beta, loss_type="hinge")) - 1)
        )
        errors.append(-rise)
    else:
        raise ValueError(f"there is no claim about p_t = p_data for the penalty {loss_type!r}")
    return Evidence(largest_error(errors), tolerance, {"rise": rise})


def _margins(scores: Tensor) -> Tensor:
    return scores[:, :, None] - scores[:, None, :]


CLAIMS = (
    Claim(
        name="convergence meter",
        statement="Log 2 minus the logistic loss on fresh pairs is at most `JS(P, Q)`, for any "
        "margins fixed before the pairs are drawn. So a low loss proves that opponent and data "
        "differ.",
        source="derived",
        function=check_distance_bounds,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: check_distance_bounds(
            draw.small_data, draw.small_start, _margins(draw.small_other.log_probs)
        ),
    ),
    Claim(
        name="convergence meter, tight",
        statement="The same holds where the bound is tight, at the margins `log(p_data / p_t)`.",
        source="derived",
        function=check_distance_bounds,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: check_distance_bounds(
            draw.small_data,
            draw.small_start,
            _margins(draw.small_data.log_probs - draw.small_start.log_probs),
        ),
    ),
    Claim(
        name="at p_t = p_data, {loss_type}",
        statement="Where `p_t = p_data`, logistic and exponential keep the data as their only "
        "minimiser, hinge is flat while no margin exceeds 1, and correlation is constant.",
        source="T-SPIN, made precise",
        function=check_degeneracy,
        tolerance=ROUNDING,
        check=lambda draw, _, loss_type: check_degeneracy(
            draw.small_data, draw.small_other, beta=draw.beta, loss_type=loss_type
        ),
        loss_types=("logistic", "hinge", "exponential", "correlation"),
    ),
)
