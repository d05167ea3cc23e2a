"""Policies that are log-linear in features: a class smaller than all tables, but still convex."""

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
from spin_theory.objectives.objectives import spin_objective
from spin_theory.policies import TabularPolicy, pair_log_probs, require_same_shape
from spin_theory.tolerances import TRUST_GRADIENT

__all__ = ["LogLinearClass", "RestrictedMinimum", "as_vector", "minimise_within", "trust_newton"]

Vector = NDArray[np.float64]

POLISHING_STEPS = 5
"""Newton steps after it, at most; each about doubles the digits until rounding is left."""


@dataclass(frozen=True, eq=False)
class LogLinearClass:
    r"""Policies whose log-probs are linear in features, up to the normaliser.

    Parameters
    ----------
    features : Tensor, shape (X, Y, D)
        :math:`\phi(x, y)`, float64.

    Raises
    ------
    ValueError
        If the features are not float64 of shape (X, Y, D).

    Examples
    --------
    >>> features = torch.tensor([[[1.0], [0.0]]], dtype=torch.float64)
    >>> LogLinearClass(features).policy(torch.tensor([3.0]).log().double()).probs  # odds 3
    tensor([[0.7500, 0.2500]], dtype=torch.float64)
    """

    features: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.features, Tensor):  # of numpy, or a list
            object.__setattr__(self, "features", tensor("features", self.features))
        if self.features.dim() != 3 or self.features.dtype != torch.float64:
            raise ValueError(
                "features must be float64 of shape (X, Y, D), got "
                f"{self.features.dtype}, {tuple(self.features.shape)}"
            )

    def log_probs(self, parameters: Tensor) -> Tensor:
        r"""Log-probs :math:`\theta \cdot \phi(x, y) - \log Z(x)`, differentiable.

        Parameters
        ----------
        parameters : Tensor, shape (D,)
            :math:`\theta`, float64.

        Returns
        -------
        Tensor, shape (X, Y)
            In nats.

        Raises
        ------
        ValueError
            If the parameters are not one for each feature.
        """
        parameters = tensor("parameters", parameters)
        if parameters.shape != self.features.shape[-1:]:
            raise ValueError(
                f"parameters must have shape ({self.features.shape[-1]},), "
                f"got {tuple(parameters.shape)}"
            )
        return torch.log_softmax(self.features @ parameters, dim=-1)

    def policy(self, parameters: Tensor) -> TabularPolicy:
        """Policy of given parameters.

        Parameters
        ----------
        parameters : Tensor, shape (D,)
            theta, float64.

        Returns
        -------
        TabularPolicy
            The policy.
        """
        return TabularPolicy(self.log_probs(parameters))


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
        Norm of the gradient in the parameters; the objective is convex in them, so a zero
        gradient is a global minimum of the class.
    """

    parameters: Tensor
    policy: TabularPolicy
    objective: float
    gradient_norm: float


def minimise_within(
    family: LogLinearClass,
    start: Tensor,
    data: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    sft_weight: float = 0.0,
) -> RestrictedMinimum:
    r"""Minimise (4.7) over a log-linear class, from the opponent's parameters.

    Parameters
    ----------
    family : LogLinearClass
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

    Raises
    ------
    ValueError
        If shapes differ, `beta` is not > 0, `sft_weight` is not finite and >= 0, or the penalty
        is not smooth.

    Notes
    -----
    By :func:`trust_newton`, on exact gradient and Hessian.

    Examples
    --------
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
    features = family.features
    log_weights = pair_log_probs(data.log_probs, opponent.log_probs)  # (X, Y, Y)
    prompts = len(features)

    def derivatives(theta: Vector) -> tuple[Tensor, Tensor]:
        scores = beta * (family.log_probs(torch.from_numpy(theta)) - opponent.log_probs)
        log_pull, log_curvature = log_pulls(scores, log_weights, loss_type)
        return log_pull.exp(), log_curvature.exp()

    def probs(theta: Vector) -> Tensor:
        return family.policy(torch.from_numpy(theta)).probs

    def value(theta: Vector) -> float:
        policy = family.policy(torch.from_numpy(theta))
        return float(
            spin_objective(
                policy, opponent, data, beta=beta, loss_type=loss_type, sft_weight=weight
            )
        )

    def gradient(theta: Vector) -> Vector:
        pulls, _ = derivatives(theta)
        # The slope of a pair is -pull in its real response (row), +pull in its generated one.
        in_scores = pulls.sum(dim=-2) - pulls.sum(dim=-1)  # (X, Y)
        # An SFT term pulls the means of the features towards those of the data.
        in_logits = beta * in_scores + weight * (probs(theta) - data.probs)
        return as_vector(torch.einsum("xy,xyd->d", in_logits, features) / prompts)

    def hessian(theta: Vector) -> Vector:
        _, curvature = derivatives(theta)
        curvature = curvature + curvature.mT
        # Sum of curvature_ij (e_i - e_j)(e_i - e_j)^T, then the chain rule: scores are linear.
        laplacian = beta**2 * (torch.diag_embed(curvature.sum(dim=-1)) - curvature)
        if weight > 0:  # ... and its curvature is their covariance
            at = probs(theta)
            laplacian += weight * (torch.diag_embed(at) - at[:, :, None] * at[:, None, :])
        return as_vector(torch.einsum("xid,xij,xje->de", features, laplacian, features) / prompts)

    best = trust_newton(value, gradient, hessian, as_vector(start))
    parameters = torch.from_numpy(best)
    return RestrictedMinimum(
        parameters,
        family.policy(parameters),
        value(best),
        float(np.linalg.norm(gradient(best))),
    )


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
