"""Inexact self-play near the data: what some steps of gradient descent make of a small deviation.

The steps see the data through the matrix diag(p) - p p^T, the Fisher matrix of the logits. Each
of its eigenvectors is a deviation of its own, with a multiplier that its eigenvalue decides.
"""

import math

import torch
from torch import Tensor

from spin_theory.losses import penalty_named, require_beta, require_weight
from spin_theory.policies import TabularPolicy

__all__ = ["descent_limit", "fisher_eigenvalues", "fisher_matrix", "inexact_multiplier"]


def fisher_matrix(policy: TabularPolicy) -> Tensor:
    """Fisher matrix of each prompt's logits.

    Parameters
    ----------
    policy : TabularPolicy, shape (X, Y)
        The policy p.

    Returns
    -------
    Tensor, shape (X, Y, Y)
        diag(p) - p p^T, no unit.

    Examples
    --------
    >>> fisher_matrix(TabularPolicy.from_probs([[0.5, 0.5]]))
    tensor([[[ 0.2500, -0.2500],
             [-0.2500,  0.2500]]], dtype=torch.float64)
    """
    probs = policy.probs
    return torch.diag_embed(probs) - probs[:, :, None] * probs[:, None, :]


def fisher_eigenvalues(policy: TabularPolicy) -> Tensor:
    r"""Eigenvalues of the Fisher matrix of each prompt's logits, but for that of constants.

    Parameters
    ----------
    policy : TabularPolicy, shape (X, Y)
        The policy p; at the data, p_data.

    Returns
    -------
    Tensor, shape (X, Y - 1)
        The eigenvalues :math:`\mu` of diag(p) - p p^T, from 0 to 1/2, rising, no unit.

    Notes
    -----
    Constants are its null vector: adding one to all logits changes no policy.

    Examples
    --------
    >>> fisher_eigenvalues(TabularPolicy.from_probs([[0.5, 0.5]]))
    tensor([[0.5000]], dtype=torch.float64)
    """
    eigenvalues: Tensor = torch.linalg.eigvalsh(fisher_matrix(policy))[:, 1:]
    return eigenvalues


def inexact_multiplier(
    eigenvalues: Tensor,
    *,
    beta: float,
    steps: int | None,
    learning_rate: float = 1.0,
    momentum: float = 0.0,
    loss_type: str = "logistic",
    sft_weight: float = 0.0,
) -> Tensor:
    r"""Factor by which an iteration of some gradient steps multiplies deviations from the data.

    Parameters
    ----------
    eigenvalues : Tensor, shape (...)
        Eigenvalues :math:`\mu > 0` of the Fisher matrix of the data, no unit.
    beta : float
        Pull towards the opponent, > 0, no unit.
    steps : int or None
        Steps k of the iteration, at least 0; None is the exact solution.
    learning_rate : float, default 1.0
        Rate :math:`\eta` of the steps, > 0.
    momentum : float, default 0.0
        Of heavy-ball momentum, in [0, 1), no unit; 0 is gradient descent.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty.
    sft_weight : float, default 0.0
        Weight w of the SFT term, >= 0, per nat.

    Returns
    -------
    Tensor, shape (...)
        The multiplier of the log-ratio to the data along each eigenvector, to first order. For
        the logistic penalty :math:`m(\mu) = 1 - [1 - (1 - \eta \beta^2 \mu/2)^k]/\beta`; where
        :math:`\ell''(0) = 0`, as for hinge, :math:`1 - k \eta \beta \mu |\ell'(0)|`. With an
        SFT term the gradient begins at :math:`g = \beta |\ell'(0)| + w` and the curvature is
        :math:`c = 2 \beta^2 \ell''(0) + w`, so that :math:`m(\mu) = 1 - (g/c)
        [1 - (1 - \eta c \mu)^k]`.

    Raises
    ------
    ValueError
        If a parameter is out of its range, `loss_type` is unknown, or `steps` is None for a
        penalty whose exact solution is no smooth function of the opponent.

    Notes
    -----
    Derived. The game settles at the data, from near enough, where all of these are inside
    (-1, 1). A small beta is then stable because few steps do not solve the iteration; a *larger*
    beta at one rate is less stable, as descent needs :math:`\eta \beta^2 \mu < 4`
    (:func:`descent_limit`). For a network the eigenvalues are those of its Fisher matrix.

    Examples
    --------
    >>> half = torch.tensor([0.5], dtype=torch.float64)
    >>> inexact_multiplier(half, beta=0.5, steps=1)  # 1 - (1/2)^2 / 2 / 2 / (1/2)
    tensor([0.8750], dtype=torch.float64)
    >>> inexact_multiplier(half, beta=0.5, steps=None)  # 1 - 1/beta
    tensor([-1.], dtype=torch.float64)
    """
    require_beta(beta)
    _require_descent(learning_rate, momentum)
    slope, curvature = _at_zero(loss_type)  # |l'(0)| and l''(0)
    weight = require_weight("sft_weight", sft_weight)
    # Per unit of mu: the first gradient, and how the gradient grows with the policy's log-ratio.
    first, stiffness = beta * slope + weight, 2 * beta**2 * curvature + weight
    if steps is None:
        if stiffness == 0:
            raise ValueError(f"steps must be given for loss_type {loss_type}, got None")
        return torch.full_like(eigenvalues, 1 - first / stiffness)
    if not steps >= 0:
        raise ValueError(f"steps must be >= 0, got {steps!r}")
    if stiffness == 0:
        # The gradient stays what it was, and step s moves by it times 1 + momentum + ... .
        total = sum((1 - momentum**s) / (1 - momentum) for s in range(1, steps + 1))
        return 1 - learning_rate * first * total * eigenvalues
    left = _left(learning_rate * stiffness * eigenvalues, steps, momentum)
    return 1 - first / stiffness * (1 - left)


