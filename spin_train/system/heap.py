"""How the C library keeps memory that was freed."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["freed_at_once", "give_back"]

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of glibc's malloc.h
_LARGE = 2**17  # where glibc starts
_USUAL = 2**25  # where it ends once a block of that size was freed


def give_back() -> None:
    """Give memory that is free within the C library back to the machine, where glibc is it."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


@contextmanager
def freed_at_once() -> Iterator[None]:
    """Give memory that is freed within the block back to the machine, large pieces at once.

    glibc keeps what it may need again, between small pieces that are in use. Where tensors of all
    sizes come and go, that may be as much again as is in use. Without glibc nothing changes.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, _LARGE)
    try:
        yield
    finally:
        library.mallopt(_MMAP_THRESHOLD, _USUAL)
        library.malloc_trim(0)
