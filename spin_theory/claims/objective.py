"""Claims about the shape of SPIN's objective and its least value."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from spin_theory.claims.claim import Claim
from spin_theory.claims.distance import pair_policies
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.claims.instances import Draw
from spin_theory.divergences import bhattacharyya, js, tv
from spin_theory.losses import PENALTIES
from spin_theory.minima.certificates import certify, descending_ray
from spin_theory.minima.hinge import chain_potentials, hinge_bound, hinge_minimum, hinge_programme
from spin_theory.minima.minimise import minimise
from spin_theory.minima.optimal import optimality_gap
from spin_theory.minima.problems import InnerProblem
from spin_theory.objectives.objectives import spin_objective
from spin_theory.policies import TabularPolicy, prompt_average
from spin_theory.tolerances import EQUAL_TV, FEW_TERMS, PROGRAMME, ROUNDING, SUMS, Tolerance

__all__ = [
    "CLAIMS",
    "check_convexity",
    "check_hinge_duality",
    "check_optimal_value",
    "check_unbounded",
]


def check_convexity(
    problem: InnerProblem,
    one: TabularPolicy,
    other: TabularPolicy,
    *,
    values: Callable[[TabularPolicy], Tensor] | None = None,
    tolerance: float = ROUNDING,
) -> Evidence:
    """Check that an iteration's objective is convex in the log-probs between two policies.

    Parameters
    ----------
    problem : InnerProblem
        SPIN's, a variant's or T-SPIN's inner problem, any penalty.
    one, other : TabularPolicy, shape (X, Y)
        Ends of the segment.
    values : callable, optional
        Function that is claimed to be convex, from a policy to shape (X,); by default the
        problem's objective.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: how far the objective at 1/4, 1/2, 3/4 of the segment is above the chord,
        relative to its ends.

    Examples
    --------
    >>> data, opponent, other = (TabularPolicy.random(1, 5, seed=seed) for seed in range(3))
    >>> problem = InnerProblem(data=data, sampler=opponent, reference=opponent, beta=1.0)
    >>> check_convexity(problem, opponent, other).holds
    True
    """
    values = problem.values if values is None else values
    start, end = values(one), values(other)
    above = [
        values(TabularPolicy.from_logits((1 - t) * one.log_probs + t * other.log_probs))
        - ((1 - t) * start + t * end)
        for t in (0.25, 0.5, 0.75)
    ]
    size = start.abs() + end.abs() + 1
    residual = float((torch.stack(above) / size).max().clamp(min=0))
    return Evidence(residual, tolerance, {"curvature": -float(above[1].mean())})


def check_optimal_value(
    data: TabularPolicy,
    opponent: TabularPolicy,
    other: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check the least value of (4.7), and the identity of the gap above it.

    Parameters
    ----------
    data, opponent, other : TabularPolicy, shape (X, Y)
        p_data, p_t, and any policy whose gap is taken.
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'hinge', 'exponential'}, default 'logistic'
        The penalty.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual, relative to the objectives: the minimum found by search against the formula;
        a minimum below the bound; the other policy's gap against the difference of objectives;
        for hinge also a bound 1 - TV(P, Q) that is not below the minimum, or not equal to it
        at two responses, and advantages that are not in the order of p_data/p_t.

    Raises
    ------
    ValueError
        If shapes differ, `beta` is not > 0, or the penalty is correlation.

    Notes
    -----
    Logistic :math:`\log 2 - JS(P, Q)` (Lemma C.2 of [1]_), by the divergence of the tables of
    pairs; exponential :math:`BC(p_{data}, p_t)^2`; hinge by the shortest path, its bound by the
    path's dual.

    References
    ----------
    .. [1] Chen et al., "Self-Play Fine-Tuning Converts Weak Language Models to Strong
       Language Models", ICML 2024, arXiv:2401.01335v3.

    Examples
    --------
    >>> data, opponent, other = (TabularPolicy.random(1, 5, seed=seed) for seed in range(3))
    >>> check_optimal_value(data, opponent, other, beta=1.0, loss_type="hinge").holds
    True
    """
    found = minimise(opponent, data, beta=beta, loss_type=loss_type)
    pairs, swapped = pair_policies(data, opponent)
    errors = [found.lower_bound - found.objective]
    if loss_type == "logistic":
        least = prompt_average(math.log(2) - js(pairs, swapped), None)
    elif loss_type == "exponential":
        least = prompt_average(bhattacharyya(data, opponent).square(), None)
    elif loss_type == "hinge":
        values, advantages = hinge_minimum(data, opponent)
        least = prompt_average(values, None)
        cheap = prompt_average(1 - tv(pairs, swapped), None)
        tight = data.log_probs.shape[1] <= 2  # the cheap bound is the minimum there
        errors.append(abs(float(cheap - least)) if tight else float(cheap - least))
        order = (data.log_probs - opponent.log_probs).argsort(dim=-1, stable=True)
        errors.append(float((-advantages.gather(-1, order).diff(dim=-1)).clamp(min=0).sum()))
    else:
        raise ValueError(f"the least value is not implemented for the penalty {loss_type!r}")
    errors.append(abs(found.objective - float(least)))
    value, gap = (
        float(measure(other, opponent, data, beta=beta, loss_type=loss_type))
        for measure in (spin_objective, optimality_gap)
    )
    errors.append(abs(value - float(least) - gap) / (1 + value))
    return Evidence(
        largest_error(errors), tolerance, {"minimum": found.objective, "gap": found.gap}
    )


