"""Who works on a run, in a file that a login node can read: locks of another node may not show."""

import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from spin_train.system.files import read_json, write_json

__all__ = ["Owner", "node_name", "owner_of", "working_elsewhere"]

_BEAT_SECONDS = 5.0
_WATCHED_SECONDS = 3 * _BEAT_SECONDS
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
            with suppress(OSError):  # a full disk: the run itself will say so
                self._write()

    def _write(self) -> None:
        write_json(self._path, {"node": self._node, "pid": os.getpid(), "time": time.time()})


def node_name(environment: Mapping[str, str] = os.environ) -> str:
    """Name of this node, as messages and files give it."""
    return environment.get("SLURMD_NODENAME") or socket.gethostname()


def owner_of(path: Path) -> str | None:
    """Name of the node that works on a run, if it said so within the last minute."""
    told = _told(path)
    fresh = told is not None and time.time() - told["time"] < _FRESH_SECONDS
    return str(told["node"]) if told is not None and fresh else None


def working_elsewhere(path: Path) -> str | None:
    """Name of another node that works on a run now: what it wrote goes on changing.

    A node that was killed leaves its file behind, so where there is one this takes 15 s. Clocks
    are not asked, since those of nodes differ.
    """
    first = _told(path)
    if first is None or first["node"] == node_name():
        return None
    deadline = time.monotonic() + _WATCHED_SECONDS
    while time.monotonic() < deadline:
        time.sleep(_WATCHED_SECONDS / 30)
        now = _told(path)
        if now != first:
            return None if now is None else str(now["node"])
    return None


def _told(path: Path) -> dict[str, Any] | None:
    """Read what a node wrote; None if nothing is there, or something else."""
    try:
        told = read_json(path)
    except (OSError, ValueError):
        return None
    whole = isinstance(told, dict) and isinstance(told.get("time"), float) and "node" in told
    return told if whole else None
