"""speed.jsonl: how fast a training stage goes, a line for each line of metrics.jsonl.

metrics.jsonl has the same bits on every machine and after every interruption. Time and memory have
not, so they stand apart. Nothing reads these lines to go on, and no hash is taken of them.
"""

import json
import time
from pathlib import Path
from typing import Any

from spin_train.errors import DamagedFileError
from spin_train.system.files import read_lines, write_atomically
from spin_train.system.ranks import Ranks
from spin_train.system.speed import Speed
from spin_train.training.batching import MicroBatches

__all__ = ["SpeedLines"]


class SpeedLines:
    """The lines of a stage, and what has happened since the last one."""

    def __init__(self, path: Path, batches: MicroBatches, speed: Speed) -> None:
        self._path = path
        self._batches = batches
        self._speed = speed
        self._lines: list[dict[str, Any]] = []
        self._step, self._time = 0, time.monotonic()

    def begin(self, step: int) -> None:
        """Go on after a step; what a killed start wrote beyond it is measured again."""
        try:
            old = read_lines(self._path) if step else []
        except (FileNotFoundError, DamagedFileError):
            old = []  # numbers to look at, and no reason to stop a run
        self._lines = [line for line in old if line.get("step", step + 1) <= step]
        self._step, self._time = step, time.monotonic()

    def add(self, step: int, ranks: Ranks) -> None:
        """Add a line about the time since the last one; all ranks call this at the same step."""
        now = time.monotonic()
        seconds, tokens = now - self._time, self._batches.tokens_of(self._step, step)
        peaks = ranks.gather(self._speed.peak_memory)
        self._step, self._time = step, now
        if not ranks.is_first:
            return
        self._speed.count(tokens)  # those of all ranks
        line = {
            "step": step,
            "tokens": tokens,
            "seconds": round(seconds, 3),
            "tokens_per_second": tokens / seconds,
            "peak_memory": peaks,
        }
        self._lines.append(line)
        with write_atomically(self._path) as partial:
            text = "".join(json.dumps(each) + "\n" for each in self._lines)
            partial.write_text(text, encoding="utf-8")

    @property
    def shown(self) -> dict[str, float]:
        """The last line as curves have it, with the peak of the fullest rank; empty before it."""
        if not self._lines:
            return {}
        last = self._lines[-1]
        return {
            "speed/tokens_per_second": last["tokens_per_second"],
            "speed/peak_memory": max(last["peak_memory"]),
        }
