"""One iteration of SPIN on tables: in closed form, and by minimising the objective."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spin_theory.minima.certificates import Certificate, certify, hinge_programme
from spin_theory.minima.hinge import chain_potentials, hinge_bound, hinge_minimum
from spin_theory.minima.newton import Stationary, newton
from spin_theory.minima.optimal import optimal_value, optimality_gap
from spin_theory.minima.problems import InnerProblem
from spin_theory.policies import (
    TabularPolicy,
    prompt_average,
    prompt_weights,
)
from spin_theory.tolerances import EQUAL_TV

__all__ = ["Minimum", "minimise", "minimise_problem", "minimiser_update", "solve"]


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
        What no policy can go below (:func:`optimal_value`); the solver does not enter it.
    gap : float
        Objective above the least possible one, by :func:`optimality_gap`.
    gradient_norm : float
        Euclidean norm of the objective's gradient in the policy's logits; nan for hinge, which
        is not differentiable at its minimiser.
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
    prompt_probs: Tensor | None = None,
) -> Minimum:
    r"""Minimise (4.7) over all policies from the opponent, and certify the minimum.

    Parameters
    ----------
    opponent, data : TabularPolicy, shape (X, Y)
        p_t, where the search starts, and p_data.
    beta : float
        Pull towards the opponent, > 0, no unit. Written :math:`\lambda` in [1]_.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`.
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
        If shapes differ, `beta` is not finite and > 0, `loss_type` is unknown, `prompt_probs`
        is not a distribution, or the penalty is correlation and the opponent is not the data:
        then the objective is unbounded below.

    Notes
    -----
    In the advantages :math:`f = \beta \log(p_\theta/p_t)` the normaliser cancels and the
    objective is convex. Logistic and exponential by :func:`newton` from f = 0, which knows no
    closed form; hinge by a shortest path, :func:`hinge_minimum`, with the bound that its dual
    proves, :func:`hinge_bound`.

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
        data=data, sampler=opponent, reference=opponent, beta=beta, loss_type=loss_type
    )
    if loss_type == "hinge":
        _, scores = hinge_minimum(data, opponent)
        solution = Stationary(scores, torch.full_like(scores, math.nan), steps=0)
    else:
        solution = _stationary(problem)
    policy = problem.policy(solution.scores)
    gap = optimality_gap(
        policy, opponent, data, beta=beta, loss_type=loss_type, prompt_probs=prompt_probs
    )
    if loss_type == "hinge":
        proven = hinge_bound(data, opponent, chain_potentials(data, opponent))
        least = prompt_average(proven, prompt_probs)
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
        The policy and its certificate, by :func:`certify`.

    Raises
    ------
    ValueError
        If `prompt_probs` is not a distribution, the objective is unbounded below (correlation),
        or HiGHS resolves the hinge's weights no more.

    Notes
    -----
    Logistic and exponential by :func:`newton`, hinge by :func:`hinge_programme`.

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
    if problem.loss_type == "hinge":
        scores, flows = hinge_programme(log_weights)
        solution = Stationary(scores, torch.full_like(scores, math.nan), steps=0)
        proof = certify(log_weights, scores, loss_type="hinge", flows=flows)
    elif problem.loss_type == "correlation":
        solution = _stationary(problem)
        value = problem.score_values(solution.scores)
        proof = Certificate(lower_bound=value, gap=torch.zeros_like(value))
    else:
        solution = _stationary(problem)
        proof = certify(log_weights, solution.scores, loss_type=problem.loss_type)
    least, gap = (prompt_average(part, prompt_probs) for part in (proof.lower_bound, proof.gap))
    return _minimum(problem, solution, least, gap, prompt_probs)


def minimiser_update(
    opponent: TabularPolicy, data: TabularPolicy, *, beta: float, loss_type: str = "logistic"
) -> TabularPolicy:
    """Next iterate by :func:`minimise`: what :func:`closed_form_update` claims, searched for.

    Parameters
    ----------
    opponent, data : TabularPolicy, shape (X, Y)
        p_t and p_data.
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty.

    Returns
    -------
    TabularPolicy
        The minimiser found.

    Raises
    ------
    ValueError
        As :func:`minimise`.

    Examples
    --------
    >>> opponent = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> data = TabularPolicy.from_probs([[0.8, 0.2]])
    >>> minimiser_update(opponent, data, beta=1.0, loss_type="exponential").probs
    tensor([[0.6667, 0.3333]], dtype=torch.float64)
    """
    return solve(
        InnerProblem(
            data=data, sampler=opponent, reference=opponent, beta=beta, loss_type=loss_type
        )
    )


def solve(problem: InnerProblem, *, start: TabularPolicy | None = None) -> TabularPolicy:
    """Policy that minimises an iteration's objective, without a certificate.

    Parameters
    ----------
    problem : InnerProblem
        SPIN's, a variant's or T-SPIN's inner problem.
    start : TabularPolicy, shape (X, Y), optional
        Where the search begins; by default where all scores are 0. The answer is the same.

    Returns
    -------
    TabularPolicy
        The minimiser; all prompts at once.

    Raises
    ------
    ValueError
        As :func:`minimise_problem`.

    Examples
    --------
    >>> data, opponent = (TabularPolicy.random(1, 4, seed=seed) for seed in (0, 1))
    >>> problem = InnerProblem(data=data, sampler=opponent, reference=opponent, beta=1.0)
    >>> torch.allclose(solve(problem).probs, data.probs)  # beta = 1: one step to the data
    True
    """
    if problem.loss_type != "hinge":
        near = None if start is None else problem.scores(start)
        return problem.policy(_stationary(problem, near).scores)
    if problem.history_weight == 0:
        return problem.policy(hinge_minimum(problem.data, problem.sampler)[1])
    return problem.policy(hinge_programme(problem.log_pair_weights())[0])


def _stationary(problem: InnerProblem, start: Tensor | None = None) -> Stationary:
    """Where the gradient in the scores is zero, for the penalties that have one."""
    if problem.loss_type != "correlation":
        solution = newton(problem.log_pair_weights(), loss_type=problem.loss_type, start=start)
        return replace(solution, gradient=problem.beta * solution.gradient)
    # Linear in the scores: the slope, 0 but for rounding where the tables are equal.
    gradient = problem.sampler.probs - problem.data.probs
    if problem.history_weight > 0 and problem.initial is not None:
        history = problem.initial.probs - problem.sampler.probs
        gradient = gradient + problem.history_weight * history
    gradient = gradient.detach()
    if float(gradient.abs().sum(dim=-1).max()) / 2 > EQUAL_TV * (1 + problem.history_weight):
        raise ValueError(
            "loss_type correlation has no minimum: its objective is unbounded below unless the "
            "opponent is the data; see descending_ray"
        )
    return Stationary(torch.zeros_like(gradient), problem.beta * gradient, steps=0)


def _minimum(
    problem: InnerProblem,
    solution: Stationary,
    least: Tensor,
    gap: Tensor,
    prompt_probs: Tensor | None,
) -> Minimum:
    policy = problem.policy(solution.scores)
    weights = prompt_weights(len(policy.log_probs), prompt_probs)[:, None]
    return Minimum(
        policy=policy,
        objective=float(prompt_average(problem.values(policy), prompt_probs)),
        lower_bound=float(least),
        gap=float(gap),
        gradient_norm=float((weights * solution.gradient).norm()),
        steps=solution.steps,
    )
