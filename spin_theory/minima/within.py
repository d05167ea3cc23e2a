"""The minimum of one iteration within a class of policies."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from spin_theory.inputs import tensor
from spin_theory.losses import require_beta, require_weight
from spin_theory.minima.newton import log_pulls, require_newton
from spin_theory.minima.policy_classes import PolicyClass
from spin_theory.objectives.objectives import spin_objective
from spin_theory.policies import TabularPolicy, pair_log_probs, require_same_shape
from spin_theory.tolerances import TRUST_GRADIENT

__all__ = [
    "RestrictedMinimum",
    "as_vector",
    "minimise_within",
    "trust_newton",
]

Vector = NDArray[np.float64]

POLISHING_STEPS = 5
"""Newton steps after it, at most; each about doubles the digits until rounding is left."""

SADDLES = 10
"""How many saddles a search leaves, at most."""

SADDLE_STEPS = (0.01, 0.1, 1.0)
"""How far a search steps down from one, in parameters."""

DOWNWARDS = 1e-8
"""An eigenvalue below this, relative to the largest, may be rounding."""


@dataclass(frozen=True)
class RestrictedMinimum:
    """What :func:`minimise_within` found.

    Attributes
    ----------
    parameters : Tensor, shape (D,)
        The minimiser within the class.
    policy : TabularPolicy, shape (X, Y)
        Its policy.
    objective : float
        Its value of (4.7).
    gradient_norm : float
        Norm of the gradient in the parameters. In a log-linear class the objective is convex in
        them, so a zero gradient is a global minimum.
    """

    parameters: Tensor
    policy: TabularPolicy
    objective: float
    gradient_norm: float


def minimise_within(
    family: PolicyClass,
    start: Tensor,
    data: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    sft_weight: float = 0.0,
) -> RestrictedMinimum:
    r"""Minimise (4.7) over a class of policies, from the opponent's parameters.

    Parameters
    ----------
    family : LogLinearClass or TokenTree
        The class.
    start : Tensor, shape (D,)
        theta_t: the opponent's parameters, where the search starts.
    data : TabularPolicy, shape (X, Y)
        p_data; it need not be in the class.
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.
    sft_weight : float, default 0.0
        Weight of the SFT term, >= 0, per nat.

    Returns
    -------
    RestrictedMinimum
        Minimiser and gradient norm; the solver raises nothing when it stops early. Where the
        class is separable by the data, the infimum lies at infinity and the norm stays above 0.
        In a class that is not convex it is a minimum of its neighbourhood.

    Raises
    ------
    ValueError
        If shapes differ, `beta` is not > 0, `sft_weight` is not finite and >= 0, or the penalty
        is not smooth.

    Notes
    -----
    By :func:`trust_newton`, on exact gradient and Hessian. Where it ends on a saddle, it goes on
    from a little below it.

    Examples
    --------
    >>> from spin_theory import LogLinearClass
    >>> family = LogLinearClass(torch.eye(3, dtype=torch.float64)[None])  # a table
    >>> data = TabularPolicy.random(1, 3, seed=0, smallest=0.1)
    >>> found = minimise_within(family, torch.zeros(3, dtype=torch.float64), data, beta=1.0)
    >>> torch.allclose(found.policy.probs, data.probs)
    True
    """
    beta, start = require_beta(beta), tensor("start", start)
    weight = require_weight("sft_weight", sft_weight)
    require_newton(loss_type)
    opponent = family.policy(start)
    require_same_shape(data=data, opponent=opponent)
    log_weights = pair_log_probs(data.log_probs, opponent.log_probs)  # (X, Y, Y)
    prompts = len(log_weights)

    # slope in each log-prob, (X, Y), and curvature of each pair, (X, Y, Y)
    def derivatives(theta: Tensor) -> tuple[Tensor, Tensor]:
        scores = beta * (family.log_probs(theta) - opponent.log_probs)
        log_pull, log_curvature = log_pulls(scores, log_weights, loss_type)
        pulls = log_pull.exp()
        # The slope of a pair is -pull in its real response (row), +pull in its generated one.
        slopes = beta * (pulls.sum(dim=-2) - pulls.sum(dim=-1)) - weight * data.probs
        return slopes, beta**2 * log_curvature.exp()

    def value(at: Vector) -> float:
        policy = family.policy(torch.from_numpy(at))
        return float(
            spin_objective(
                policy, opponent, data, beta=beta, loss_type=loss_type, sft_weight=weight
            )
        )

    def gradient(at: Vector) -> Vector:
        theta = torch.from_numpy(at)
        slopes, _ = derivatives(theta)
        return as_vector(torch.einsum("xy,xyd->d", slopes, family.jacobian(theta)) / prompts)

    def hessian(at: Vector) -> Vector:
        theta = torch.from_numpy(at)
        slopes, curvature = derivatives(theta)
        curvature = curvature + curvature.mT
        # Sum of curvature_ij (e_i - e_j)(e_i - e_j)^T, then the chain rule: log-probs are curved.
        laplacian = torch.diag_embed(curvature.sum(dim=-1)) - curvature
        steps = family.jacobian(theta)
        straight = torch.einsum("xid,xij,xje->de", steps, laplacian, steps)
        return as_vector((straight + family.curvature(theta, slopes)) / prompts)

    best = trust_newton(value, gradient, hessian, as_vector(start))
    for _ in range(0 if family.convex else SADDLES):
        below = _below_saddle(value, hessian, best)
        if below is None:
            break
        best = trust_newton(value, gradient, hessian, below)
    parameters = torch.from_numpy(best)
    return RestrictedMinimum(
        parameters,
        family.policy(parameters),
        value(best),
        float(np.linalg.norm(gradient(best))),
    )


def _below_saddle(
    value: Callable[[Vector], float], hessian: Callable[[Vector], Vector], at: Vector
) -> Vector | None:
    """Step down from a saddle along its steepest curvature; None where there is no saddle."""
    curvatures, directions = np.linalg.eigh(hessian(at))
    if not curvatures[0] < -DOWNWARDS * np.abs(curvatures).max():
        return None
    steps = [sign * size * directions[:, 0] for size in SADDLE_STEPS for sign in (1, -1)]
    lowest = min((at + step for step in steps), key=value)
    return lowest if value(lowest) < value(at) else None


def trust_newton(
    value: Callable[[Vector], float],
    gradient: Callable[[Vector], Vector],
    hessian: Callable[[Vector], Vector],
    start: Vector,
) -> Vector:
    """Minimise a smooth convex function to the rounding of its gradient.

    Parameters
    ----------
    value, gradient, hessian : callable
        From (D,) to a number, (D,) and (D, D).
    start : ndarray, shape (D,)
        Where to begin.

    Returns
    -------
    ndarray, shape (D,)
        Where the gradient is least.

    Notes
    -----
    scipy's `trust-exact`, which the rounding of the value stops at about its square root; then
    plain Newton steps as long as they shrink the gradient.

    Examples
    --------
    >>> trust_newton(lambda x: float(x @ x), lambda x: 2 * x, lambda x: 2 * np.eye(1), np.ones(1))
    array([0.])
    """
    found = minimize(
        value,
        start,
        jac=gradient,
        hess=hessian,
        method="trust-exact",
        options={"gtol": TRUST_GRADIENT, "maxiter": 500},
    )
    best: Vector = found.x
    for _ in range(POLISHING_STEPS):
        step = np.linalg.lstsq(hessian(best), gradient(best), rcond=None)[0]
        if not np.linalg.norm(gradient(best - step)) < np.linalg.norm(gradient(best)):
            break
        best = best - step
    return best


def as_vector(tensor: Tensor) -> Vector:
    """Turn a tensor into an array for scipy.

    Parameters
    ----------
    tensor : Tensor
        float64.

    Returns
    -------
    ndarray
        The same numbers.

    Examples
    --------
    >>> as_vector(torch.zeros(2, dtype=torch.float64))
    array([0., 0.])
    """
    return np.asarray(tensor.detach().numpy(), dtype=np.float64)
