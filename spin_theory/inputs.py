"""What callers pass, turned into numbers and tensors: Python's, numpy's and torch's alike."""

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["generator", "number", "numbers", "require_memory", "rounding_of", "tensor", "whole"]

ALWAYS_FITS = 2**20
"""Numbers, 8 MB, for which nobody looks up how much memory there is: that takes longer."""

# Where Linux says how much memory a container may use, in bytes: cgroups, version 2 and 1.
_MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def number(name: str, value: Any) -> float:
    """Read one number.

    Parameters
    ----------
    name : str
        The argument, for the message.
    value : object
        A number of Python, numpy or torch, or an array or tensor that holds one.

    Returns
    -------
    float
        The number; nan and infinities are left to the caller.

    Raises
    ------
    ValueError
        If it is not a real number.

    Examples
    --------
    >>> number("beta", np.float32(0.5)), number("beta", torch.tensor([2]))
    (0.5, 2.0)
    """
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ValueError(f"{name} must be a number, got {_shown(value)}") from None


def whole(name: str, value: Any, *, least: int) -> int:
    """Read a whole number, which may come as a float.

    Parameters
    ----------
    name : str
        The argument, for the message.
    value : object
        As for :func:`number`.
    least : int
        The smallest that is allowed.

    Returns
    -------
    int
        The number.

    Raises
    ------
    ValueError
        If it is not a whole number, or below `least`.

    Examples
    --------
    >>> whole("iterations", 3.0, least=0), whole("iterations", np.int64(2), least=0)
    (3, 2)
    """
    found = value if isinstance(value, int) else number(name, value)
    if not found >= least:  # nan too
        raise ValueError(f"{name} must be >= {least}, got {_shown(value)}")
    if not math.isfinite(found) or found != int(found):
        raise ValueError(f"{name} must be a whole number, got {_shown(value)}")
    return int(found)


def numbers(name: str, values: Any) -> tuple[float, ...]:
    """Read a sequence of numbers.

    Parameters
    ----------
    name : str
        The argument, for the message.
    values : iterable
        A list, tuple, range, array or tensor of one dimension.

    Returns
    -------
    tuple of float
        The numbers.

    Raises
    ------
    ValueError
        If it is no sequence, or something in it is not a number.

    Examples
    --------
    >>> numbers("betas", np.geomspace(1, 4, 3)), numbers("betas", [1, torch.tensor(2)])
    ((1.0, 2.0, 4.0), (1.0, 2.0))
    """
    if not isinstance(values, Iterable) or isinstance(values, str | bytes):
        raise ValueError(f"{name} must be a sequence of numbers, got {_shown(values)}")
    try:
        return tuple(number(name, value) for value in values)
    except TypeError:  # an array without a dimension
        return (number(name, values),)


def tensor(name: str, values: Any) -> Tensor:
    """Read a table of numbers as a tensor of float64.

    Parameters
    ----------
    name : str
        The argument, for the message.
    values : Tensor, array or nested sequence
        Real numbers. A tensor keeps its gradient; anything else is copied.

    Returns
    -------
    Tensor
        float64, of the same shape.

    Raises
    ------
    ValueError
        If these are not real numbers, or rows differ in length.

    Examples
    --------
    >>> tensor("probs", [[1, 0.5]])
    tensor([[1.0000, 0.5000]], dtype=torch.float64)
    """
    if isinstance(values, Tensor):
        if values.is_complex():
            raise ValueError(f"{name} must be real numbers, got {values.dtype}")
        return values.to(torch.float64)
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biufO":
            raise TypeError
        return torch.from_numpy(array.astype(np.float64, copy=True))
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be an array of numbers, got {_shown(values)}") from None


def rounding_of(values: Any) -> float:
    """Tell how coarsely numbers that somebody passed are rounded, relative to them.

    Parameters
    ----------
    values : object
        A tensor or array of any type, or anything else, which counts as float64.

    Returns
    -------
    float
        A few units in the last place of float32, float16 or bfloat16; 0 of anything finer.

    Examples
    --------
    >>> 1e-6 < rounding_of(torch.zeros(2)) < 1e-5, rounding_of(np.zeros(2))
    (True, 0.0)
    """
    kind = getattr(values, "dtype", None)
    if isinstance(kind, np.dtype) and kind.kind == "f" and kind.itemsize < 8:
        return 32 * float(np.finfo(kind).eps)
    if isinstance(kind, torch.dtype) and kind.is_floating_point and kind.itemsize < 8:
        return 32 * torch.finfo(kind).eps
    return 0.0


def generator(seed: Any) -> torch.Generator:
    """Make a source of randomness.

    Parameters
    ----------
    seed : int
        A whole number, negative or not, of at most 64 bits.

    Returns
    -------
    torch.Generator
        On the CPU, seeded.

    Raises
    ------
    ValueError
        If `seed` is not such a number.

    Examples
    --------
    >>> torch.rand(1, generator=generator(0)).equal(torch.rand(1, generator=generator(0.0)))
    True
    """
    found = whole("seed", seed, least=-(2**63))
    if found >= 2**64:
        raise ValueError(f"seed must be below 2^64, got {found}")
    return torch.Generator().manual_seed(found)


def require_memory(what: str, cells: int) -> None:
    """Refuse a table that this machine cannot hold, before the system ends the process.

    Parameters
    ----------
    what : str
        The table and its size, and how to make it smaller, for the message.
    cells : int
        Numbers of eight bytes that are held at a time.

    Raises
    ------
    ValueError
        If they take more than all the memory that there is.

    Examples
    --------
    >>> require_memory("a table of 10^18 pairs", 10**18)
    Traceback (most recent call last):
        ...
    ValueError: a table of 10^18 pairs needs 8,000,000,000 GB of memory
    """
    if cells > ALWAYS_FITS and 8 * cells > _memory():
        raise ValueError(f"{what} needs {8 * cells / 1e9:,.0f} GB of memory")


def _memory() -> float:
    """Memory of the machine, or of the container that this runs in, in bytes."""
    try:
        found = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):  # not on every system
        found = math.inf
    for path in _MEMORY_LIMITS:
        try:
            found = min(found, float(path.read_text()))
        except (OSError, ValueError):  # no such limit, or "max"
            continue
    return found


def _shown(value: Any) -> str:
    """Show a value in a message: short ones as they are, long ones by their type."""
    shown = repr(value)
    return shown if len(shown) <= 60 and "\n" not in shown else f"a {type(value).__name__}"
