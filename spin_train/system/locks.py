"""A lock between processes that the kernel drops when its holder dies."""

import fcntl
import time
from pathlib import Path
from typing import IO

__all__ = ["FileLock"]


class FileLock:
    """An advisory lock that the kernel drops when its holder dies, however it dies.

    Parameters
    ----------
    path : Path
        The lock file; made if missing, never deleted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def acquire(self, *, shared: bool = False, wait_s: float = 0.0) -> bool:
        """Take the lock.

        Parameters
        ----------
        shared : bool, default False
            Hold it beside other shared holders.
        wait_s : float, default 0
            How long to try, in seconds.

        Returns
        -------
        bool
            Whether it was taken.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a+")
        deadline = time.monotonic() + wait_s
        while True:
            try:
                mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
                fcntl.flock(self._file, mode | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(0.1)
            else:
                return True

    def release(self) -> None:
        """Let go of the lock."""
        if self._file is not None:
            self._file.close()
            self._file = None
