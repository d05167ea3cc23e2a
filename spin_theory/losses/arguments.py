"""What the arguments of a loss must be, checked before any arithmetic."""

import math

from torch import Tensor

__all__ = ["require_beta", "require_one_shape", "require_weight"]


def require_one_shape(**logps: Tensor) -> None:
    """Raise ValueError unless all log-probs have one shape: nothing broadcasts."""
    shapes = {name: tuple(tensor.shape) for name, tensor in logps.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"log-probs must have one shape (nothing broadcasts), got {listed}")


def require_beta(beta: float) -> None:
    """Raise ValueError unless `beta` is finite and > 0."""
    if not 0 < beta < math.inf:  # refuses nan too
        raise ValueError(f"beta must be finite and > 0, got {beta!r}")


def require_weight(name: str, weight: float) -> None:
    """Raise ValueError unless a weight is finite and >= 0."""
    if not 0 <= weight < math.inf:  # refuses nan too
        raise ValueError(f"{name} must be finite and >= 0, got {weight!r}")
