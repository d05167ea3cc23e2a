"""Why a run ends early: something to fix, a requested stop, or a bug of ours."""

import errno

from spin_train.printable import printable

__all__ = [
    "DamagedFileError",
    "DivergedError",
    "StoppedError",
    "UserError",
    "WorkerError",
    "disk_full",
    "is_consequence",
    "one_line",
    "out_of_memory",
]

_DISK_ERRNOS = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
# Writers in C++ and Rust wrap the OS error in a message of their own.
_DISK_MESSAGES = (
    "No space left on device",
    "File too large",
    "Disk quota exceeded",
    "PytorchStreamWriter failed",
    "unexpected pos",  # torch.save, when its file could not grow
)
# Allocators of torch, CUDA, C++ and the C library; each has an exception of its own.
_MEMORY_MESSAGES = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cannot allocate memory",
    "std::bad_alloc",
    "alloc_failed",
)


# What a worker says when another one is gone: not why the run ends.
_CONSEQUENCES = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "socket timeout",
    "disterror",
    "distbackenderror",
    "distnetworkerror",
    "diststoreerror",
    "remote process exited",
    "timed out waiting",
)


class UserError(Exception):
    r"""Something the user can fix: one line that says what to do; exit code 2.

    A message may quote what a file or a key holds. Line breaks in it become spaces, and what a
    terminal would obey is written out.

    Examples
    --------
    >>> print(UserError("unknown key 'a\nb\x1b[2J'"))
    unknown key 'a b\x1b[2J'
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(" ".join(str(message).splitlines())))


class DamagedFileError(UserError, ValueError):
    """A file of a run is not as the run wrote it; runs write files whole or not at all."""

    def __init__(self, path: object, reason: object) -> None:
        super().__init__(
            f"{path} is damaged ({one_line(reason, 200)}). A run writes it whole, so something "
            "else changed it: restore it from a copy, or start in a new output_dir"
        )


class DivergedError(UserError):
    """Training produced numbers that are not finite; a smaller learning rate may help."""


class StoppedError(Exception):
    """The run was asked to stop (SIGTERM, SIGINT, SIGUSR1) and has saved what it had."""


class WorkerError(Exception):
    """A worker failed through a bug of ours; its traceback is in the log."""


def one_line(error: object, most: int | None = None) -> str:
    r"""Put a message of several lines on one, cut to at most so many characters.

    Examples
    --------
    >>> one_line(ValueError("two\n   lines"))
    'two lines'
    """
    return " ".join(str(error).split())[:most]


def is_consequence(line: str) -> bool:
    """Say whether a worker's message is only about another one that is gone.

    Examples
    --------
    >>> is_consequence("RuntimeError: [gloo/tcp/pair.cc:547] Connection closed by peer [::1]:61512")
    True
    >>> is_consequence("ValueError: no")
    False
    """
    return any(part in line.lower() for part in _CONSEQUENCES)


def disk_full(error: BaseException) -> bool:
    """Say whether `error`, or its cause, is a full disk, an exceeded quota or a file-size limit.

    Examples
    --------
    >>> disk_full(OSError(errno.ENOSPC, "No space left on device"))
    True
    >>> disk_full(ValueError("no"))
    False
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _DISK_ERRNOS:
            return True
        if any(message in str(seen) for message in _DISK_MESSAGES):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def out_of_memory(error: BaseException) -> bool:
    """Say whether `error`, or its cause, is memory of a device or of the machine that ran out.

    Examples
    --------
    >>> out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."))
    True
    >>> out_of_memory(ValueError("no"))
    False
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError) or type(seen).__name__ == "OutOfMemoryError":
            return True
        if isinstance(seen, OSError) and seen.errno == errno.ENOMEM:
            return True
        message = str(seen).lower()
        if isinstance(seen, RuntimeError) and any(part in message for part in _MEMORY_MESSAGES):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
