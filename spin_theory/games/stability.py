"""Where self-play settles and how fast: multipliers, the linearised map, cycles, inexact runs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from spin_theory.divergences import tv
from spin_theory.games.opponents import OpponentRule, last_iterate
from spin_theory.games.solvers import GradientSteps
from spin_theory.inputs import number, whole
from spin_theory.losses import penalty_named, require_beta, require_weight
from spin_theory.minima.minimise import stationary
from spin_theory.minima.newton import UnsolvedError, log_pulls, require_newton
from spin_theory.minima.problems import InnerProblem
from spin_theory.policies import NotFiniteError, TabularPolicy
from spin_theory.tolerances import EPSILON, FIXED_POINT_STEP

__all__ = ["Linearisation", "fixed_point", "linearise"]

Policies = Sequence[TabularPolicy]

MOST_ITERATIONS = 10_000  # of the fixed point's search
SMALLEST_PART = 1e-12  # of a step of it
NEAR = 0.1  # total variation of a step below which it leaps: further away it may change basins
MOST_SEEN = 6  # iterates that a leap looks back at


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
    solver: GradientSteps | None = None,
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
        The penalty :math:`\ell`; the last two only with a `solver`.
    opponent : OpponentRule, default last_iterate
        Who generates, and the denominator.
    history_weight : float, default 0.0
        Weight of T-SPIN's history term, >= 0, no unit.
    sft_weight : float, default 0.0
        Weight of the SFT term, >= 0, per nat.
    solver : GradientSteps, optional
        How an iteration is solved, on the exact objective; by default it is solved exactly.

    Returns
    -------
    Linearisation
        The matrix and its multipliers.

    Raises
    ------
    ValueError
        If there is more than one prompt, too few policies, a solver that draws `pairs`, or no
        solver and a penalty that is not smooth.

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
    if solver is None:
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
    if solver is None:
        return _companion(_exact_step(problem, state), depth)

    def after(moved: Tensor) -> Tensor:  # log-probs of the next iterate, (Y,)
        start = _iterates(moved)[-1]
        return solver.differentiable(problem(moved), start=start).log_probs[0]

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


def fixed_point(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    opponent: OpponentRule = last_iterate,
    history_weight: float = 0.0,
    sft_weight: float = 0.0,
    damping: float | None = None,
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
    sft_weight : float, default 0.0
        Weight of the SFT term, >= 0, per nat.
    damping : float, optional
        Part d of the way to the next iterate that a step of the search goes at most, in (0, 1]. It
        makes 1 - d (1 - m) of a multiplier m and leaves the fixed point where it is. By default
        the one that makes 0 of the multiplier that exact play without history has, even above 1.
    tolerance : float, default 1e-14
        Total variation distance of the policy from the next step of the search, and from its next
        iterate, there times 1/beta where beta is small, as an iteration multiplies rounding.

    Returns
    -------
    TabularPolicy
        The fixed point found from `start`.

    Raises
    ------
    ValueError
        If none is found within 10,000 steps, or a parameter is out of its range.

    Notes
    -----
    T-SPIN without history: :math:`\propto p_{data}^{1/(1 + \alpha)}`, not the data. A step that
    ends further from its next iterate than the last one did is taken back, and the part halved.
    Near the end Anderson's mixing of the last iterates takes the place of plain steps.
    There may be other fixed points, and cycles that a game ends in instead.

    Examples
    --------
    >>> from spin_theory.games.opponents import without_reference
    >>> start, data = (TabularPolicy.from_probs([[p, 1 - p]]) for p in (0.4, 0.8))
    >>> fixed_point(start, data, beta=1.0, opponent=without_reference).probs  # odds sqrt(4)
    tensor([[0.6667, 0.3333]], dtype=torch.float64)
    """
    if damping is not None:
        damping = number("damping", damping)
        if not 0 < damping <= 1:
            raise ValueError(f"damping must be in (0, 1], got {damping!r}")
    tolerance = number("tolerance", tolerance)

    def direction(policy: TabularPolicy, scores: Tensor | None) -> tuple[Tensor, Tensor]:
        # From the policy's log-probs to those of its next iterate, and its scores.
        chosen = opponent([start, policy])
        problem = InnerProblem(
            data=data,
            sampler=chosen.sampler,
            reference=chosen.reference,
            beta=beta,
            loss_type=loss_type,
            initial=start,
            history_weight=history_weight,
            sft_weight=sft_weight,
        )
        scores = stationary(problem, start=scores).require_solved().scores
        onward = -policy.log_probs
        if chosen.reference is not None:  # in SPIN the policy: at a large beta only this is exact
            onward = chosen.reference.log_probs - policy.log_probs
        return scores / problem.beta + onward, scores

    def along(policy: TabularPolicy, step: Tensor) -> tuple[TabularPolicy, float]:
        # Where a step leads, and how far that is.
        there = TabularPolicy.from_logits(policy.log_probs + step)
        return there, float(tv(there, policy).max())

    usual = _part_to_rest(
        start, beta, loss_type, opponent, require_weight("sft_weight", sft_weight)
    )
    part = damping or usual
    rounding = tolerance / min(1.0, usual)  # an iteration multiplies that of scores by 1/beta
    policy, (step, scores) = start, direction(start, None)
    moved = along(policy, step)[1]
    seen: list[tuple[Tensor, Tensor]] = []  # log-probs and their steps, since the last detour
    for _ in range(MOST_ITERATIONS):
        plain, distance = along(policy, part * step)
        if moved <= rounding and distance <= tolerance:
            return policy
        free = step.mean(dim=-1, keepdim=True)  # a constant per prompt moves nothing
        seen = [*seen[-MOST_SEEN:], (policy.log_probs, step - free)]
        leap = _leap(seen, part) if moved < NEAR and len(seen) > 1 else None
        stepped = plain if leap is None else along(policy, leap)[0]
        try:
            further, found = direction(stepped, scores)
            now = along(stepped, further)[1]
        except (NotFiniteError, UnsolvedError):
            now = math.inf
        if leap is not None and now >= moved:
            seen = []  # the plain step is next
        elif now > moved + rounding:
            part, seen = part / 2, []
            if part < SMALLEST_PART:
                break
        else:
            policy, step, scores, moved = stepped, further, found, now
    raise ValueError(
        f"no fixed point within {MOST_ITERATIONS} steps: the last one moved by {moved:.1e}"
    )


