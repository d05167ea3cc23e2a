"""Choose the first of several ways to compute one thing that is exact on a given model.

Fast ways rest on what most architectures do: positions that are passed along, layers that ask one
interface for their attention, states that do not leak. Which of them holds for a given model is
tried, not looked up.

How near is near enough? A wrong head, mask or position can be smaller than what bfloat16 rounds. So
a model of a narrow type is tried twice: with its weights in the next wider type, where rounding is
small and the tolerance too, and as it is, where it may be off by a small multiple of what the plain
forward pass itself is off.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from spin_train.errors import StoppedError, UserError, one_line

__all__ = [
    "exact_tolerance",
    "first_exact",
    "is_narrow",
    "is_sharded",
    "measured_tolerance",
    "widened",
]

# Nats per token between two ways of computing one log-prob, by type of the weights. Seen on models
# of eleven tiny architectures: float64 2e-7 (norms are float32), float32 4e-6, bfloat16 0.02, which
# grows with depth; a wrong position or mask is 0.1 to 8 off in any type.
_TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-4}
_COARSE_TOLERANCE = 0.25
_WIDER = {
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
    torch.float32: torch.float64,
}
# Where nothing is exact to the tolerance, the measured rounding may widen it up to so many times.
_MOST_TOLERANCES = 10
# Share of the free memory that a second copy of the weights may take while ways are tried.
_SHARE_OF_FREE = 0.5
# What says nothing about a way.
_NOT_OF_THE_WAY = (UserError, StoppedError, torch.OutOfMemoryError, MemoryError)

_log = logging.getLogger(__name__)
Way = TypeVar("Way")


def exact_tolerance(model: Any) -> float:
    """Nats per token by which two exact ways may differ, for the type of the model's weights."""
    return _TOLERANCES.get(next(model.parameters()).dtype, _COARSE_TOLERANCE)


def is_narrow(model: Any) -> bool:
    """Say whether rounding in the type of the weights could hide a wrong head or mask."""
    return next(model.parameters()).dtype not in _TOLERANCES


def measured_tolerance(model: Any, alone: Callable[[], list[torch.Tensor]]) -> float:
    """Widen the tolerance of a model whose own rounding is large, at most tenfold.

    `alone` gives the log-probs of tokens of some responses. They are compared with those in the
    next wider type; recurrent states lose more digits than attention does.
    """
    tolerance, narrow = exact_tolerance(model), alone()
    try:
        with widened(model) as wide:
            if wide is None:
                return tolerance
            pairs = zip(narrow, alone(), strict=True)
            rounding = max((a.double() - b.double()).abs().max().item() for a, b in pairs)
    except (NotImplementedError, RuntimeError, TypeError):  # not written for the wide type
        return tolerance
    return min(max(tolerance, 3 * rounding), _MOST_TOLERANCES * tolerance)


def first_exact(
    model: Any, ways: Mapping[str, Way], flaw: Callable[[Way], str], nothing: str
) -> Way:
    """Pick the first way in which `flaw` finds no error, and warn about each before it.

    `flaw` describes how far a way is off, or returns an empty text; a way that raises does not fit
    the model. If no way is left, UserError is raised with the message `nothing` and the last
    reason.
    """
    reason = ""
    for name, way in ways.items():
        try:
            reason = flaw(way)
        except _NOT_OF_THE_WAY:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {one_line(error, 200)}"
        if not reason:
            return way
        _log.warning("%s: %s not used: %s", type(model).__name__, name, reason)
    raise UserError(f"model: {type(model).__name__}: {nothing} (the last one: {reason})")


def is_sharded(module: nn.Module) -> bool:
    """Say whether ZeRO-3 has shared out the weights: a rank holds parts of them."""
    return any(hasattr(parameter, "ds_id") for parameter in module.parameters())


@contextmanager
def widened(module: nn.Module) -> Iterator[torch.dtype | None]:
    """Put weights and buffers into the next wider type within the block, and give that type.

    None where there is none, the weights are quantised or shared out, or memory is short. The
    tensors themselves return afterwards, so an engine that keeps views of them sees no change.
    """
    dtype = next(module.parameters()).dtype
    wide = _WIDER.get(dtype)
    tensors = [t for t in (*module.parameters(), *module.buffers()) if t.dtype == dtype]
    bytes_wanted = sum(t.numel() for t in tensors) * (wide.itemsize if wide else 0)
    device = next(module.parameters()).device
    quantised = getattr(module, "is_quantized", False) or is_sharded(module)
    if wide is None or quantised or bytes_wanted > _SHARE_OF_FREE * _free_memory(device):
        yield None
        return
    narrow = [(tensor, tensor.data) for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.to(wide)
        yield wide
    finally:
        for tensor, data in narrow:
            tensor.data = data


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
