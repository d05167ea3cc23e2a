"""The training step on one CUDA device: a Llama of 1B class, bfloat16, up to 2,048 tokens.

Called by ``python -m benchmarks.train_step --gpu``. No machine with such a device has run it yet.
"""

import gc
import statistics

import torch

from benchmarks.measure import Row, timed
from benchmarks.yardsticks import Size, draw_groups, mixed_lengths, our_step, trl_step
from spin_train.model.packing import Group

LLAMA_1B = Size(
    width=2048, intermediate=8192, layers=16, heads=32, vocabulary=128_256, context=4096
)
MICRO_BATCH_TOKENS = 16_384
PAIRS = 8
LAYOUTS = {
    "mixed lengths": mixed_lengths(PAIRS, seed=0, longest=1024),
    "prompt 1,536, response 512": [(1536, [512, 512])] * PAIRS,
}
FACTORS = {"mixed lengths": 1.6, "prompt 1,536, response 512": 1.5}
# Dense bfloat16 products, FLOP/s, as the makers state them.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}


def gpu_rows(rounds: int, *, with_trl: bool) -> tuple[list[Row], list[str]]:
    """Measure every target of the GPU table.

    Parameters
    ----------
    rounds : int
        Steps of each way.
    with_trl : bool
        Whether TRL takes part.

    Returns
    -------
    rows : list of Row
        Targets and what was measured.
    notes : list of str
        The numbers they come from.

    Raises
    ------
    RuntimeError
        If there is no CUDA device, or its peak is not known.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("--gpu needs a CUDA device")
    device = torch.cuda.get_device_name()
    peak = next((peak for name, peak in PEAKS.items() if name in device), None)
    if peak is None:
        raise RuntimeError(f"the peak of {device} is not in PEAKS")
    rows, notes = [], [device]
    for name, layout in LAYOUTS.items():
        groups = draw_groups(layout, LLAMA_1B.vocabulary)
        ours, our_bytes = _measure("ours", groups, rounds)
        theirs, their_bytes = _measure("trl", groups, rounds) if with_trl else (None, None)
        share = 100 * LLAMA_1B.useful_flops(groups) / ours / peak
        faster = None if theirs is None else theirs / ours
        memory = None if their_bytes is None else our_bytes / their_bytes
        rows += [
            Row(f"{name}: faster than TRL", FACTORS[name], faster, "x"),
            Row(f"{name}: peak memory over TRL's", 0.7, memory, "x", at_most=True),
            Row(f"{name}: useful share of the peak", 45, share, " %"),
        ]
        notes.append(
            f"{name}: ours {ours:.3f} s, {our_bytes / 2**30:.1f} GiB; TRL {theirs}, {their_bytes}"
        )
    return rows, notes


def _measure(kind: str, groups: list[Group], rounds: int) -> tuple[float, int]:
    """Median seconds and peak bytes of a step, alone on the device."""
    model = LLAMA_1B.build(torch.bfloat16, "cuda")
    if kind == "ours":
        step = our_step(model, groups, tokens=MICRO_BATCH_TOKENS)
    else:
        step = trl_step(model, groups)
    for _ in range(3):  # compiles, and settles the allocator
        model.zero_grad(set_to_none=True)
        step()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(rounds):
        model.zero_grad(set_to_none=True)
        times.append(timed(step))
    peak = torch.cuda.max_memory_allocated()
    del model, step
    gc.collect()
    torch.cuda.empty_cache()
    return statistics.median(times), peak