def _leap(seen: Sequence[tuple[Tensor, Tensor]], part: float) -> Tensor:
    """Step to where the last steps, if they change linearly, would be 0: Anderson's mixing.

    Of the combinations of the last iterates the one whose step is least, in each prompt.
    """
    log_probs, steps = (torch.stack(parts, dim=-1) for parts in zip(*seen, strict=True))
    last = steps[..., -1:]  # (X, Y, 1)
    changes = steps.diff(dim=-1)  # (X, Y, m)
    gram = changes.mT @ changes
    ridge = EPSILON * gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None] + SMALLEST_PART**2
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype)
    shares = torch.linalg.solve(gram + ridge * eye, changes.mT @ last)
    leap: Tensor = part * last - (log_probs.diff(dim=-1) + part * changes) @ shares
    return leap[..., 0]


def _part_to_rest(
    start: TabularPolicy, beta: float, loss_type: str, opponent: OpponentRule, sft_weight: float
) -> float:
    """Part of a step at which exact play without history comes to rest in one: 1 / (1 - m)."""
    penalty = penalty_named(loss_type)
    if penalty.kinks or not penalty.bounded_below:
        return 0.5
    log_slope, log_curvature = penalty.log_derivatives(torch.zeros((), dtype=torch.float64))
    # Near the data an iteration moves log-probs by this many times the log-ratio: without an SFT
    # term 1/beta for logistic, half of it for exponential.
    stiffness = 2 * require_beta(beta) ** 2 * float(log_curvature.exp()) + sft_weight
    slope = beta * float(log_slope.exp())
    if opponent([start, start]).reference is not None:
        return stiffness / (slope + sft_weight)
    return stiffness / (slope + stiffness)
