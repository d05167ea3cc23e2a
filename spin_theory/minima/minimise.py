"""One iteration of self-play on tables, by a search that uses no closed form.

`minimise` is SPIN's iteration with a certificate, `minimise_problem` any iteration's, `minimiser`
the same without the certificate, as a solver for games. All three search by `stationary`.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spin_theory.minima.certificates import certify
from spin_theory.minima.closed_forms import linear_scores
from spin_theory.minima.kinks import search_for
from spin_theory.minima.newton import Stationary, newton
from spin_theory.minima.optimal import optimal_value, optimality_gap
from spin_theory.minima.problems import InnerProblem
from spin_theory.policies import (
    TabularPolicy,
    prompt_average,
    prompt_weights,
)
from spin_theory.tolerances import EQUAL_TV

__all__ = ["Minimum", "minimise", "minimise_problem", "minimiser", "stationary"]


@dataclass(frozen=True)
class Minimum:
    """What :func:`minimise` found, and the proof that it is the minimum.

    Attributes
    ----------
    policy : TabularPolicy, shape (X, Y)
        The minimiser.
    objective : float
        Its value of (4.7).
    lower_bound : float
        What no policy can go below, rounded down (:func:`optimal_value`, :func:`certify`).
    gap : float
        How far this policy's objective is above the least possible one, at most; it keeps its
        digits far below the rounding of either.
    gradient_norm : float
        Euclidean norm of the objective's gradient in the policy's logits where the search ended;
        nan for hinge, which is not differentiable at its minimiser.
    steps : int
        Newton steps taken; 0 where there was nothing to iterate.
    """

    policy: TabularPolicy
    objective: float
    lower_bound: float
    gap: float
    gradient_norm: float
    steps: int


def minimise(
    opponent: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    sft_weight: float = 0.0,
    prompt_probs: Tensor | None = None,
) -> Minimum:
    r"""Minimise (4.7) over all policies from the opponent, and certify the minimum.

    Parameters
    ----------
    opponent, data : TabularPolicy, shape (X, Y)
        p_t, where the search starts, and p_data.
    beta : float
        Pull towards the opponent, > 0, no unit. SPIN's :math:`\lambda`.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`.
    sft_weight : float, default 0.0
        Weight of the SFT term, >= 0, per nat.
    prompt_probs : Tensor, shape (X,), optional
        Distribution q(x) that objective, bound, gap and gradient are averaged over; uniform by
        default. Each prompt is minimised on its own, so the policy does not depend on it.

    Returns
    -------
    Minimum
        The policy and its certificate. The solver raises nothing when it stops early; `gap`
        says how far it came.

    Raises
    ------
    ValueError
        If shapes differ, `beta` is not finite and > 0, `sft_weight` not finite and >= 0,
        `loss_type` is unknown, `prompt_probs` is not a distribution, the penalty is correlation
        and the objective has no minimum, or it is hinge and has an SFT term.

    Notes
    -----
    In the advantages :math:`f = \beta \log(p_\theta/p_t)` the normaliser cancels and the
    objective is convex. Logistic and exponential by :func:`newton` from f = 0, which knows no
    closed form; hinge by a shortest path, `hinge_minimum`, with the bound that its dual
    proves, `hinge_bound`.

    Examples
    --------
    >>> opponent = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> minimum = minimise(opponent, TabularPolicy.from_probs([[0.8, 0.2]]), beta=2.0)
    >>> minimum.policy.probs
    tensor([[0.6667, 0.3333]], dtype=torch.float64)
    >>> minimum.gap < 1e-20
    True
    """
    problem = InnerProblem(
        data=data,
        sampler=opponent,
        reference=opponent,
        beta=beta,
        loss_type=loss_type,
        sft_weight=sft_weight,
    )
    if problem.sft is not None:  # no formula for the least value
        return minimise_problem(problem, prompt_probs=prompt_probs)
    solution = stationary(problem, prompt_probs=prompt_probs)
    policy = problem.policy(solution.scores)
    gap = optimality_gap(
        policy, opponent, data, beta=beta, loss_type=loss_type, prompt_probs=prompt_probs
    )
    if problem.penalty.kinks:
        least = prompt_average(search_for(problem.penalty).bound(data, opponent), prompt_probs)
    else:
        least = optimal_value(opponent, data, loss_type=loss_type, prompt_probs=prompt_probs)
    return _minimum(problem, solution, least, gap, prompt_probs)


def minimise_problem(problem: InnerProblem, *, prompt_probs: Tensor | None = None) -> Minimum:
    r"""Minimise any iteration's objective over all policies, and certify the minimum.

    Parameters
    ----------
    problem : InnerProblem
        SPIN's, a variant's or T-SPIN's inner problem.
    prompt_probs : Tensor, shape (X,), optional
        Distribution q(x) that objective, bound, gap and gradient are averaged over; uniform by
        default.

    Returns
    -------
    Minimum
        The policy and its certificate, by :func:`certify`: that of the policy that is returned,
        whose log-probs round the scores of the search where beta is large.

    Raises
    ------
    ValueError
        If `prompt_probs` is not a distribution, the objective has no minimum (correlation), the
        hinge's weights are more than about 14,000 nats apart, or it has an SFT term.

    Notes
    -----
    Logistic and exponential by :func:`newton`, hinge by `hinge_programme`.

    Examples
    --------
    >>> data, opponent = (TabularPolicy.random(1, 4, seed=seed) for seed in (0, 1))
    >>> tspin = InnerProblem(
    ...     data=data, sampler=opponent, reference=None, beta=1.0, initial=opponent,
    ...     history_weight=0.1,
    ... )
    >>> minimise_problem(tspin).gap < 1e-20
    True
    """
    log_weights = problem.log_pair_weights().detach()
    flows = None
    if problem.penalty.kinks and problem.sft is None:
        scores, flows = search_for(problem.penalty).programme(log_weights)
        solution = _without_gradient(scores)
    else:
        solution = stationary(problem, prompt_probs=prompt_probs)
    # The policy's own scores: at a large beta its log-probs cannot hold the solver's.
    policy = problem.policy(solution.scores)
    scores = problem.scores(policy).detach()
    values = problem.score_values(scores)
    if problem.penalty.bounded_below:
        found, kept = (
            certify(log_weights, claimed, loss_type=problem.loss_type, flows=flows, sft=problem.sft)
            for claimed in (solution.scores, scores)
        )
        least = torch.maximum(found.lower_bound, kept.lower_bound)
        gaps = torch.minimum(kept.gap, (values - least).clamp(min=0))
    elif problem.sft is not None:  # a straight line, whose slope the term balances: KL is left
        best = problem.sft.log_probs(solution.scores)
        gaps = problem.sft_weight * (best.exp() * (best - policy.log_probs)).sum(-1).clamp(min=0)
        least = values - gaps
    else:  # flat: every policy has this value
        least, gaps = values, torch.zeros_like(values)
    least, gap = (prompt_average(part, prompt_probs) for part in (least, gaps))
    return _minimum(problem, solution, least, gap, prompt_probs)


def minimiser(
    problem: InnerProblem,
    *,
    start: TabularPolicy | None = None,
    generator: torch.Generator | None = None,
) -> TabularPolicy:
    """Policy that minimises an iteration's objective, uncertified; a solver for :func:`play`.

    Parameters
    ----------
    problem : InnerProblem
        SPIN's, a variant's or T-SPIN's; any but correlation away from the data.
    start : TabularPolicy, shape (X, Y), optional
        The last iterate, which every solver of a game is given. It is not needed here: the search
        begins where all scores are 0.
    generator : torch.Generator, optional
        The same.

    Returns
    -------
    TabularPolicy
        The global minimiser; all prompts at once.

    Raises
    ------
    ValueError
        As :func:`minimise_problem`.
    UnsolvedError
        If the search stopped before the minimum; it is a ValueError too.

    Examples
    --------
    >>> data, opponent = (TabularPolicy.random(1, 4, seed=seed) for seed in (0, 1))
    >>> problem = InnerProblem(data=data, sampler=opponent, reference=opponent, beta=1.0)
    >>> torch.allclose(minimiser(problem).probs, data.probs)  # beta = 1: one step to the data
    True
    """
    return problem.policy(stationary(problem).require_solved().scores)


def stationary(
    problem: InnerProblem, *, start: Tensor | None = None, prompt_probs: Tensor | None = None
) -> Stationary:
    """Scores that minimise an iteration's objective; every function of this module uses it.

    Parameters
    ----------
    problem : InnerProblem
        Any.
    start : Tensor, shape (X, Y), optional
        Scores that Newton's method starts from, no unit; 0 by default.
    prompt_probs : Tensor, shape (X,), optional
        Distribution of the prompts: one that never comes needs no minimum.

    Returns
    -------
    Stationary
        Scores, the gradient in the policy's logits (nan for a penalty with kinks) and the steps.

    Raises
    ------
    ValueError
        As :func:`minimise_problem`.
    """
    penalty = problem.penalty
    if not penalty.bounded_below:
        return _flat(problem, prompt_probs)
    if penalty.kinks:
        if problem.sft is not None:
            raise ValueError(
                f"loss_type {penalty.name} has no search with an SFT term; in a game the solver "
                "GradientSteps takes both"
            )
        search = search_for(penalty)
        if problem.history_weight == 0:
            return _without_gradient(search.chain(problem.data, problem.sampler)[1])
        return _without_gradient(search.programme(problem.log_pair_weights())[0])
    weights = problem.log_pair_weights()
    solution = newton(weights, loss_type=problem.loss_type, start=start, sft=problem.sft)
    return replace(solution, gradient=problem.beta * solution.gradient)


def _flat(problem: InnerProblem, prompt_probs: Tensor | None) -> Stationary:
    """Scores 0 of a penalty without lower bound, if their gradient is 0: a straight line's is."""
    if problem.sft is not None:
        scores = linear_scores(problem)
        return Stationary(scores, torch.zeros_like(scores), steps=0)
    slope = problem.penalty.slope_at_zero
    gradient = slope * (problem.data.probs - problem.sampler.probs)  # (X, Y)
    if problem.history_weight > 0 and problem.initial is not None:
        history = slope * (problem.sampler.probs - problem.initial.probs)
        gradient = gradient + problem.history_weight * history
    gradient = gradient.detach()
    equal = -slope * EQUAL_TV * (1 + problem.history_weight)  # 0 but for rounding
    counted = prompt_weights(len(gradient), prompt_probs) > 0
    if float(gradient[counted].abs().sum(dim=-1).max()) / 2 > equal:
        raise ValueError(
            f"loss_type {problem.loss_type} has no minimum: its objective is unbounded below "
            "unless the opponent is the data; see descending_ray"
        )
    return Stationary(torch.zeros_like(gradient), problem.beta * gradient, steps=0)


def _without_gradient(scores: Tensor) -> Stationary:
    """Where a search ended at a kink, which has no gradient."""
    return Stationary(scores, torch.full_like(scores, math.nan), steps=0)


def _minimum(
    problem: InnerProblem,
    solution: Stationary,
    least: Tensor,
    gap: Tensor,
    prompt_probs: Tensor | None,
) -> Minimum:
    policy = problem.policy(solution.scores)
    weights = prompt_weights(len(policy.log_probs), prompt_probs)[:, None]  # (X, 1)
    objective = float(prompt_average(problem.values(policy), prompt_probs))
    return Minimum(
        policy=policy,
        objective=objective,
        lower_bound=min(objective, float(least)),  # rounding alone can make it larger
        gap=float(gap),
        gradient_norm=float((weights * solution.gradient).norm()),
        steps=solution.steps,
    )
