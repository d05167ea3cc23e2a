"""Objectives and the sums in them, against sums over all pairs that are written out."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error, written_out
from spin_theory.losses import PENALTIES
from spin_theory.minima.newton import log_pulls
from spin_theory.minima.problems import InnerProblem
from spin_theory.objectives.logistic_sums import logistic_pair_sum
from spin_theory.objectives.objectives import average_penalty, spin_objective, tspin_objective
from spin_theory.objectives.pair_sums import dense_expected_penalty, expected_penalty
from spin_theory.objectives.window_sums import (
    running_sums,
    running_sums_of_the_others,
    sorted_order,
)
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import ROUNDING, SUMS

__all__ = ["CLAIMS", "check_inner_problem", "check_pair_sums", "check_running_sums"]

Numbers = NDArray[np.float64]


def check_pair_sums(
    policy: TabularPolicy,
    opponent: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check SPIN's objective and the sums that compute it, in linear time or not.

    Parameters
    ----------
    policy, opponent, data : TabularPolicy, shape (1, Y)
        p_theta, p_t and p_data.
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest error of a value, relative to the sum of its terms' sizes, and of a
        gradient in the scores, relative to that of its largest entry.

    Raises
    ------
    ValueError
        If shapes differ, `beta` is not finite and > 0, or nothing is written out for the penalty.

    Examples
    --------
    >>> policy, opponent, data = (TabularPolicy.random(1, 40, seed=seed) for seed in range(3))
    >>> check_pair_sums(policy, opponent, data, beta=0.5, loss_type="hinge").holds
    True
    """
    formula = written_out(_PENALTIES, loss_type)
    scores = (beta * (policy.log_probs - opponent.log_probs)).requires_grad_()
    tables = scores, data.log_probs, opponent.log_probs
    claimed = expected_penalty(*tables, loss_type=loss_type)
    (gradient,) = torch.autograd.grad(claimed.sum(), scores)
    scores = scores.detach()
    found = [
        float(claimed.detach()),
        float(spin_objective(policy, opponent, data, beta=beta, loss_type=loss_type)),
    ]
    gradients = [gradient[0].numpy()]
    if loss_type == "logistic":
        values, slopes = logistic_pair_sum(scores, data.probs, opponent.probs)
        found.append(float(values))
        gradients.append(slopes[0].numpy())
    f = scores[0].numpy()
    log_weights = data.log_probs[0].numpy()[:, None] + opponent.log_probs[0].numpy()[None, :]
    terms, pulls = formula(f[:, None] - f[None, :], log_weights)
    np.fill_diagonal(pulls, 0.0)  # a response's margin with itself does not move
    size, expected = np.abs(terms).sum(), terms.sum()
    slope = pulls.sum(axis=0) - pulls.sum(axis=1)
    largest = (pulls.sum(axis=0) + pulls.sum(axis=1)).max()
    # The scores' own rounding moves a value by its slope.
    rounding = size + largest * np.abs(f).max()
    errors = [abs(value - expected) / rounding for value in found]
    errors += [float(np.abs(each - slope).max() / largest) for each in gradients]
    return Evidence(largest_error(errors), tolerance, {"objective": found[0]})


