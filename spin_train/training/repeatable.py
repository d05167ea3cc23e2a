"""The same sums in the same order, so that the same run gives the same weights on a GPU too."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import deterministic

__all__ = ["sums_in_one_order"]


@contextmanager
def sums_in_one_order() -> Iterator[None]:
    """Let a GPU add in the same order each time; CPUs always do.

    An operation that knows no such order warns in the log. Products also need cuBLAS to keep one
    workspace, which workers are told when they are started.
    """
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    if torch.cuda.is_available():
        torch.use_deterministic_algorithms(True, warn_only=True)
        deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # takes time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
