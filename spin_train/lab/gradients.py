"""Gradients of saved weights, in float64 and outside of the trainer.

The expectations are sums over the whole space, so nothing here is sampled. Norms of a Llama go
through float32 even where its weights are float64, which leaves about seven digits.

A network gives something to other responses as well. The pairs of a run have none of them, and
`spin_gradient` is of those pairs. `first_spin_gradient` is of all responses.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spin_theory.losses import PENALTIES
from spin_theory.objectives.objectives import spin_objective
from spin_theory.policies import TabularPolicy, pair_log_probs
from spin_train.lab.tabulate import PolicyTable
from spin_train.lab.world import Space

__all__ = [
    "cosine",
    "first_spin_gradient",
    "fisher_modes",
    "gradient",
    "sft_gradient",
    "spin_gradient",
]

Loss = Callable[[PolicyTable], Tensor]
"""From a whole table to a scalar."""


def gradient(model: Any, space: Space, loss: Loss) -> Tensor:
    """Gradient of a loss on the model's table in all of its parameters, one vector (P,)."""
    parts = torch.autograd.grad(loss(space.table(model)), list(model.parameters()))
    return torch.cat([part.flatten() for part in parts])


def spin_gradient(
    model: Any, space: Space, opponent: TabularPolicy, data: TabularPolicy, *, beta: float
) -> Tensor:
    """Take the expected gradient of SPIN's loss over all pairs of p_data and the opponent (P,)."""

    def loss(table: PolicyTable) -> Tensor:  # margins are those of the unnormalised policy
        return spin_objective(table.policy, opponent, data, beta=beta)

    return gradient(model, space, loss)


def first_spin_gradient(model: Any, space: Space, data: TabularPolicy, *, beta: float) -> Tensor:
    r"""Take the expected gradient (P,) of SPIN's loss where the model is its own opponent.

    Generated responses are all that the model gives, inside and outside of the space.

    Notes
    -----
    All margins are 0 there, so the gradient is

    .. math:: \beta \ell'(0) \left( E_{p_{data}}[\nabla \log p_\theta(y)]
        - E_{p_\theta}[\nabla \log p_\theta(y')] \right)

    A response outside of the space goes through one exit, and its score is that of the exit plus
    that of what comes after. The mean of the latter is 0, given the exit. So the mean over the
    exits and the responses of the space is the mean over all responses. Away from the opponent
    margins count, which differ from one end to another, and exits are not enough.
    """

    def loss(table: PolicyTable) -> Tensor:
        outcomes = table.outcomes.log_probs  # (X, Y + E)
        opponent = outcomes.detach()
        log_ratios = outcomes - opponent
        real = log_ratios[:, : space.responses]
        margins = beta * (real[:, :, None] - log_ratios[:, None, :])  # (X, Y, Y + E)
        weights = pair_log_probs(data.log_probs, opponent).exp()
        return (weights * PENALTIES["logistic"](margins)).sum((1, 2)).mean()

    return gradient(model, space, loss)


def sft_gradient(model: Any, space: Space, data: TabularPolicy) -> Tensor:
    """Take the expected gradient of SFT's loss, the negative log-prob of real responses (P,)."""

    def loss(table: PolicyTable) -> Tensor:
        return -(data.probs * torch.stack(table.log_probs)).sum(-1).mean()

    return gradient(model, space, loss)


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
    table = space.table(model).policy
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
