"""A lock between processes that the kernel drops when its holder dies."""

import fcntl
import time
from pathlib import Path
from typing import IO

__all__ = ["FileLock"]


class FileLock:
    """An advisory lock on a file, which is made if missing and never deleted.

    It is flock and no package's, for two properties together: several processes can share it, and
    the kernel drops it when its holder dies, however that happens. filelock's FileLock is exclusive
    only, its ReadWriteLock needs an SQLite database, and its soft locks wait for a dead holder's
    heartbeat to grow old.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def acquire(self, *, shared: bool = False, wait_s: float = 0.0) -> bool:
        """Take the lock, alone or shared, within `wait_s` seconds; say whether it was taken."""
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

    def descriptor(self) -> int:
        """File descriptor of a lock that is held: a process that inherits it holds it too."""
        assert self._file is not None
        return self._file.fileno()

    def release(self) -> None:
        """Release the lock."""
        if self._file is not None:
            self._file.close()
            self._file = None