def check_hinge_duality(
    data: TabularPolicy, opponent: TabularPolicy, *, tolerance: float = PROGRAMME
) -> Evidence:
    """Check the shortest path of the hinge against its linear programme and its dual.

    Parameters
    ----------
    data, opponent : TabularPolicy, shape (X, Y)
        p_data and p_t, of probabilities that HiGHS resolves: above about 1e-5.
    tolerance : float, default 1e-9
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest difference between the value of :func:`hinge_minimum`, the bound
        of :func:`hinge_bound` and the bound that :func:`certify` makes of HiGHS's circulation,
        the gap of HiGHS's scores, and how far any of the bounds is above the value.

    Raises
    ------
    ValueError
        If shapes differ or HiGHS finds no solution.

    Examples
    --------
    >>> data, opponent = (TabularPolicy.random(1, 5, seed=seed, smallest=0.01) for seed in (0, 1))
    >>> check_hinge_duality(data, opponent).holds
    True
    """
    log_weights = data.log_probs[:, :, None] + opponent.log_probs[:, None, :]
    values, _ = hinge_minimum(data, opponent)
    least = log_weights.amin(dim=(-2, -1), keepdim=True)  # HiGHS's tolerances are absolute
    scores, flows = hinge_programme(log_weights - least)
    proof = certify(log_weights, scores, loss_type="hinge", flows=flows * least.exp())
    path = hinge_bound(data, opponent, chain_potentials(data, opponent))
    errors = torch.stack([values - proof.lower_bound, values - path, proof.gap]).abs()
    return Evidence(float(errors.max()), tolerance, {"value": float(values.mean())})


