"""How many tokens each rank worked through in a stage, and how much memory that took.

These numbers depend on the machine: two runs with equal results differ in them. So they go where
nothing is compared or hashed, into ``speed.jsonl`` and next to the seconds of a stage.
"""

import resource
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from spin_train.system.ranks import Ranks

__all__ = ["Speed"]


class Speed:
    """Tokens and peak memory of one rank, from the beginning of a stage.

    Memory is what torch has allocated on the rank's device. Without a device it is the resident
    memory of the process.
    """

    def __init__(self) -> None:
        self._tokens = 0
        self._elsewhere = 0

    def begin(self) -> None:
        """Begin a stage: no token is counted, and the peak is what is held now."""
        self._tokens = self._elsewhere = 0
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        else:
            with suppress(OSError):  # where it is refused, the peak is that of all stages so far
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def count(self, tokens: int) -> None:
        """Add tokens that this rank has worked through."""
        self._tokens += tokens

    def count_process(self, tokens: int, peak_memory: int) -> None:
        """Add what a process of this rank did, with its own peak in bytes."""
        self._tokens += tokens
        self._elsewhere = max(self._elsewhere, peak_memory)

    @property
    def tokens(self) -> int:
        """Tokens counted since the stage began."""
        return self._tokens

    @property
    def peak_memory(self) -> int:
        """Most bytes that were held at once since the stage began."""
        own = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _resident_peak()
        return max(own, self._elsewhere)

    def over(self, seconds: float, ranks: Ranks) -> dict[str, Any]:
        """Say how fast all ranks were together; they call this at the same moment."""
        found = ranks.gather((self._tokens, self.peak_memory, _device_memory()))
        tokens, peaks, devices = zip(*found, strict=True)
        speed: dict[str, Any] = {"peak_memory": list(peaks)}
        if sum(tokens):
            speed = {"tokens": sum(tokens), "tokens_per_second": sum(tokens) / seconds} | speed
        if all(devices):
            speed["device_memory"] = list(devices)
        return speed


def _device_memory() -> int | None:
    """Bytes of this rank's device; None without one."""
    if not torch.cuda.is_available():
        return None
    return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)


def _resident_peak() -> int:
    """Most resident memory of this process since the mark was last reset, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]  # KiB
    return 1024 * max(peaks, default=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
