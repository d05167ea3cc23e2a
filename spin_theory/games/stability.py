"""One iteration of a game near some policies as a matrix: its multipliers and their size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from spin_theory.games.opponents import OpponentRule, last_iterate
from spin_theory.games.solvers import GradientSteps, Solver
from spin_theory.inputs import whole
from spin_theory.minima.closed_forms import exact
from spin_theory.minima.minimise import minimiser, stationary
from spin_theory.minima.newton import log_pulls, require_newton
from spin_theory.minima.problems import InnerProblem
from spin_theory.policies import TabularPolicy

__all__ = ["Linearisation", "linearise"]

Policies = Sequence[TabularPolicy]


@dataclass(frozen=True)
class Linearisation:
    """One iteration of a game near some policies, as a matrix.

    It says what becomes of small deviations. A game from far away may end in a cycle although
    every small deviation shrinks (`check_tspin_fixed_point`).

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
    sft_weight: float = 0.0,
    solver: Solver = exact,
) -> Linearisation:
    r"""Linearise one iteration of a game of one prompt, exact or by some steps of an optimiser.

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
    loss_type : {'logistic', 'exponential', 'hinge', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`; the last two only with `GradientSteps`.
    opponent : OpponentRule, default last_iterate
        Who generates, and the denominator.
    history_weight : float, default 0.0
        Weight of T-SPIN's history term, >= 0, no unit.
    sft_weight : float, default 0.0
        Weight of the SFT term, >= 0, per nat.
    solver : Solver, default exact
        How an iteration is solved: `exact` or `minimiser`, which are the same here, or
        `GradientSteps` on the exact objective.

    Returns
    -------
    Linearisation
        The matrix and its multipliers.

    Raises
    ------
    ValueError
        If there is more than one prompt, too few policies, a solver that draws `pairs` or is not
        one of these, or an exact one and a penalty that is not smooth.

    Notes
    -----
    Exact iterations by the implicit function theorem: the scores f solve g(f, state) = 0, g the
    gradient of the inner problem, so df = -H^+ (dg/dstate), H the Hessian, a graph Laplacian.
    Steps of an optimiser are differentiated one by one, automatically.

    Examples
    --------
    >>> data = TabularPolicy.random(1, 4, seed=0, smallest=0.1)
    >>> round(linearise([data, data], data, beta=2.0).spectral_radius, 12)  # 1 - 1/2
    0.5
    """
    steps = solver if isinstance(solver, GradientSteps) else None
    if steps is None and solver not in (exact, minimiser):
        raise ValueError(f"solver must be exact, minimiser or GradientSteps(...), got {solver!r}")
    if steps is None:
        require_newton(loss_type)
    if len(data.log_probs) != 1:
        raise ValueError(f"data must have one prompt, got {len(data.log_probs)}")
    depth = whole("depth", depth, least=1)
    if depth > len(policies) - 1:
        raise ValueError(f"depth must be from 1 to {len(policies) - 1}, got {depth!r}")
    earlier, tail = list(policies[:-depth]), policies[-depth:]

    def problem(state: Tensor) -> InnerProblem:  # (depth, Y), newest first
        chosen = opponent([*earlier, *_iterates(state)])
        return InnerProblem(
            data=data,
            sampler=chosen.sampler,
            reference=chosen.reference,
            beta=beta,
            loss_type=loss_type,
            initial=policies[0],
            history_weight=history_weight,
            sft_weight=sft_weight,
        )

    state = torch.cat([policy.log_probs for policy in reversed(tail)]).detach()
    if steps is None:
        return _companion(_exact_step(problem, state), depth)

    def after(moved: Tensor) -> Tensor:  # log-probs of the next iterate, (Y,)
        start = _iterates(moved)[-1]
        return steps.differentiable(problem(moved), start=start).log_probs[0]

    step: Tensor = jacobian(after, state, vectorize=True)  # type: ignore[no-untyped-call]
    return _companion(step.flatten(1), depth)


def _iterates(state: Tensor) -> list[TabularPolicy]:
    """Policies of a state (depth, Y), the oldest first."""
    return [TabularPolicy.from_logits(row[None]) for row in state.flip(0)]


def _exact_step(problem: Callable[[Tensor], InnerProblem], state: Tensor) -> Tensor:
    """Differentiate the next log-probs in the state, (Y, depth * Y), but for constants."""
    at = problem(state)
    beta, loss_type = at.beta, at.loss_type
    scores = stationary(at).require_solved().scores.detach()  # (1, Y)

    def gradient(moved: Tensor) -> Tensor:  # g of the objective in the scores, (Y,)
        there = problem(moved)
        pulls = log_pulls(scores, there.log_pair_weights(), loss_type, there.sft)[0].exp()
        return (pulls.sum(dim=-2) - pulls.sum(dim=-1))[0]

    def log_reference(moved: Tensor) -> Tensor:
        reference = problem(moved).reference
        return moved.sum() * scores[0] * 0 if reference is None else reference.log_probs[0]

    # H: the Laplacian of the pairs' curvatures. It is singular along constants, which are free.
    curvature = log_pulls(scores, at.log_pair_weights(), loss_type, at.sft)[1].exp()[0].detach()
    curvature = curvature + curvature.T
    curvature.fill_diagonal_(0.0)
    hessian = curvature.sum(dim=-1).diag() - curvature
    push: Tensor = jacobian(gradient, state)  # type: ignore[no-untyped-call]
    carried: Tensor = jacobian(log_reference, state)  # type: ignore[no-untyped-call]
    # df = -H^+ dg, and log p_{t+1} = log p_ref + f / beta: one step of the map, without constants.
    moved_scores = -_solve_laplacian(hessian, push.flatten(1))
    step: Tensor = carried.flatten(1) + moved_scores / beta
    return step


def _companion(step: Tensor, depth: int) -> Linearisation:
    """Companion form of a rule of some depth: all earlier iterates move down by one place."""
    responses = len(step)
    eye = torch.eye(responses, dtype=step.dtype)
    centre = eye - 1 / responses
    centres = torch.kron(torch.eye(depth, dtype=step.dtype), centre)
    shift = torch.eye((depth - 1) * responses, depth * responses, dtype=step.dtype)
    matrix = torch.cat([centre @ step @ centres, shift @ centres])
    multipliers = torch.linalg.eigvals(matrix)
    return Linearisation(matrix, multipliers[multipliers.abs().argsort(descending=True)])


def _solve_laplacian(laplacian: Tensor, right: Tensor) -> Tensor:
    """Solve a singular system (Y, Y), up to constants, whatever the range of its weights."""
    diagonal = laplacian.diagonal()
    scale = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()  # 0 where there is one response
    free = (1 / scale) / torch.linalg.vector_norm(1 / scale)  # the null vector, scaled: lifted
    scaled = scale[:, None] * laplacian * scale + torch.outer(free, free)
    solution: Tensor = torch.linalg.solve(scaled, scale[:, None] * right)
    return scale[:, None] * solution