def check_inner_problem(
    problem: InnerProblem, policy: TabularPolicy, *, tolerance: float = ROUNDING
) -> Evidence:
    r"""Check the objective of one iteration, its scores and its weights, with all that it has.

    Parameters
    ----------
    problem : InnerProblem
        SPIN's, a variant's or T-SPIN's inner problem.
    policy : TabularPolicy, shape (X, Y)
        Where it is evaluated.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest error of the objective against a sum over all triplets, of the
        weight of each pair, of the pulls and curvatures of Newton's method, and of the policy
        that the scores give back.

    Raises
    ------
    ValueError
        If shapes differ or nothing is written out for the penalty.

    Examples
    --------
    >>> data, opponent, start = (TabularPolicy.random(2, 4, seed=seed) for seed in range(3))
    >>> problem = InnerProblem(
    ...     data=data, sampler=opponent, reference=None, beta=2.0, initial=start,
    ...     history_weight=0.1,
    ... )
    >>> check_inner_problem(problem, start).holds
    True
    """
    formula = written_out(_PENALTIES, problem.loss_type)
    weight, initial = problem.history_weight, problem.initial
    sampler = problem.sampler.probs.numpy()
    pairs = problem.data.probs.numpy()[:, :, None] * sampler[:, None, :]
    if weight > 0 and initial is not None:
        pairs = pairs + weight * sampler[:, :, None] * initial.probs.numpy()[:, None, :]
    log_ratios = policy.log_probs.numpy()
    if problem.reference is not None:
        log_ratios = log_ratios - problem.reference.log_probs.numpy()
    scores = problem.beta * log_ratios
    margins = scores[:, :, None] - scores[:, None, :]
    terms, pulls = formula(margins, np.log(pairs))
    expected, sizes = terms.sum(axis=(-2, -1)), np.abs(terms).sum(axis=(-2, -1))
    sizes = sizes + pulls.sum(axis=(-2, -1)) * np.abs(scores).max(axis=-1)
    at = torch.from_numpy(scores)
    found = [problem.values(policy), problem.score_values(at)]
    if weight == 0:
        tables = (problem.data.log_probs, problem.sampler.log_probs)
        for average in (average_penalty, dense_expected_penalty):
            found.append(average(at, *tables, loss_type=problem.loss_type))
    if problem.reference is None and initial is not None:
        value = tspin_objective(
            policy,
            problem.sampler,
            initial,
            problem.data,
            beta=problem.beta,
            history_weight=weight,
            loss_type=problem.loss_type,
        )
        found.append(value.expand(len(expected)) + torch.from_numpy(expected - expected.mean()))
    errors = [float((np.abs(values.numpy() - expected) / sizes).max()) for values in found]
    # The penalty that the problem gives is the one of the table, with all that it says.
    errors.append(0.0 if problem.penalty is PENALTIES[problem.loss_type] else np.inf)
    log_weights = problem.log_pair_weights()
    back = problem.policy(problem.scores(policy))
    errors += [
        float(np.abs(problem.scores(policy).numpy() - scores).max() / (1 + np.abs(scores).max())),
        float(
            np.abs(log_weights.numpy() - np.log(pairs)).max() / (1 + np.abs(np.log(pairs)).max())
        ),
        float((back.log_probs - policy.log_probs).abs().max() / (1 + np.abs(log_ratios).max())),
    ]
    if problem.penalty.suits_newton:
        log_pull, log_curvature = log_pulls(problem.scores(policy), log_weights, problem.loss_type)
        curvature = _CURVATURES[problem.loss_type](margins)
        for found_log, right in ((log_pull, pulls), (log_curvature, pairs * curvature)):
            both = found_log.exp().numpy(), right
            errors.append(
                float(
                    (np.abs(both[0] - both[1]) / (1e-300 + right)).max()
                    / (1 + np.abs(margins).max())
                )
            )
    return Evidence(largest_error(errors), tolerance, {"objective": float(found[0].mean())})


