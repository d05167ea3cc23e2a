"""What the iterates of a game show: multipliers and cycles read off the tables."""

import numpy as np
from torch import Tensor

from spin_theory.divergences import tv
from spin_theory.games.stability import Policies
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import CYCLE_TV, ROUNDING

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
    """Period of the cycle in which a sequence of iterates ended.

    Parameters
    ----------
    policies : sequence of TabularPolicy, shape (X, Y)
        Consecutive iterates.
    tolerance : float, default 1e-9
        Total variation distance below which two iterates are the same.

    Returns
    -------
    int or None
        1 for a fixed point, k for a cycle of k iterates, None where the last half of the
        iterates repeats with no period up to a quarter of their number.

    Examples
    --------
    >>> from spin_theory.games.play import play
    >>> start, data = (TabularPolicy.random(1, 5, seed=seed, smallest=0.1) for seed in (0, 1))
    >>> cycle_length(play(start, data, beta=0.5, iterations=8).policies)
    2
    """
    late = policies[len(policies) // 2 :]
    for period in range(1, len(policies) // 4 + 1):
        pairs = zip(late, late[period:], strict=False)
        if all(float(tv(one, other).max()) <= tolerance for one, other in pairs):
            return period
    return None


def _centred(policy: TabularPolicy, limit: TabularPolicy) -> Tensor:
    log_ratios = policy.log_probs - limit.log_probs
    return log_ratios - log_ratios.mean(dim=-1, keepdim=True)