def check_unbounded(
    data: TabularPolicy,
    opponent: TabularPolicy,
    *,
    beta: float,
    depth: float = 1e6,
    tolerance: float = ROUNDING,
) -> Evidence:
    """Check that the correlation penalty goes below any bound along :func:`descending_ray`.

    Parameters
    ----------
    data, opponent : TabularPolicy, shape (X, Y)
        p_data and p_t, different in every prompt.
    beta : float
        Pull towards the opponent, > 0, no unit.
    depth : float, default 1e6
        How far below 0 the objective is taken.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: error of the objective at the policy that the ray predicts to be at -depth,
        relative to depth and the scores it takes. `slope` is the ray's.

    Raises
    ------
    ValueError
        If shapes differ, or there is no ray as the two agree in a prompt.

    Examples
    --------
    >>> data, opponent = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> check_unbounded(data, opponent, beta=0.5).holds
    True
    """
    ray = descending_ray(data, opponent)
    if float(tv(data, opponent).min()) <= EQUAL_TV:
        raise ValueError(
            "opponent must differ from data for every prompt, or the objective does not fall"
        )
    problem = InnerProblem(
        data=data, sampler=opponent, reference=opponent, beta=beta, loss_type="correlation"
    )
    # At distance t along the ray the objective is 1 - slope t.
    policy = problem.policy(ray.direction * ((1 + depth) / ray.slope)[:, None])
    size = depth + problem.scores(policy).abs().amax(dim=-1)
    errors = (problem.values(policy) + depth).abs() / size
    return Evidence(float(errors.max()), tolerance, {"slope": float(ray.slope.min())})


def _convex(draw: Draw, loss_type: str, *, tspin: bool) -> Evidence:
    problem = InnerProblem(
        data=draw.small_data,
        sampler=draw.small_start,
        reference=None if tspin else draw.small_start,
        beta=draw.beta,
        loss_type=loss_type,
        initial=draw.small_other,
        history_weight=0.1 if tspin else 0.0,
    )
    return check_convexity(problem, draw.small_start, draw.small_other)


def _least_value(statement: str, source: str, loss_type: str, tolerance: Tolerance) -> Claim:
    return Claim(
        name="least value, {loss_type}",
        statement=statement,
        source=source,
        function=check_optimal_value,
        tolerance=tolerance,
        check=lambda draw, *_: check_optimal_value(
            draw.small_data,
            draw.small_start,
            draw.small_other,
            beta=draw.beta,
            loss_type=loss_type,
        ),
        loss_types=(loss_type,),
    )


CLAIMS = (
    Claim(
        name="convexity, SPIN {loss_type}",
        statement="SPIN's objective is convex in the log-probs of a table.",
        source="derived",
        function=check_convexity,
        tolerance=SUMS,
        check=lambda draw, _, loss_type: _convex(draw, loss_type, tspin=False),
        loss_types=tuple(PENALTIES),
    ),
    Claim(
        name="convexity, T-SPIN {loss_type}",
        statement="T-SPIN's objective is convex in the log-probs of a table, history included.",
        source="derived",
        function=check_convexity,
        tolerance=SUMS,
        check=lambda draw, _, loss_type: _convex(draw, loss_type, tspin=True),
        loss_types=tuple(PENALTIES),
    ),
    _least_value(
        "The least value of the logistic objective is `log 2 - JS(P, Q)`, with P and Q the two "
        "orders of a pair of a real and a generated response.",
        "SPIN, Lemma C.2",
        "logistic",
        FEW_TERMS,
    ),
    _least_value(
        "The least value of the hinge objective is the length of a shortest path, and at least "
        "`1 - TV(P, Q)`.",
        "derived",
        "hinge",
        SUMS,
    ),
    _least_value(
        "The least value of the exponential objective is `BC(p_data, p_t)^2`, the squared "
        "Bhattacharyya coefficient.",
        "derived",
        "exponential",
        ROUNDING,
    ),
    Claim(
        name="least value, hinge by HiGHS",
        statement="A linear programme and its dual give the shortest path's length too.",
        source="derived",
        function=check_hinge_duality,
        tolerance=PROGRAMME,
        check=lambda draw, *_: check_hinge_duality(draw.small_data, draw.small_start),
    ),
    Claim(
        name="unbounded, correlation",
        statement="The correlation objective has no least value where the opponent differs from "
        "the data: it falls without end along a ray.",
        source="derived",
        function=check_unbounded,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: check_unbounded(draw.small_data, draw.small_start, beta=draw.beta),
    ),
)
