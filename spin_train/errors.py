"""The ways a run ends early that are not a fault of the code, and messages on one line."""

import errno

__all__ = ["DivergedError", "StoppedError", "UserError", "disk_full", "one_line"]

_DISK_ERRNOS = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
# Writers in C++ and Rust wrap the OS error in a message of their own.
_DISK_MESSAGES = (
    "No space left on device",
    "File too large",
    "Disk quota exceeded",
    "PytorchStreamWriter failed",
    "unexpected pos",  # torch.save, when its file could not grow
)


class UserError(Exception):
    """Something the user can fix: one line that says what to do; exit code 2."""


class DivergedError(UserError):
    """Training reached a number that is not finite; a smaller learning rate may not."""


class StoppedError(Exception):
    """The run was asked to stop (SIGTERM, SIGINT) and has saved what it had."""


def one_line(error: object, most: int | None = None) -> str:
    r"""Put a message of several lines on one, cut to at most so many characters.

    >>> one_line(ValueError("two\n   lines"))
    'two lines'
    """
    return " ".join(str(error).split())[:most]


def disk_full(error: BaseException) -> bool:
    """Say whether `error`, or what caused it, is a full disk, a quota or a file-size limit.

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
