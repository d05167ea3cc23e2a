"""Choose the first of several ways to compute one thing that is exact on a given model.

Fast ways rest on what most architectures do: positions that are passed along, layers that ask one
interface for their attention, states that do not leak. Which of them holds for a given model is
tried, not looked up.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from spin_train.errors import one_line

__all__ = ["exact_tolerance", "first_exact"]

# Nats per token between two ways of computing one log-prob, by type of the weights. Seen on models
# of eleven tiny architectures: float64 2e-7 (norms are float32), float32 4e-6, bfloat16 0.02, which
# grows with depth; a wrong position or mask is 0.1 to 8 off in any type.
_TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-4}
_COARSE_TOLERANCE = 0.25
# What a way raises on a model that it does not fit.
_UNFIT = (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError)

_log = logging.getLogger(__name__)
Way = TypeVar("Way")


def exact_tolerance(model: Any) -> float:
    """Nats per token by which two exact ways may differ, for the type of the model's weights."""
    return _TOLERANCES.get(next(model.parameters()).dtype, _COARSE_TOLERANCE)


def first_exact(
    model: Any, ways: Mapping[str, Way], flaw: Callable[[Way], str], nothing: str
) -> Way:
    """Pick the first way in which `flaw` finds no error, and warn about each before it.

    `flaw` describes how far a way is off, or returns an empty text; a way that raises does not fit
    the model. If no way is left, RuntimeError is raised with the message `nothing`.
    """
    for name, way in ways.items():
        try:
            reason = flaw(way)
        except _UNFIT as error:
            reason = f"{type(error).__name__}: {one_line(error, 200)}"
        if not reason:
            return way
        _log.warning("%s: %s not used: %s", type(model).__name__, name, reason)
    raise RuntimeError(f"{type(model).__name__}: {nothing}")
