"""The training step on one CUDA device: a Llama of 1B class, bfloat16, up to 2,048 tokens.

Called by ``python -m benchmarks.train_step --gpu``; with ``--tiny`` a small model takes the same
way on the CPU, so that nothing is tried on a device for the first time.
"""

import gc
import statistics
import sys
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.measure import Row, timed
from benchmarks.yardsticks import (
    Size,
    Step,
    draw_groups,
    mixed_lengths,
    our_step,
    plain_step,
    trl_step,
)
from spin_train.config.sections import TrainingConfig
from spin_train.model.packing import Group

LLAMA_1B = Size(
    width=2048, intermediate=8192, layers=16, heads=32, vocabulary=128_256, context=4096
)
TINY = Size(width=64, intermediate=96, layers=2, heads=4, vocabulary=2000)
PAIRS = 8
LAYOUTS = {
    "mixed lengths": mixed_lengths(PAIRS, seed=0, longest=1024),
    "prompt 1,536, response 512": [(1536, [512, 512])] * PAIRS,
}
TINY_LAYOUTS = {"tiny": [(24, [8, 12])] * 2}
FACTORS = {"mixed lengths": 1.6, "prompt 1,536, response 512": 1.5, "tiny": 1.0}
SIDE = 8192  # of the square matrices whose product gives the device's rate


@dataclass(frozen=True)
class Way:
    """A way of making the step."""

    tokens: int = 0
    """Budget of our micro-batches."""
    recompute: bool = False
    """Whether activations are computed again in the backward pass."""


WAYS = {
    "ours": Way(16_384),
    "ours, default micro-batches": Way(TrainingConfig().micro_batch_tokens),
    "ours, activations recomputed": Way(16_384, recompute=True),
    "plain": Way(),
    "TRL": Way(),
    "TRL, activations recomputed": Way(recompute=True),
}


def gpu_rows(rounds: int, *, with_trl: bool, tiny: bool = False) -> tuple[list[Row], list[str]]:
    """Measure every target of the GPU table.

    Parameters
    ----------
    rounds : int
        Steps of each way.
    with_trl : bool
        Whether TRL takes part.
    tiny : bool
        Take a small model on whatever device there is.

    Returns
    -------
    rows : list of Row
        Targets and what was measured.
    notes : list of str
        The numbers they come from, as a Markdown table.

    Raises
    ------
    RuntimeError
        If there is no CUDA device.
    """
    if not (tiny or torch.cuda.is_available()):
        raise RuntimeError("--gpu needs a CUDA device")
    size, layouts = (TINY, TINY_LAYOUTS) if tiny else (LLAMA_1B, LAYOUTS)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"
    side = 256 if tiny else SIDE
    rate = product_rate(side)
    rows = []
    notes = [
        f"{device}: {rate / 1e12:.3g} TFLOP/s in bfloat16 products of {side} x {side}\n",
        "| layout | way | s | peak, GiB | useful share, % | over ours |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(notes), file=sys.stderr, flush=True)
    for name, layout in layouts.items():
        groups = draw_groups(layout, size.vocabulary)
        measured: dict[str, tuple[float, float] | None] = {}
        for kind, way in WAYS.items():
            if kind.startswith("TRL") and not with_trl:
                continue
            measured[kind] = _measure(kind, way, size, groups, rounds)
            notes.append(_line(name, kind, measured, size.useful_flops(groups) / rate))
            print(notes[-1], file=sys.stderr, flush=True)
        ours, theirs = measured["ours"], measured.get("TRL")
        assert ours is not None
        both = theirs is not None
        rows += [
            Row(
                f"{name}: faster than TRL",
                FACTORS[name],
                theirs[0] / ours[0] if theirs and both else None,
                "x",
            ),
            Row(
                f"{name}: peak memory over TRL's",
                0.7,
                ours[1] / theirs[1] if theirs and theirs[1] else None,
                "x",
                at_most=True,
            ),
            Row(
                f"{name}: useful share of the device's rate",
                45,
                100 * size.useful_flops(groups) / ours[0] / rate,
                " %",
            ),
        ]
    return rows, notes


def product_rate(side: int) -> float:
    """Rate of bfloat16 matrix products.

    Parameters
    ----------
    side : int
        Of the square matrices.

    Returns
    -------
    float
        FLOP/s, median of ten.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    for _ in range(3):
        left @ right
    return 2 * side**3 / statistics.median(timed(lambda: left @ right) for _ in range(10))


def _line(
    layout: str, kind: str, measured: dict[str, tuple[float, float] | None], floor: float
) -> str:
    """Format what a way took; None where its memory ran out."""
    taken, ours = measured[kind], measured["ours"]
    if taken is None or ours is None:
        return f"| {layout} | {kind} | out of memory | | | |"
    seconds, peak = taken
    return (
        f"| {layout} | {kind} | {seconds:.3f} | {peak / 2**30:.1f} "
        f"| {100 * floor / seconds:.0f} | {seconds / ours[0]:.2f} |"
    )


def _measure(
    kind: str, way: Way, size: Size, groups: list[Group], rounds: int
) -> tuple[float, float] | None:
    """Median seconds and peak bytes of a step, alone on the device; None if it does not fit."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = size.build(torch.bfloat16, device)
    if way.recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        return _timed_step(_step(kind, way, model, groups), model, rounds)
    except torch.OutOfMemoryError:
        return None
    finally:
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _step(kind: str, way: Way, model: Any, groups: list[Group]) -> Step:
    if kind.startswith("ours"):
        return our_step(model, groups, tokens=way.tokens)
    if kind == "plain":
        return plain_step(model, groups)
    return trl_step(model, groups)


def _timed_step(step: Step, model: Any, rounds: int) -> tuple[float, float]:
    for _ in range(3):  # compiles, and settles the allocator
        model.zero_grad(set_to_none=True)
        step()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(rounds):
        model.zero_grad(set_to_none=True)
        times.append(timed(step))
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return statistics.median(times), peak