def descent_limit(
    eigenvalues: Tensor,
    *,
    learning_rate: float,
    momentum: float = 0.0,
    loss_type: str = "logistic",
    sft_weight: float = 0.0,
) -> Tensor:
    r"""Largest beta at which gradient descent itself is stable near the data.

    Parameters
    ----------
    eigenvalues : Tensor, shape (...)
        Eigenvalues :math:`\mu > 0` of the Fisher matrix of the data, no unit; the largest one
        decides.
    learning_rate : float
        Rate :math:`\eta` of the steps, > 0.
    momentum : float, default 0.0
        Of heavy-ball momentum, in [0, 1), no unit; 0 is gradient descent.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty.
    sft_weight : float, default 0.0
        Weight w of the SFT term, >= 0, per nat.

    Returns
    -------
    Tensor, shape (...)
        :math:`2/\sqrt{\eta \mu}` for the logistic penalty without momentum, no unit; infinite
        where :math:`\ell''(0) = 0`, and 0 where the SFT term alone is too steep for the rate.

    Raises
    ------
    ValueError
        If a parameter is out of its range or `loss_type` is unknown.

    Notes
    -----
    Derived: heavy-ball descent of rate :math:`\eta` on a curvature c is stable where :math:`\eta
    c < 2 (1 + momentum)`, and here :math:`c = (2 \beta^2 \ell''(0) + w) \mu`. Beyond it more steps
    go further astray, and a game with an even number of steps, or many, leaves the data.

    Examples
    --------
    >>> descent_limit(torch.tensor([0.5], dtype=torch.float64), learning_rate=2.0)
    tensor([2.], dtype=torch.float64)
    """
    _require_descent(learning_rate, momentum)
    _, curvature = _at_zero(loss_type)
    weight = require_weight("sft_weight", sft_weight)
    left = (2 * (1 + momentum) / (learning_rate * eigenvalues) - weight).clamp(min=0)
    if curvature == 0:
        return torch.where(left > 0, math.inf, left)
    return (left / (2 * curvature)).sqrt()


def _left(stiffness: Tensor, steps: int, momentum: float) -> Tensor:
    """Share of the way to the solution that is left after some steps, at rate times curvature."""
    if momentum == 0:
        return (1 - stiffness) ** steps
    # e is what is left, v the velocity: v' = momentum v + h e, e' = e - v'.
    still = torch.full_like(stiffness, momentum)
    step = torch.stack([1 - stiffness, -still, stiffness, still], dim=-1)
    power: Tensor = torch.linalg.matrix_power(step.reshape(*stiffness.shape, 2, 2), steps)
    return power[..., 0, 0]


def _at_zero(loss_type: str) -> tuple[float, float]:
    """Look up |l'(0)| and l''(0)."""
    log_slope, log_curvature = penalty_named(loss_type).log_derivatives(
        torch.zeros((), dtype=torch.float64)
    )
    return float(log_slope.exp()), float(log_curvature.exp())


def _require_descent(learning_rate: float, momentum: float) -> None:
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be finite and > 0, got {learning_rate!r}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum!r}")
