"""Games so near the data that everything is linear: what the claims about rates are checked on."""

from collections.abc import Sequence

import torch

from spin_theory.games.opponents import OpponentRule
from spin_theory.games.play import play
from spin_theory.inputs import generator
from spin_theory.policies import TabularPolicy

__all__ = ["deviations", "excess", "near", "next_iterate"]


def near(data: TabularPolicy, count: int, seed: int, size: float) -> list[TabularPolicy]:
    """Draw policies so near the data that everything is linear: log-ratios of about `size`."""
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
    """Play one more iteration after some that ended with `history`."""
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
    """How far a deviation is from the sum of some terms, relative to the largest of them."""
    size = max(float(term.abs().max()) for term in terms)
    return float((found - sum(terms)).abs().max()) / size


def deviations(policies: Sequence[TabularPolicy], data: TabularPolicy) -> torch.Tensor:
    """Log-ratios to the data, centred for each prompt: (T, X, Y)."""
    deviations = torch.stack([policy.log_probs for policy in policies]) - data.log_probs
    return deviations - deviations.mean(dim=-1, keepdim=True)