def check_running_sums(values: Tensor, weights: Tensor, *, tolerance: float = ROUNDING) -> Evidence:
    """Check the sorted sums that the hinge and the logistic penalty are made of.

    Parameters
    ----------
    values : Tensor, shape (X, Y)
        Numbers to sort, finite, float64.
    weights : Tensor, shape (X, Y)
        Numbers to sum, >= 0, float64.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest error relative to a sum; infinite where the order is not that of
        the values.

    Examples
    --------
    >>> check_running_sums(torch.randn(2, 50).double(), torch.rand(2, 50).double()).holds
    True
    """
    numbers, masses = values.numpy(), weights.numpy()
    order = sorted_order(values).numpy()
    errors = [0.0 if (order == numbers.argsort(axis=-1, kind="stable")).all() else np.inf]
    totals = masses.cumsum(axis=-1)
    sizes = np.maximum(totals, 1e-300)
    errors.append(float((np.abs(running_sums(weights).numpy() - totals) / sizes).max()))
    # Each place reaches up to the next square: places that never fall, and are not behind.
    responses = masses.shape[-1]
    places = np.arange(responses)
    last = np.minimum((np.floor(np.sqrt(places)) + 1).astype(np.int64) ** 2, responses - 1)
    last = np.maximum(last, places)
    others = running_sums_of_the_others(weights, torch.from_numpy(np.tile(last, (len(masses), 1))))
    reached = (places[None, :] <= last[:, None]) & (places[None, :] != places[:, None])
    right = masses @ reached.T.astype(np.float64)
    errors.append(float((np.abs(others.numpy() - right) / np.maximum(right, 1e-300)).max()))
    return Evidence(largest_error(errors), tolerance, {"total": float(totals[:, -1].mean())})


def _logistic(t: Numbers, log_weights: Numbers) -> tuple[Numbers, Numbers]:
    weights = np.exp(log_weights)
    return weights * np.logaddexp(0, -t), weights * np.exp(-np.logaddexp(0, t))


def _hinge(t: Numbers, log_weights: Numbers) -> tuple[Numbers, Numbers]:
    weights = np.exp(log_weights)
    return weights * np.maximum(0, 1 - t), weights * (t <= 1)


def _exponential(t: Numbers, log_weights: Numbers) -> tuple[Numbers, Numbers]:
    terms = np.exp(log_weights - t)
    return terms, terms.copy()


def _correlation(t: Numbers, log_weights: Numbers) -> tuple[Numbers, Numbers]:
    weights = np.exp(log_weights)
    return weights * (1 - t), weights


_PENALTIES: dict[str, Callable[[Numbers, Numbers], tuple[Numbers, Numbers]]] = {
    "logistic": _logistic,
    "hinge": _hinge,
    "exponential": _exponential,
    "correlation": _correlation,
}
"""Weight times penalty, and weight times the slope's size, of margins and log-weights."""

_CURVATURES: dict[str, Callable[[Numbers], Numbers]] = {
    "logistic": lambda t: np.exp(-np.logaddexp(0, t) - np.logaddexp(0, -t)),
    "exponential": lambda t: np.exp(-t),
}
"""l''(t)."""


CLAIMS = (
    Claim(
        name="objective over all pairs, {loss_type}",
        statement="SPIN's objective, whichever way it is summed, is the expected penalty over all "
        "pairs of a real and a generated response, and so is its gradient.",
        source="SPIN, eq. (4.7)",
        function=check_pair_sums,
        tolerance=ROUNDING,
        check=lambda draw, _, loss_type: check_pair_sums(
            draw.other, draw.opponent, draw.data, beta=draw.beta, loss_type=loss_type
        ),
        loss_types=tuple(PENALTIES),
    ),
    Claim(
        name="objective over all triplets, {loss_type}",
        statement="T-SPIN's objective is the expected loss over all triplets. Its scores, weights "
        "and derivatives are those of the formula.",
        source="T-SPIN, eq. (7)",
        function=check_inner_problem,
        tolerance=SUMS,
        check=lambda draw, _, loss_type: check_inner_problem(
            InnerProblem(
                data=draw.small_data,
                sampler=draw.small_start,
                reference=None,
                beta=draw.beta,
                loss_type=loss_type,
                initial=draw.small_other,
                history_weight=0.1,
            ),
            draw.small_other,
        ),
        loss_types=tuple(PENALTIES),
    ),
    Claim(
        name="sorted sums",
        statement="The sums over sorted responses that the objectives need are those of numpy's "
        "sort and of plain additions.",
        source="derived",
        function=check_running_sums,
        tolerance=SUMS,
        check=lambda draw, *_: check_running_sums(draw.other.log_probs, draw.data.probs),
    ),
)
