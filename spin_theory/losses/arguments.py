"""What the arguments of a loss must be, checked before any arithmetic."""

import math

from torch import Tensor

from spin_theory.inputs import number, tensor

__all__ = ["require_beta", "require_one_shape", "require_weight"]


def require_one_shape(**logps: Tensor) -> tuple[Tensor, ...]:
    """Read log-probs; raise ValueError unless all have one shape: nothing broadcasts.

    Tensors stay as they are, arrays and lists become float64.
    """
    found = [
        part if isinstance(part, Tensor) else tensor(name, part) for name, part in logps.items()
    ]
    if len({part.shape for part in found}) > 1:
        pairs = zip(logps, found, strict=True)
        listed = ", ".join(f"{name} {tuple(part.shape)}" for name, part in pairs)
        raise ValueError(f"log-probs must have one shape (nothing broadcasts), got {listed}")
    return tuple(found)


def require_beta(beta: float) -> float:
    """Read `beta`; raise ValueError unless it is a number, finite and > 0."""
    found = number("beta", beta)
    if not 0 < found < math.inf:  # refuses nan too
        raise ValueError(f"beta must be finite and > 0, got {beta!r}")
    return found


def require_weight(name: str, weight: float) -> float:
    """Read a weight; raise ValueError unless it is a number, finite and >= 0."""
    found = number(name, weight)
    if not 0 <= found < math.inf:  # refuses nan too
        raise ValueError(f"{name} must be finite and >= 0, got {weight!r}")
    return found
