"""What is claimed of SPIN's objective and its values, as checks that can say no."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.divergences import bhattacharyya, js, tv
from spin_theory.losses import penalty_named, spin_loss
from spin_theory.minima.certificates import certify, descending_ray
from spin_theory.minima.hinge import chain_potentials, hinge_bound, hinge_minimum, hinge_programme
from spin_theory.minima.minimise import minimise
from spin_theory.minima.optimal import optimality_gap
from spin_theory.minima.problems import InnerProblem
from spin_theory.objectives.objectives import spin_objective
from spin_theory.policies import TabularPolicy, prompt_average, require_same_shape
from spin_theory.tolerances import EQUAL_TV, PROGRAMME, ROUNDING

__all__ = [
    "check_convexity",
    "check_degeneracy",
    "check_distance_bounds",
    "check_hinge_duality",
    "check_optimal_value",
    "check_unbounded",
    "pair_policies",
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
        What is claimed to be convex, from a policy to shape (X,); the problem's by default.
    tolerance : float, default 1e-12
        What the residual may be.

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
        What the residual may be.

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
    else:
        values, advantages = hinge_minimum(data, opponent)
        least = prompt_average(values, None)
        cheap = prompt_average(1 - tv(pairs, swapped), None)
        tight = data.log_probs.shape[1] <= 2
        errors.append(abs(float(cheap - least)) if tight else float(cheap - least))
        order = (data.log_probs - opponent.log_probs).argsort(dim=-1, stable=True)
        errors.append(float((-advantages.gather(-1, order).diff(dim=-1)).clamp(min=0).sum()))
    errors.append(abs(found.objective - float(least)))
    value, gap = (
        float(measure(other, opponent, data, beta=beta, loss_type=loss_type))
        for measure in (spin_objective, optimality_gap)
    )
    errors.append(abs(value - float(least) - gap) / (1 + value))
    return Evidence(
        largest_error(errors), tolerance, {"minimum": found.objective, "gap": found.gap}
    )


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
        What the residual may be.

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
        What the residual may be.

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
    else:
        reach = float((scores.amax(dim=-1) - scores.amin(dim=-1)).max())
        flat = TabularPolicy.from_logits(data.log_probs + scores / (beta * max(1.0, reach)))
        errors.append(
            abs(float(spin_objective(flat, data, data, beta=beta, loss_type="hinge")) - 1)
        )
        errors.append(-rise)
    return Evidence(largest_error(errors), tolerance, {"rise": rise})


def check_hinge_duality(
    data: TabularPolicy, opponent: TabularPolicy, *, tolerance: float = PROGRAMME
) -> Evidence:
    """Check the shortest path of the hinge against its linear programme and its dual.

    Parameters
    ----------
    data, opponent : TabularPolicy, shape (X, Y)
        p_data and p_t, of probabilities that HiGHS resolves: above about 1e-5.
    tolerance : float, default 1e-9
        What the residual may be.

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
        What the residual may be.

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
        raise ValueError("opponent must differ from data in every prompt: there is no ray")
    problem = InnerProblem(
        data=data, sampler=opponent, reference=opponent, beta=beta, loss_type="correlation"
    )
    policy = problem.policy(ray.direction * ((1 + depth) / ray.slope)[:, None])
    size = depth + problem.scores(policy).abs().amax(dim=-1)
    errors = (problem.values(policy) + depth).abs() / size
    return Evidence(float(errors.max()), tolerance, {"slope": float(ray.slope.min())})
