"""Who works on a run, in a file that a login node can read: locks of another node may not show."""

import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from spin_train.system.files import read_json, write_json

__all__ = ["Owner", "owner_of"]

_BEAT_SECONDS = 5.0
_FRESH_SECONDS = 60.0  # clocks of nodes differ, and views of a shared file lag behind


class Owner:
    """While it is entered, a file says every few seconds which node works on a run."""

    def __init__(self, path: Path, node: str) -> None:
        self._path = path
        self._node = node
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="owner", daemon=True)

    def __enter__(self) -> Self:
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._left.wait(_BEAT_SECONDS):
            self._write()

    def _write(self) -> None:
        write_json(self._path, {"node": self._node, "pid": os.getpid(), "time": time.time()})


def owner_of(path: Path) -> str | None:
    """Name of the node that works on a run, if it said so within the last minute."""
    try:
        told: dict[str, Any] = read_json(path)
    except (OSError, ValueError):
        return None
    return str(told["node"]) if time.time() - told["time"] < _FRESH_SECONDS else None
