"""Objectives with an SFT term, and their certificates."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error, written_out
from spin_theory.claims.instances import Draw
from spin_theory.divergences import tv
from spin_theory.games.gradients import logit_gradient
from spin_theory.minima.certificates import certify
from spin_theory.minima.minimise import minimise_problem, minimiser
from spin_theory.minima.problems import InnerProblem
from spin_theory.objectives.objectives import spin_objective, tspin_objective
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import ROUNDING, STATIONARY

__all__ = [
    "CLAIMS",
    "check_sft_certificate",
    "check_sft_objective",
]

Numbers = NDArray[np.float64]


def check_sft_objective(
    problem: InnerProblem, policy: TabularPolicy, *, tolerance: float = ROUNDING
) -> Evidence:
    r"""Check an objective with an SFT term, and its gradient in the logits, against their sums.

    Parameters
    ----------
    problem : InnerProblem
        SPIN's or T-SPIN's, `sft_weight` > 0.
    policy : TabularPolicy, shape (X, Y)
        Where it is evaluated.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest error of a value, relative to its terms, and of a gradient, relative
        to the terms of its largest entry.

    Raises
    ------
    ValueError
        If shapes differ or nothing is written out for the penalty.

    Examples
    --------
    >>> data, opponent, policy = (TabularPolicy.random(1, 4, seed=seed) for seed in range(3))
    >>> problem = InnerProblem(
    ...     data=data, sampler=opponent, reference=opponent, beta=2.0, sft_weight=0.1
    ... )
    >>> check_sft_objective(problem, policy).holds
    True
    """
    formula, slope = written_out(_PENALTIES, problem.loss_type)
    real, generated = problem.data.probs.numpy(), problem.sampler.probs.numpy()
    pairs = real[:, :, None] * generated[:, None, :]
    log_ratios = log_probs = policy.log_probs.numpy()
    beta, history, weight = problem.beta, problem.history_weight, problem.sft_weight
    if problem.reference is not None:
        log_ratios = log_ratios - problem.reference.log_probs.numpy()
        value = spin_objective(
            policy,
            problem.sampler,
            problem.data,
            beta=beta,
            loss_type=problem.loss_type,
            sft_weight=weight,
        )
    else:
        initial = problem.data if problem.initial is None else problem.initial
        pairs = pairs + history * generated[:, :, None] * initial.probs.numpy()[:, None, :]
        value = tspin_objective(
            policy,
            problem.sampler,
            initial,
            problem.data,
            beta=beta,
            history_weight=history,
            loss_type=problem.loss_type,
            sft_weight=weight,
        )
    margins = beta * (log_ratios[:, :, None] - log_ratios[:, None, :])
    terms = pairs * formula(margins)
    expected = terms.sum(axis=(-2, -1)) - weight * (real * log_probs).sum(axis=-1)
    pulls = beta * pairs * slope(margins) * (1 - np.eye(pairs.shape[-1]))
    gradient = pulls.sum(axis=-1) - pulls.sum(axis=-2) + weight * (np.exp(log_probs) - real)
    size = np.abs(terms).sum(axis=(-2, -1)) + weight * np.abs(log_probs).max(axis=-1)
    size = size + np.abs(pulls).sum(axis=(-2, -1)) * np.abs(log_ratios).max(axis=-1)
    found = problem.values(policy).numpy()
    scale = float(np.abs(pulls).sum() + weight)
    slopes = logit_gradient(problem)(policy.log_probs.T).T.numpy()
    errors = [
        float((np.abs(found - expected) / size).max()),
        abs(float(value) - float(expected.mean())) / float(size.max()),
        float(np.abs(slopes - gradient).max()) / scale,
    ]
    return Evidence(largest_error(errors), tolerance, {"objective": float(value)})


def check_sft_certificate(
    problem: InnerProblem, scores: Tensor, *, tolerance: float = STATIONARY
) -> Evidence:
    r"""Check the certificate of an objective with an SFT term, at any scores and at the minimum.

    Parameters
    ----------
    problem : InnerProblem
        SPIN's or T-SPIN's, `sft_weight` > 0, logistic or exponential.
    scores : Tensor, shape (X, Y)
        Any scores, no unit.
    tolerance : float, default 1e-10
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual, relative to the objective: how far bound plus gap are from the objective at the
        scores; how far the bound is above the objective at the minimum; the gap there; and what
        :func:`minimise_problem` says of both.

    Raises
    ------
    ValueError
        If nothing is written out for the penalty.

    Examples
    --------
    >>> data, opponent = (TabularPolicy.random(1, 4, seed=seed) for seed in range(2))
    >>> problem = InnerProblem(
    ...     data=data, sampler=opponent, reference=opponent, beta=0.5, sft_weight=0.1
    ... )
    >>> check_sft_certificate(problem, 0.1 * opponent.log_probs).holds
    True
    """
    formula = written_out(_PENALTIES, problem.loss_type)[0]
    log_weights = problem.log_pair_weights()

    def objective(policy: TabularPolicy) -> Numbers:
        log_probs = policy.log_probs.numpy()
        at = problem.scores(policy).numpy()
        terms = np.exp(log_weights.numpy()) * formula(at[:, :, None] - at[:, None, :])
        real = -(problem.data.probs.numpy() * log_probs).sum(axis=-1)
        values: Numbers = terms.sum(axis=(-2, -1)) + problem.sft_weight * real
        return values

    found = minimise_problem(problem)
    least, value = objective(found.policy), objective(problem.policy(scores))
    proof = certify(log_weights, scores, loss_type=problem.loss_type, sft=problem.sft)
    bound, gap = proof.lower_bound.numpy(), proof.gap.numpy()
    size = np.abs(value) + np.abs(scores.numpy()).max(axis=-1)
    errors = [
        float((np.abs(bound + gap - value) / size).max()),
        float(((bound - least) / least).max()),
        abs(found.objective - float(least.mean())) / float(least.mean()),
        abs(found.lower_bound - float(least.mean())) / float(least.mean()),
        abs(found.gap) / float(least.mean()),
        float(tv(minimiser(problem), found.policy).max()),
    ]
    return Evidence(largest_error(errors), tolerance, {"gap": float(gap.mean())})


_PENALTIES: dict[str, tuple[Callable[[Numbers], Numbers], Callable[[Numbers], Numbers]]] = {
    "logistic": (lambda t: np.logaddexp(0, -t), lambda t: -np.exp(-np.logaddexp(0, t))),
    "hinge": (lambda t: np.maximum(0, 1 - t), lambda t: -(t <= 1).astype(np.float64)),
    "exponential": (lambda t: np.exp(-t), lambda t: -np.exp(-t)),
    "correlation": (lambda t: 1 - t, lambda t: -np.ones_like(t)),
}
"""l and l' of a margin."""


