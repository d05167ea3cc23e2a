"""The update rules of inner solvers, written out so that they can be differentiated.

Each gives what torch.optim of that name gives with its defaults but for the learning rate.
torch's own cut the derivative: SGD with momentum detaches its first buffer.
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["OPTIMISERS", "UpdateRule"]

UpdateRule = Callable[[Tensor], Tensor]
"""From the gradient of this step to what is subtracted, per unit of learning rate. The rule
remembers its steps, so that each iteration starts a fresh one."""

EPSILON = 1e-8  # added to a root mean square, in the units of the gradient


def _plain() -> UpdateRule:
    return lambda gradient: gradient


def _momentum(momentum: float) -> UpdateRule:
    """Heavy ball: v = momentum v + g."""
    velocity: Tensor | float = 0.0

    def update(gradient: Tensor) -> Tensor:
        nonlocal velocity
        velocity = momentum * velocity + gradient
        return velocity

    return update


def _rmsprop(decay: float = 0.99) -> UpdateRule:
    mean_square: Tensor | float = 0.0

    def update(gradient: Tensor) -> Tensor:
        nonlocal mean_square
        mean_square = decay * mean_square + (1 - decay) * gradient.square()
        return gradient / (_root(mean_square) + EPSILON)

    return update


def _adam(first_decay: float = 0.9, second_decay: float = 0.999) -> UpdateRule:
    mean: Tensor | float = 0.0
    mean_square: Tensor | float = 0.0
    step = 0

    def update(gradient: Tensor) -> Tensor:
        nonlocal mean, mean_square, step
        step += 1
        mean = first_decay * mean + (1 - first_decay) * gradient
        mean_square = second_decay * mean_square + (1 - second_decay) * gradient.square()
        # Means that start at 0 are too small by 1 - decay^step.
        root = _root(mean_square) / (1 - second_decay**step) ** 0.5
        step_of_adam: Tensor = mean / (root + EPSILON) / (1 - first_decay**step)
        return step_of_adam

    return update


def _root(mean_square: Tensor) -> Tensor:
    """Square root whose derivative at 0 is 0.

    A mean of squares g^2 has a root of the size of g, and the update there is g / epsilon to
    first order, whatever the root's own derivative: infinite, as sqrt has it, would make it nan.
    """
    positive = mean_square > 0
    root: Tensor = torch.where(positive, torch.where(positive, mean_square, 1.0).sqrt(), 0.0)
    return root


OPTIMISERS: dict[str, Callable[[float], UpdateRule]] = {
    "gd": lambda _: _plain(),
    "momentum": _momentum,
    "adam": lambda _: _adam(),
    "rmsprop": lambda _: _rmsprop(),
}
"""Starts of a rule by name, each from the momentum, which only 'momentum' uses."""
