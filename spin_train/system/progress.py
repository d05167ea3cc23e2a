"""The progress of rank 0, in a file that the driver reads."""

import json
import time
from pathlib import Path

from spin_train.system.files import write_atomically

__all__ = ["Progress"]


_PROGRESS_SECONDS = 0.2


class Progress:
    """Reports the progress of rank 0 in a file that the driver reads a few times per second.

    On other ranks it is not `enabled` and writes nothing.
    """

    def __init__(self, path: Path, *, enabled: bool) -> None:
        self._path = path
        self._enabled = enabled
        self._written = 0.0
        self._stages: list[str] = []
        self._started = 0.0
        self._since = (0.0, 0)
        self._total = 0

    def report(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Say how far a stage is in steps, shards or rows; `note` may show the loss."""
        now = time.monotonic()
        soon = now - self._written < _PROGRESS_SECONDS
        if not self._enabled or (soon and stage in self._stages and done < total):
            return
        self._written = now
        clock = time.time()
        if stage not in self._stages:
            self._stages.append(stage)
            self._started, self._total = clock, 0
        if total != self._total:  # the first real count: its pace says nothing of loading
            self._since, self._total = (clock, done), total
        content = {
            # All stages so far: the driver must not miss one that ends between two reads.
            "stages": self._stages,
            "done": done,
            "total": total,
            "note": note,
            # For `spin-train status`: seconds since 1970, and where the count began.
            "started": self._started,
            "since": self._since,
            "written": clock,
        }
        with write_atomically(self._path) as partial:
            partial.write_text(json.dumps(content), encoding="utf-8")
