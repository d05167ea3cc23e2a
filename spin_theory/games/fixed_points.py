"""Where self-play rests: the search for a fixed point of the map, by Anderson's mixing."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from spin_theory.divergences import tv
from spin_theory.games.opponents import OpponentRule, last_iterate
from spin_theory.inputs import number
from spin_theory.losses import penalty_named, require_beta, require_weight
from spin_theory.minima.minimise import stationary
from spin_theory.minima.newton import UnsolvedError
from spin_theory.minima.problems import InnerProblem
from spin_theory.policies import NotFiniteError, TabularPolicy
from spin_theory.tolerances import EPSILON, FIXED_POINT_STEP

__all__ = ["fixed_point"]

Policies = Sequence[TabularPolicy]

MOST_ITERATIONS = 10_000
SMALLEST_PART = 1e-12  # of a step
NEAR = 0.1  # total variation of a step below which it leaps: further away it may change basins
MOST_GROWN = 300  # steps in a row, or not, that end further away than they began
MOST_SEEN = 6  # iterates that a leap looks back at


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
    ends further from its next iterate than the last one did is taken back and the part halved, but
    not below a sixteenth: on the way to some fixed points steps grow first. Where many such small
    ones grow, they get smaller still.
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
    least, grown = part / 16, 0
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
            further, found, now = step, scores, math.inf
        if leap is not None and now >= moved:
            seen = []  # the plain step is next
        elif now > moved + rounding and (part > least or now == math.inf):
            part, seen = part / 2, []
            if part < SMALLEST_PART:
                break
        else:
            if now > moved + rounding and (grown := grown + 1) == MOST_GROWN:
                least, grown = least / 4, 0
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
