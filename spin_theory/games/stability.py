"""Where self-play settles and how fast: multipliers, the linearised map, cycles, inexact runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from spin_theory.divergences import tv
from spin_theory.games.opponents import OpponentRule, last_iterate
from spin_theory.minima.minimise import stationary
from spin_theory.minima.newton import log_pulls, require_newton
from spin_theory.minima.problems import InnerProblem
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import FIXED_POINT_STEP

__all__ = ["Linearisation", "fixed_point", "linearise"]

Policies = Sequence[TabularPolicy]

MOST_ITERATIONS = 10_000  # of the fixed point's search


@dataclass(frozen=True)
class Linearisation:
    """One iteration of a game near some policies, as a matrix.

    Attributes
    ----------
    matrix : Tensor, shape (depth * Y, depth * Y)
        From the log-probs of the last `depth` iterates, newest first, to those one iteration
        later, to first order; constants per iterate are projected out.
    multipliers : Tensor, shape (depth * Y,), complex
        Its eigenvalues, the largest in absolute value first; no unit.
    """

    matrix: Tensor
    multipliers: Tensor

    @property
    def spectral_radius(self) -> float:
        """Factor by which a small deviation shrinks or grows, in the long run."""
        return float(self.multipliers.abs().max())


def linearise(
    policies: Policies,
    data: TabularPolicy,
    *,
    beta: float,
    depth: int = 1,
    loss_type: str = "logistic",
    opponent: OpponentRule = last_iterate,
    history_weight: float = 0.0,
) -> Linearisation:
    r"""Linearise one exact iteration of a game of one prompt.

    Parameters
    ----------
    policies : sequence of TabularPolicy, shape (1, Y)
        p_0, then the iterates up to p_t at which to linearise; at least `depth` after p_0.
    data : TabularPolicy, shape (1, Y)
        p_data.
    beta : float
        Scale on log-prob differences, > 0, no unit.
    depth : int, default 1
        How many of the last iterates the rule looks at: 2 for :func:`mixed_samples`.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty :math:`\ell`.
    opponent : OpponentRule, default last_iterate
        Who generates, and the denominator.
    history_weight : float, default 0.0
        Weight of T-SPIN's history term, >= 0, no unit.

    Returns
    -------
    Linearisation
        The matrix and its multipliers.

    Raises
    ------
    ValueError
        If there is more than one prompt, too few policies, or a penalty that is not smooth.

    Notes
    -----
    By the implicit function theorem: the scores f solve g(f, state) = 0, g the gradient of the
    inner problem, so df = -H^+ (dg/dstate), H the Hessian, a graph Laplacian.

    Examples
    --------
    >>> data = TabularPolicy.random(1, 4, seed=0, smallest=0.1)
    >>> round(linearise([data, data], data, beta=2.0).spectral_radius, 12)  # 1 - 1/2
    0.5
    """
    require_newton(loss_type)
    if len(data.log_probs) != 1:
        raise ValueError(f"data must have one prompt, got {len(data.log_probs)}")
    if not 1 <= depth <= len(policies) - 1:
        raise ValueError(f"depth must be from 1 to {len(policies) - 1}, got {depth!r}")
    earlier, tail = list(policies[:-depth]), policies[-depth:]
    responses = data.log_probs.shape[1]

    def problem(state: Tensor) -> InnerProblem:  # (depth, Y), newest first
        iterates = [TabularPolicy.from_logits(row[None]) for row in state.flip(0)]
        chosen = opponent([*earlier, *iterates])
        return InnerProblem(
            data=data,
            sampler=chosen.sampler,
            reference=chosen.reference,
            beta=beta,
            loss_type=loss_type,
            initial=policies[0],
            history_weight=history_weight,
        )

    state = torch.cat([policy.log_probs for policy in reversed(tail)]).detach()
    scores = stationary(problem(state)).scores.detach()  # (1, Y)

    def gradient(moved: Tensor) -> Tensor:  # g of the objective in the scores, (Y,)
        pulls = log_pulls(scores, problem(moved).log_pair_weights(), loss_type)[0].exp()
        return (pulls.sum(dim=-2) - pulls.sum(dim=-1))[0]

    def log_reference(moved: Tensor) -> Tensor:
        reference = problem(moved).reference
        return moved.sum() * data.log_probs[0] * 0 if reference is None else reference.log_probs[0]

    # H: the Laplacian of the pairs' curvatures. It is singular along constants, which are free.
    curvature = log_pulls(scores, problem(state).log_pair_weights(), loss_type)[1].exp()[0].detach()
    curvature = curvature + curvature.T
    curvature.fill_diagonal_(0.0)
    hessian = curvature.sum(dim=-1).diag() - curvature
    push: Tensor = jacobian(gradient, state)  # type: ignore[no-untyped-call]
    carried: Tensor = jacobian(log_reference, state)  # type: ignore[no-untyped-call]
    ones = torch.ones_like(hessian) / responses  # the null space, lifted
    # df = -H^+ dg, and log p_{t+1} = log p_ref + f / beta: one step of the map, without constants.
    moved_scores = -torch.linalg.solve(hessian + ones * hessian.diagonal().mean(), push.flatten(1))
    step = carried.flatten(1) + moved_scores / beta  # (Y, depth * Y)
    centre = torch.eye(responses, dtype=step.dtype) - ones
    centres = torch.kron(torch.eye(depth, dtype=step.dtype), centre)
    blocks = centre @ step @ centres
    # The companion form of a rule of some depth: all earlier iterates move down by one place.
    shift = torch.eye((depth - 1) * responses, depth * responses, dtype=step.dtype)
    matrix = torch.cat([blocks, shift @ centres])
    multipliers = torch.linalg.eigvals(matrix)
    return Linearisation(matrix, multipliers[multipliers.abs().argsort(descending=True)])


def fixed_point(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    opponent: OpponentRule = last_iterate,
    history_weight: float = 0.0,
    damping: float = 0.5,
    tolerance: float = FIXED_POINT_STEP,
) -> TabularPolicy:
    r"""Policy that an exact iteration leaves unchanged, whether or not the game reaches it.

    Parameters
    ----------
    start, data : TabularPolicy, shape (X, Y)
        p_0, which T-SPIN's history term holds on to, and p_data.
    beta : float
        Scale on log-prob differences, > 0, no unit.
    loss_type : {'logistic', 'hinge', 'exponential'}, default 'logistic'
        The penalty.
    opponent : OpponentRule, default last_iterate
        Who generates, and the denominator; called with p_0 and the candidate.
    history_weight : float, default 0.0
        Weight of T-SPIN's history term, >= 0, no unit.
    damping : float, default 0.5
        Part of the way to the next iterate that a step goes, in (0, 1]; below 1, negative
        multipliers lose their cycles and the fixed point does not move.
    tolerance : float, default 1e-14
        Total variation distance of the policy and its next iterate.

    Returns
    -------
    TabularPolicy
        The fixed point found from `start`.

    Raises
    ------
    ValueError
        If none is found within 10,000 steps.

    Notes
    -----
    T-SPIN without history: :math:`\propto p_{data}^{1/(1 + \alpha)}`, not the data.

    Examples
    --------
    >>> from spin_theory.games.opponents import without_reference
    >>> start, data = (TabularPolicy.from_probs([[p, 1 - p]]) for p in (0.4, 0.8))
    >>> fixed_point(start, data, beta=1.0, opponent=without_reference).probs  # odds sqrt(4)
    tensor([[0.6667, 0.3333]], dtype=torch.float64)
    """
    if not 0 < damping <= 1:
        raise ValueError(f"damping must be in (0, 1], got {damping!r}")
    policy, updated, moved = start, None, math.inf
    for _ in range(MOST_ITERATIONS):
        chosen = opponent([start, policy])
        problem = InnerProblem(
            data=data,
            sampler=chosen.sampler,
            reference=chosen.reference,
            beta=beta,
            loss_type=loss_type,
            initial=start,
            history_weight=history_weight,
        )
        near = None if updated is None else problem.scores(updated)
        updated = problem.policy(stationary(problem, start=near).scores)
        moved = float(tv(updated, policy).max())
        if moved <= tolerance:
            return policy
        policy = TabularPolicy.from_logits(
            (1 - damping) * policy.log_probs + damping * updated.log_probs
        )
    raise ValueError(
        f"no fixed point within {MOST_ITERATIONS} steps: the last one moved by {moved:.1e}"
    )
