"""Lower bounds of the hinge's objective that any potentials prove."""

import numpy as np
import torch
from torch import Tensor

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.claims.instances import Draw
from spin_theory.minima.hinge import chain_potentials, hinge_bound
from spin_theory.minima.optimal import optimal_value
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import ROUNDING

__all__ = ["CLAIMS", "check_hinge_bound"]


def check_hinge_bound(
    data: TabularPolicy,
    opponent: TabularPolicy,
    potentials: Tensor,
    *,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check the bound that potentials prove for the hinge, whether or not they are the best.

    Parameters
    ----------
    data, opponent : TabularPolicy, shape (X, Y)
        p_data and p_t.
    potentials : Tensor, shape (X, Y + 1)
        Any numbers.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the error of the bound against the potentials' rise, less Y times the largest
        amount by which a step between two prefixes rises above its cost; how far that bound, or
        the one of the best potentials, is above the least value; and the error of the best
        potentials, each of which is the cheapest way to its prefix.

    Raises
    ------
    ValueError
        If shapes differ.

    Examples
    --------
    >>> data, opponent = (TabularPolicy.random(1, 4, seed=seed) for seed in (0, 1))
    >>> check_hinge_bound(data, opponent, torch.ones(1, 5, dtype=torch.float64)).holds
    True
    """
    errors = []
    best = chain_potentials(data, opponent)
    claimed, tight = (hinge_bound(data, opponent, each) for each in (potentials, best))
    least = optimal_value(opponent, data, loss_type="hinge")
    order = (data.log_probs - opponent.log_probs).argsort(dim=-1, stable=True)
    for row, ranking in enumerate(order.tolist()):
        below = np.concatenate([[0.0], np.cumsum(data.probs[row, ranking].numpy())])
        above = 1 - np.concatenate([[0.0], np.cumsum(opponent.probs[row, ranking].numpy())])
        above[-1] = 0.0
        costs = above[:, None] * below[None, :]  # from prefix a to prefix b
        forward = np.triu(np.ones_like(costs, dtype=bool), 1)
        rises = potentials[row].numpy()[None, :] - potentials[row].numpy()[:, None]
        violation = max(0.0, float((rises - costs)[forward].max()))
        proved = float(rises[0, -1]) - len(ranking) * violation
        errors.append(abs(float(claimed[row]) - proved) / (1 + abs(proved)))
        cheapest = [0.0]
        for end in range(1, len(below)):
            cheapest.append(min(cheapest[a] + costs[a, end] for a in range(end)))
        errors.append(float(np.abs(best[row].numpy() - np.array(cheapest)).max()))
        errors += [proved - cheapest[-1], abs(float(tight[row]) - cheapest[-1])]
    errors.append(abs(float(least) - float(tight.mean())))
    return Evidence(largest_error(errors), tolerance, {"bound": float(claimed.mean())})


def _potentials(draw: Draw) -> Tensor:
    best = chain_potentials(draw.small_data, draw.small_start)
    return best * torch.linspace(1, 3, best.shape[-1], dtype=best.dtype)


CLAIMS = (
    Claim(
        name="hinge, bound of any potentials",
        statement="Any numbers on the prefixes of the order of `p_data / p_t` bound the hinge "
        "objective from below, after what they violate has been taken off.",
        source="derived",
        function=check_hinge_bound,
        tolerance=ROUNDING,
        check=lambda draw, *_: check_hinge_bound(
            draw.small_data, draw.small_start, _potentials(draw)
        ),
    ),
)