def _problem(draw: Draw, loss_type: str) -> InnerProblem:
    """SPIN's problem or, for an odd seed, T-SPIN's."""
    tspin = draw.instance.seed % 2 == 1
    return InnerProblem(
        data=draw.small_data,
        sampler=draw.small_start,
        reference=None if tspin else draw.small_start,
        beta=draw.beta,
        loss_type=loss_type,
        initial=draw.small_other,
        history_weight=0.1 if tspin else 0.0,
        sft_weight=draw.sft_weight,
    )


CLAIMS = (
    Claim(
        name="objective with an SFT term, {loss_type}",
        statement="With an SFT term of weight w SPIN's and T-SPIN's objectives gain w times the "
        "expected negative log-prob of real responses, and their gradients in the logits "
        "`w (p - p_data)`.",
        source="derived",
        function=check_sft_objective,
        tolerance=ROUNDING,
        check=lambda draw, _, loss_type: check_sft_objective(
            _problem(draw, loss_type), draw.small_other
        ),
        loss_types=tuple(_PENALTIES),
    ),
    Claim(
        name="certificate with an SFT term, {loss_type}",
        statement="With an SFT term lower bound plus gap are the objective, at any scores. The "
        "bound is below the least value, and equal to it at the minimiser.",
        source="derived",
        function=check_sft_certificate,
        tolerance=STATIONARY,
        check=lambda draw, _, loss_type: check_sft_certificate(
            _problem(draw, loss_type), 0.1 * draw.small_other.log_probs
        ),
        loss_types=("logistic", "exponential"),
    ),
)
