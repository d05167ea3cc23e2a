"""Classes of policies smaller than all tables: what a search needs of one, and log-linear ones."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from spin_theory.inputs import tensor
from spin_theory.policies import TabularPolicy

__all__ = ["LogLinearClass", "PolicyClass"]


class PolicyClass(Protocol):
    """Policies by their parameters, with the derivatives that a search needs."""

    @property
    def features(self) -> Tensor:
        """What the parameters multiply, (..., D)."""

    convex: ClassVar[bool]
    """Whether the objective of an iteration is convex in the parameters."""

    def log_probs(self, parameters: Tensor) -> Tensor:
        """Log-probs (X, Y) of parameters (D,), in nats, differentiable."""

    def policy(self, parameters: Tensor) -> TabularPolicy:
        """Policy (X, Y) of parameters (D,)."""

    def jacobian(self, parameters: Tensor) -> Tensor:
        """Differentiate the log-probs in the parameters, (X, Y, D)."""

    def curvature(self, parameters: Tensor, weights: Tensor) -> Tensor:
        """Sum (D, D) of the log-probs' Hessians, each times its entry of `weights` (X, Y)."""


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

    convex: ClassVar[bool] = True
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
        parameters = require_parameters(self.features, parameters)
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

    def jacobian(self, parameters: Tensor) -> Tensor:
        """Differentiate the log-probs: the features less their mean.

        Parameters
        ----------
        parameters : Tensor, shape (D,)
            theta, float64.

        Returns
        -------
        Tensor, shape (X, Y, D)
            In nats per unit of a parameter.
        """
        probs = self.log_probs(parameters).exp()
        return self.features - torch.einsum("xy,xyd->xd", probs, self.features)[:, None]

    def curvature(self, parameters: Tensor, weights: Tensor) -> Tensor:
        """Sum of the log-probs' Hessians: each is minus the covariance of the features.

        Parameters
        ----------
        parameters : Tensor, shape (D,)
            theta, float64.
        weights : Tensor, shape (X, Y)
            Weight of each log-prob.

        Returns
        -------
        Tensor, shape (D, D)
            The weighted sum.
        """
        probs, centred = self.log_probs(parameters).exp(), self.jacobian(parameters)
        each = -weights.sum(dim=-1, keepdim=True) * probs
        return torch.einsum("xy,xyd,xye->de", each, centred, centred)


def require_parameters(features: Tensor, parameters: Tensor) -> Tensor:
    """Return parameters (D,) of features (..., D), or raise ValueError if they do not fit."""
    parameters = tensor("parameters", parameters)
    if parameters.shape != features.shape[-1:]:
        raise ValueError(
            f"parameters must have shape ({features.shape[-1]},), got {tuple(parameters.shape)}"
        )
    return parameters
