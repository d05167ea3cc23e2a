"""What the benchmarks measure with: a quiet machine, turns, medians, a target with its number."""

import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

CORES = 2
BUSY_LOAD = 0.5  # processes waiting for a core, before this one has done anything


def refuse_busy(*, allowed: bool) -> float:
    """End the program where others are working.

    Parameters
    ----------
    allowed : bool
        Go on all the same.

    Returns
    -------
    float
        The machine's load.
    """
    load = os.getloadavg()[0]
    if load > BUSY_LOAD and not allowed:
        sys.exit(f"load {load:.2f}: others are working here; wait, or add --busy")
    return load


@dataclass(frozen=True)
class Row:
    """A line of the results."""

    claim: str
    target: float
    measured: float | None
    unit: str = ""
    at_most: bool = False

    def markdown(self) -> str:
        """Format it.

        Returns
        -------
        str
            A row of a Markdown table.
        """
        sign = "≤" if self.at_most else "≥"
        target = f"{sign} {self.target:g}{self.unit}"
        if self.measured is None:
            return f"| {self.claim} | {target} | not measured | |"
        met = self.measured <= self.target if self.at_most else self.measured >= self.target
        shown = f"{self.measured:.3g}{self.unit}"
        return f"| {self.claim} | {target} | {shown} | {'met' if met else 'MISS'} |"


def seconds_of(
    steps: dict[str, tuple[Any, list[Callable[[], Any]]]], rounds: int
) -> dict[str, float]:
    """Time ways of making a step, in turns.

    Parameters
    ----------
    steps : dict
        Name to the model and the steps of its batches.
    rounds : int
        Turns of each; one more goes before. TRL, where it takes seconds, has one.

    Returns
    -------
    dict
        Median seconds per step, or a matrix product for ``product``.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, (model, batches) in steps.items():
            if name == "trl" and turn > 0 and times[name][-1] > 2:
                continue
            spent = 0.0
            for step in batches:
                if model is not None:
                    model.zero_grad(set_to_none=True)
                spent += timed(step)
            times[name].append(spent / len(batches))
    return {name: statistics.median(taken[1:] or taken) for name, taken in times.items()}


def timed(step: Callable[[], Any]) -> float:
    """Time one call, device included: by the clock, or the work of the only thread.

    Parameters
    ----------
    step : callable
        What to time.

    Returns
    -------
    float
        Seconds.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = clock()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - started
