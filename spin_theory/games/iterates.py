"""What the iterates of a game show: multipliers and cycles read off the tables."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor

from spin_theory.games.stability import Policies
from spin_theory.inputs import number, whole
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import CYCLE_TV, EPSILON, ROUNDING

__all__ = ["cycle_length", "observed_multipliers"]


def observed_multipliers(
    policies: Policies, limit: TabularPolicy, *, order: int = 1
) -> tuple[complex, ...]:
    r"""Estimate the multipliers of a sequence of iterates by a least-squares fit of a recurrence.

    Parameters
    ----------
    policies : sequence of TabularPolicy, shape (X, Y)
        Consecutive iterates; more than `order`.
    limit : TabularPolicy, shape (X, Y)
        What deviations are taken from: the fixed point.
    order : int, default 1
        How many earlier deviations the next one is a combination of.

    Returns
    -------
    tuple of complex
        Roots of the fitted recurrence, no unit, the largest in absolute value first.

    Raises
    ------
    ValueError
        If there are too few policies, or none deviates.

    Notes
    -----
    Deviations are log-ratios to the limit, centred per prompt, each equation scaled to the size
    of its deviations, so that late ones count as much as early ones; what deviates by rounding
    alone is left out.

    Examples
    --------
    >>> from spin_theory.games.play import play
    >>> start, data = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> game = play(start, data, beta=4.0, iterations=3)
    >>> round(observed_multipliers(game.policies, data)[0].real, 12)  # 1 - 1/4
    0.75
    """
    order = whole("order", order, least=1)
    if len(policies) <= order:
        raise ValueError(f"there must be more policies than order, got {len(policies)} and {order}")
    rows = [_centred(policy, limit).flatten().numpy() for policy in policies]
    rounding = ROUNDING * float(1 + limit.log_probs.abs().max())
    knowns, unknowns = [], []
    for index in range(order, len(rows)):
        past = np.stack(rows[index - order : index][::-1], axis=1)  # newest first
        scale = np.abs(past).max()
        if scale > rounding:
            knowns.append(past / scale)
            unknowns.append(rows[index] / scale)
    if not knowns:
        raise ValueError("policies must deviate from the limit by more than rounding; none does")
    solution = np.linalg.lstsq(np.concatenate(knowns), np.concatenate(unknowns), rcond=None)[0]
    roots = np.roots(np.concatenate([[1.0], -solution]))
    return tuple(complex(root) for root in sorted(roots, key=abs, reverse=True))


def cycle_length(policies: Policies, *, tolerance: float = CYCLE_TV) -> int | None:
    r"""Period with which a sequence of iterates came to repeat itself.

    Parameters
    ----------
    policies : sequence of TabularPolicy, shape (X, Y)
        Consecutive iterates.
    tolerance : float, default 1e-9
        Largest log-ratio of two iterates that count as the same, in nats, > 0.

    Returns
    -------
    int or None
        1 where the iterates settled, k where they repeat every k iterations. None where the last
        half repeats with no period up to a quarter of their number, or may still be on its way:
        where no iterate is further than the tolerance from the next one, or the distances over
        one period do not shrink enough to add up to less than it.

    Raises
    ------
    ValueError
        If `tolerance` is not > 0.

    Notes
    -----
    Iterates are compared by :math:`\max_y |\log p(y) / p'(y)|`, as a game that diverges soon
    alternates between two point masses, which total variation cannot tell from a cycle. The
    distances over one period, :math:`d_s`, count as shrinking to their end by the factor q that
    they shrank by from first to last, so that :math:`d q / (1 - q)` is still to come. That is
    what the iterates show, not a proof: a game whose steps are below rounding looks settled.

    Examples
    --------
    >>> from spin_theory.games.play import play
    >>> start, data = (TabularPolicy.random(1, 5, seed=seed, smallest=0.1) for seed in (0, 1))
    >>> cycle_length(play(start, data, beta=0.5, iterations=8).policies)
    2
    """
    allowed = number("tolerance", tolerance)
    if not allowed > 0:
        raise ValueError(f"tolerance must be > 0, got {tolerance!r}")
    tables = [policy.log_probs for policy in policies]
    moves = [_furthest(one, other) for one, other in pairwise(tables)]
    if max(moves, default=0.0) <= allowed:
        return None
    late = tables[len(tables) // 2 :]
    for period in range(1, len(tables) // 4 + 1):
        gaps = [_furthest(one, other) for one, other in zip(late, late[period:], strict=False)]
        if max(gaps) <= allowed:
            return period if _still_to_come(gaps, late, period) <= allowed else None
    return None


def _furthest(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _still_to_come(gaps: Sequence[float], tables: Sequence[Tensor], period: int) -> float:
    """How far a sequence goes on if its gaps go on to shrink as they did, in nats."""
    # What rounding makes of a log-prob in one period; gaps of that size are none.
    rounding = 8 * EPSILON * period * float(1 + tables[-1].abs().max())
    first, last = gaps[0], gaps[-1]
    if last <= rounding:
        return 0.0
    if len(gaps) < 2 or last >= first:
        return math.inf
    shrinkage: float = (last / first) ** (1 / (len(gaps) - 1))
    return last * shrinkage / (1 - shrinkage)


def _centred(policy: TabularPolicy, limit: TabularPolicy) -> Tensor:
    log_ratios = policy.log_probs - limit.log_probs
    return log_ratios - log_ratios.mean(dim=-1, keepdim=True)
