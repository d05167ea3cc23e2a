"""Games so near the data that everything is linear: what the claims about rates are checked on."""

from collections.abc import Sequence

import torch

from spin_theory.games.opponents import OpponentRule
from spin_theory.games.play import play
from spin_theory.inputs import generator
from spin_theory.policies import TabularPolicy

__all__ = ["deviations", "excess", "near", "next_iterate"]


def near(data: TabularPolicy, count: int, seed: int, size: float) -> list[TabularPolicy]:
    """Draw policies so near the data that everything is linear.

    Parameters
    ----------
    data : TabularPolicy, shape (X, Y)
        p_data, Y >= 2.
    count : int
        How many policies.
    seed : int
        Of the draws.
    size : float
        Their log-ratios to the data, about, in nats.

    Returns
    -------
    list of TabularPolicy
        The policies.

    Raises
    ------
    ValueError
        If there is only one response.
    """
    if data.log_probs.shape[-1] < 2:
        raise ValueError("data must have at least 2 responses: one alone has no deviation")
    source = generator(seed)
    shifts = torch.randn(count, *data.log_probs.shape, generator=source, dtype=torch.float64)
    return [TabularPolicy.from_logits(data.log_probs + size * shift) for shift in shifts]


def next_iterate(
    history: Sequence[TabularPolicy],
    data: TabularPolicy,
    beta: float,
    loss_type: str,
    rule: OpponentRule,
) -> TabularPolicy:
    """Play one more iteration after some that ended with `history`.

    Parameters
    ----------
    history : sequence of TabularPolicy, shape (X, Y)
        The iterates so far; at least one.
    data : TabularPolicy, shape (X, Y)
        p_data.
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'exponential'}
        The penalty.
    rule : OpponentRule
        Who generates, and the denominator.

    Returns
    -------
    TabularPolicy
        The next iterate, solved exactly.
    """
    past = history[:-1]
    game = play(
        history[-1],
        data,
        beta=beta,
        iterations=1,
        loss_type=loss_type,
        opponent=lambda policies: rule([*past, *policies]),
    )
    return game.policies[-1]


def excess(found: torch.Tensor, terms: Sequence[torch.Tensor]) -> float:
    """Tell how far a deviation is from the sum of some terms.

    Parameters
    ----------
    found : Tensor, shape (X, Y)
        The deviation, in nats.
    terms : sequence of Tensor, shape (X, Y)
        What it should be the sum of.

    Returns
    -------
    float
        The largest error, relative to the largest term.
    """
    size = max(float(term.abs().max()) for term in terms)
    return float((found - sum(terms)).abs().max()) / size


def deviations(policies: Sequence[TabularPolicy], data: TabularPolicy) -> torch.Tensor:
    """Take log-ratios to the data, centred for each prompt.

    Parameters
    ----------
    policies : sequence of TabularPolicy, shape (X, Y)
        T of them.
    data : TabularPolicy, shape (X, Y)
        p_data.

    Returns
    -------
    Tensor, shape (T, X, Y)
        In nats.
    """
    deviations = torch.stack([policy.log_probs for policy in policies]) - data.log_probs
    return deviations - deviations.mean(dim=-1, keepdim=True)
