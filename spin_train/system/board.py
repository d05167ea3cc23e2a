"""What the workers of several nodes tell each other: who does what, and which files are there.

Data go through files, decisions through the TCPStore of the job. A file system over a network may
remember for a minute that a file is not there. So a name is never looked up before its writer has
announced it, and then a reader waits until it sees the file in its full size.
"""

import json
import os
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from spin_train.errors import UserError

__all__ = ["JOB_VARIABLE", "Board", "open_store", "ranks_of_job", "stop_request_of"]

JOB_VARIABLE = "SPIN_TRAIN_JOB"
"""Variable that tells a worker how to reach the others, as JSON."""
_POLL_SECONDS = 0.05


def open_store(address: str, port: int, *, serve: bool, timeout_s: float) -> Any:
    """Connect to the store of a job, and serve it if it is to be served by this process."""
    from torch import distributed  # seconds, and one machine needs none

    return distributed.TCPStore(  # type: ignore[attr-defined]
        address,
        port,
        is_master=serve,
        timeout=timedelta(seconds=timeout_s),
        wait_for_workers=False,
    )


def stop_request_of(environment: Mapping[str, str], usual: Path) -> Path:
    """File by which the driver of this node asks its workers to stop."""
    if JOB_VARIABLE not in environment:
        return usual
    return Path(json.loads(environment[JOB_VARIABLE])["stop"])


def ranks_of_job(
    environment: Mapping[str, str], which: Literal["ranks", "local_ranks"]
) -> int | None:
    """Count the ranks of the job, or those of this node; None where one machine does all."""
    if JOB_VARIABLE not in environment:
        return None
    return int(json.loads(environment[JOB_VARIABLE])[which])


class Board:
    """Claims and announcements of one start of a run on several nodes."""

    def __init__(self, store: Any, *, node: str, timeout_s: float) -> None:
        self._store = store
        self._node = node
        self._timeout_s = timeout_s
        self._seen: set[Path] = set()

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> "Board | None":
        """Join the board of the job; None where one machine does the whole run."""
        if JOB_VARIABLE not in environment:
            return None
        job = json.loads(environment[JOB_VARIABLE])
        store = open_store(job["address"], job["port"], serve=False, timeout_s=job["timeout_s"])
        return cls(store, node=job["node"], timeout_s=job["timeout_s"])

    def claim(self, name: str) -> bool:
        """Say whether this process is the first that asks for something; it then does it."""
        return bool(self._store.add(f"claim {name}", 1) == 1)

    def announce(self, path: Path) -> None:
        """Tell all nodes that a file is whole, and its size; by the process that wrote it."""
        self._store.set(f"file {path}", str(path.stat().st_size))

    def is_announced(self, path: Path) -> bool:
        """Say whether a file is whole; nothing is looked up."""
        return bool(self._store.check([f"file {path}"]))

    def announce_left(self, folder: Path) -> None:
        """Announce what an earlier start left in a folder: one process does so, others wait."""
        key = f"left {folder}"
        if self.claim(key):
            # Listed and not looked up: a name that is not there would be remembered as such.
            for name in os.listdir(folder) if folder.is_dir() else ():
                self.announce(folder / name)
            self._store.set(key, "")
        else:
            self._store.wait([key], timedelta(seconds=self._timeout_s))

    def wait_for_announced(self, paths: Iterable[Path]) -> list[Path]:
        """Wait until this node sees files that were announced, whole; returns them in order."""
        return self.wait_for({path: int(self._store.get(f"file {path}")) for path in paths})

    def wait_for(self, sizes: Mapping[Path, int]) -> list[Path]:
        """Wait until this node sees files in these sizes; returns them in order.

        Raises UserError if one is not there within the time that the configuration gives.
        """
        deadline = time.monotonic() + self._timeout_s
        for path, size in sizes.items():
            while (found := _size(path)) != size:
                if time.monotonic() > deadline:
                    state = "does not see" if found is None else f"sees {found} bytes of"
                    raise UserError(
                        f"{self._node} {state} {path}, which another node wrote with {size} bytes "
                        f"more than {self._timeout_s:g} s ago: check the shared file system, or "
                        "raise node_timeout"
                    )
                time.sleep(_POLL_SECONDS)
        self._seen.update(sizes)
        return sorted(sizes)

    def files_in(self, folder: Path, pattern: str) -> list[Path]:
        """List the files that were waited for: the listing of a folder may be old."""
        return sorted(path for path in self._seen if path.parent == folder and path.match(pattern))


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:  # not there yet, or an old handle of a file that was replaced
        return None
