"""Gradients of saved weights, in float64 and outside of the trainer.

The expectations are sums over the whole space, so nothing here is sampled. Norms of a Llama go
through float32 even where its weights are float64, which leaves about seven digits.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spin_theory.objectives.objectives import spin_objective
from spin_theory.policies import TabularPolicy
from spin_train.lab.world import Space

__all__ = ["cosine", "fisher_modes", "gradient", "sft_gradient", "spin_gradient"]

Loss = Callable[[Tensor], Tensor]
"""From the log-probs (X, Y) of a whole table to a scalar."""


def gradient(model: Any, space: Space, loss: Loss) -> Tensor:
    """Gradient of a loss on the model's table in all of its parameters, one vector (P,)."""
    log_probs = torch.stack(space.table(model).log_probs)  # (X, Y)
    parts = torch.autograd.grad(loss(log_probs), list(model.parameters()))
    return torch.cat([part.flatten() for part in parts])


def spin_gradient(
    model: Any, space: Space, opponent: TabularPolicy, data: TabularPolicy, *, beta: float
) -> Tensor:
    """Take the expected gradient of SPIN's loss over all pairs of p_data and the opponent (P,)."""

    def loss(log_probs: Tensor) -> Tensor:
        policy = TabularPolicy.from_logits(log_probs)  # margins are those of the unnormalised ones
        return spin_objective(policy, opponent, data, beta=beta)

    return gradient(model, space, loss)


def sft_gradient(model: Any, space: Space, data: TabularPolicy) -> Tensor:
    """Take the expected gradient of SFT's loss, the negative log-prob of real responses (P,)."""
    return gradient(model, space, lambda log_probs: -(data.probs * log_probs).sum(-1).mean())


def cosine(one: Tensor, other: Tensor) -> float:
    """Cosine of the angle between two gradients."""
    return float(one @ other / (one.norm() * other.norm()))


def fisher_modes(model: Any, space: Space) -> tuple[Tensor, Tensor]:
    r"""Eigenvalues of the network's Fisher matrix, and its modes as changes of the table.

    The Fisher matrix :math:`F = J^T D J` has one row per parameter, J the derivatives of all
    log-probs given the space and D their probabilities with those of the prompts. Its eigenvalues
    that are not 0 are those of :math:`D^{1/2} J J^T D^{1/2}`, one row per response.

    Returns
    -------
    eigenvalues : Tensor, shape (X * Y,)
        Largest first, no unit.
    modes : Tensor, shape (X * Y, X * Y)
        Column i is the mode of eigenvalue i: the coefficient of a change of the table along it is
        its product with :math:`D^{1/2}` times the change of log-probs.
    """
    parameters = list(model.parameters())
    table = TabularPolicy.from_logits(torch.stack(space.table(model).log_probs))
    flat = table.log_probs.flatten()
    rows = [
        torch.cat([part.flatten() for part in parts])
        for value in flat
        if (parts := torch.autograd.grad(value, parameters, retain_graph=True))
    ]
    weights = (table.probs.detach() / space.prompts).flatten().sqrt()  # D^(1/2)
    jacobian = weights[:, None] * torch.stack(rows)  # (X * Y, P)
    values, modes = torch.linalg.eigh(jacobian @ jacobian.T)
    return values.flip(0), modes.flip(1)


def coefficients(
    policy: TabularPolicy, data: TabularPolicy, weights: Tensor, modes: Tensor
) -> Tensor:
    """Coefficients (X * Y,) of the log-ratio of a policy to the data along modes."""
    log_ratio = policy.log_probs - data.log_probs
    mean = (data.probs * log_ratio).sum(-1, keepdim=True)
    return modes.T @ (weights * (log_ratio - mean).flatten())
