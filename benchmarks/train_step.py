"""The training step: each target with what this run measured.

``python -m benchmarks.train_step`` takes some minutes on two cores; with ``--gpu`` it takes a model
of 1B class through the same comparison on a CUDA device, with ``--tiny`` a small one on any. TRL's
rows need ``pip install '.[bench]'``. A busy machine is refused, its load recorded; with ``--busy``
it is processor seconds of one thread instead of wall time on two, which neighbours disturb less.
Times are medians over rounds in which every way of making the step has its turn, so that a change
of the machine's speed meets all alike; a factor is the ratio of two. The exit code is 0 whether
targets are met or not.
"""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import CORES, Row, refuse_busy, seconds_of
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
from spin_train.training.objective import Objective

ROUNDS = 5
MICRO_BATCH_TOKENS = TrainingConfig().micro_batch_tokens
SMALL_TOKENS = 700  # one group of 384/128 at a time
LAYOUTS = {
    "384/128": [(384, [128, 128])] * 4,
    "128/128": [(128, [128, 128])] * 4,
}
TRIPLETS = [(384, [128, 128, 128])] * 4
MIXED_BATCHES = 3
FACTORS = {  # against plain without the opponent's forward, against plain, against TRL
    "384/128": (3.0, 4.0, 10.0),
    "128/128": (1.7, 2.5, 7.0),
    "mixed lengths": (2.0, 3.0, 7.0),
}
MEMORY_FACTOR = 8.0
BUDGETS = {
    "ours": "",
    "ours, small": f", {SMALL_TOKENS} tokens at a time",
    "ours, least": f", {SMALL_TOKENS} tokens at a time, activations recomputed",
}
AGREEMENT = 5e-5  # relative, in float32


def compare(
    size: Size, batches: list[list[Group]], *, rounds: int, with_trl: bool
) -> dict[str, float]:
    """Time our step, plain with and without the opponent, and TRL's, in float32.

    Parameters
    ----------
    size : Size
        The model.
    batches : list of list of Group
        Pairs.
    rounds : int
        Turns of each.
    with_trl : bool
        Whether TRL takes part.

    Returns
    -------
    dict
        Median seconds of ``ours``, ``plain``, ``plain with opponent`` and ``trl``.
    """
    ours, plain, opponent = (size.build(torch.float32) for _ in range(3))
    steps: dict[str, tuple[Any, list[Step]]] = {
        "ours": (ours, [our_step(ours, b, tokens=MICRO_BATCH_TOKENS) for b in batches]),
        "plain": (plain, [plain_step(plain, b) for b in batches]),
        "plain with opponent": (plain, [plain_step(plain, b, opponent=opponent) for b in batches]),
    }
    if with_trl:
        theirs = size.build(torch.float32)
        steps["trl"] = (theirs, [trl_step(theirs, b) for b in batches])
    compared = [name for name in ("plain", "ours", "trl") if name in steps]
    _require_agreement([steps[name] for name in compared])
    return seconds_of(steps, rounds)


def _require_agreement(steps: list[tuple[Any, list[Step]]]) -> None:
    """Hold all ways to one loss, and to one gradient in all parameters, of the first batch."""
    losses, gradients = [], []
    for model, (step, *_) in steps:
        model.zero_grad()
        losses.append(step().item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]).double())
    expected = gradients[0].norm()
    apart = max((gradient - gradients[0]).norm().item() for gradient in gradients) / expected
    gap = (max(losses) - min(losses)) / abs(losses[0])
    print(f"apart by {gap:.1e} in the loss, {apart:.1e} in the gradient", file=sys.stderr)
    if gap > AGREEMENT or apart > AGREEMENT:
        raise AssertionError(
            f"ours, plain and TRL do not agree: {gap:.2g} in the loss, {apart:.2g}"
        )


def own_factors(size: Size, *, rounds: int) -> dict[str, float]:
    """Compare our steps among themselves, and with the machine's products of matrices.

    Parameters
    ----------
    size : Size
        The model.
    rounds : int
        Turns of each.

    Returns
    -------
    dict
        Of the triplet step over the pair step, steps that take less memory over the default's,
        the useful share of float32 products, and float32 over bfloat16 time; the two rates of
        products, in GFLOP/s.
    """
    pairs = draw_groups(LAYOUTS["384/128"], size.vocabulary)
    triplets = draw_groups(TRIPLETS, size.vocabulary)
    model, narrow = size.build(torch.float32), size.build(torch.bfloat16)
    recomputing = size.build(torch.float32)
    recomputing.gradient_checkpointing_enable()
    square = torch.randn(2048, 2048)
    squares = {"product": square, "narrow product": square.bfloat16()}
    tspin = Objective("tspin", beta=1.0, history_weight=0.1)
    tokens = MICRO_BATCH_TOKENS
    seconds = seconds_of(
        {
            "pairs": (model, [our_step(model, pairs, tokens=tokens)]),
            "small": (model, [our_step(model, pairs, tokens=SMALL_TOKENS)]),
            "least": (recomputing, [our_step(recomputing, pairs, tokens=SMALL_TOKENS)]),
            "triplets": (model, [our_step(model, triplets, tokens=tokens, objective=tspin)]),
            "bfloat16": (narrow, [our_step(narrow, pairs, tokens=tokens)]),
            **{name: (None, [lambda x=x: x @ x]) for name, x in squares.items()},  # type: ignore[misc]
        },
        rounds,
    )
    rate = 2 * 2048**3 / seconds["product"]
    return {
        "triplets over pairs": seconds["triplets"] / seconds["pairs"],
        "least over pairs": seconds["least"] / seconds["pairs"],
        "small over pairs": seconds["small"] / seconds["pairs"],
        "useful share": 100 * size.useful_flops(pairs) / seconds["pairs"] / rate,
        "bfloat16": seconds["pairs"] / seconds["bfloat16"],
        "float32 GFLOP/s": rate / 1e9,
        "bfloat16 GFLOP/s": 2 * 2048**3 / seconds["narrow product"] / 1e9,
    }


def report_memory(kind: str) -> None:
    """Print the most memory that steps took above the idle process, in MB; in a process of its own.

    Parameters
    ----------
    kind : str
        ``ours``, ``ours, small``, ``ours, least``, ``plain``, ``plain with opponent`` or ``trl``.
    """
    size = Size()
    model = size.build(torch.float32)
    groups = draw_groups(LAYOUTS["384/128"], size.vocabulary)
    tiny = draw_groups([(8, [4, 4])], size.vocabulary)
    makers: dict[str, Callable[[list[Group]], Step]] = {
        "ours": lambda groups: our_step(model, groups, tokens=MICRO_BATCH_TOKENS),
        "ours, small": lambda groups: our_step(model, groups, tokens=SMALL_TOKENS),
        "ours, least": lambda groups: our_step(model, groups, tokens=SMALL_TOKENS),
        "plain": lambda groups: plain_step(model, groups),
        "plain with opponent": lambda groups: plain_step(model, groups, opponent=opponent),
        "trl": lambda groups: trl_step(model, groups),
    }
    if kind == "ours, least":
        model.gradient_checkpointing_enable()
    opponent = size.build(torch.float32) if kind == "plain with opponent" else None
    makers["plain" if kind == "trl" else kind](tiny)()  # libraries load on first use
    model.zero_grad(set_to_none=True)
    step = makers[kind](groups)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what there is
    idle = _status("VmRSS")
    for _ in range(2):
        model.zero_grad(set_to_none=True)
        step()
    print((_status("VmHWM") - idle) / 1024)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def memory_of(kind: str) -> float:
    """Run `report_memory` in a process of its own.

    Parameters
    ----------
    kind : str
        As there.

    Returns
    -------
    float
        MB.
    """
    command = [sys.executable, "-m", "benchmarks.train_step", "--memory", kind, "--busy"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(ran.stdout.splitlines()[-1])


def cpu_rows(rounds: int, *, with_trl: bool) -> tuple[list[Row], list[str]]:
    """Measure every target of the CPU table.

    Parameters
    ----------
    rounds : int
        Turns of each step.
    with_trl : bool
        Whether TRL takes part.

    Returns
    -------
    rows : list of Row
        Targets and what was measured.
    notes : list of str
        The numbers they come from.
    """
    size = Size()
    layouts = {name: [draw_groups(layout, size.vocabulary)] for name, layout in LAYOUTS.items()}
    layouts["mixed lengths"] = [
        draw_groups(mixed_lengths(4, seed=seed), size.vocabulary) for seed in range(MIXED_BATCHES)
    ]
    rows, notes = [], []
    for name, batches in layouts.items():
        seconds = compare(size, batches, rounds=rounds, with_trl=with_trl)
        names = ("plain", "plain with opponent", "trl")
        spoken = ("plain without opponent forward", "plain", "TRL")
        for other, said, target in zip(names, spoken, FACTORS[name], strict=True):
            factor = seconds[other] / seconds["ours"] if other in seconds else None
            rows.append(Row(f"{name}: faster than {said}", target, factor, "x"))
        notes.append(f"{name}, s a step: " + ", ".join(f"{n} {s:.3f}" for n, s in seconds.items()))
        print(notes[-1], file=sys.stderr, flush=True)
    kinds = (
        ("plain", "plain with opponent", "trl") if with_trl else ("plain", "plain with opponent")
    )
    memory = {kind: memory_of(kind) for kind in (*BUDGETS, *kinds)}
    notes.append("384/128, MB above idle: " + ", ".join(f"{n} {m:.0f}" for n, m in memory.items()))
    for other, said in zip(("plain", "plain with opponent", "trl"), spoken, strict=True):
        for ours, budget in BUDGETS.items():
            factor = memory[other] / memory[ours] if other in memory else None
            rows.append(
                Row(f"384/128{budget}: less memory than {said}", MEMORY_FACTOR, factor, "x")
            )
    own = own_factors(size, rounds=rounds)
    notes.append(
        f"{SMALL_TOKENS} tokens at a time: {own['small over pairs']:.3f} of the time; "
        f"with activations recomputed {own['least over pairs']:.3f}"
    )
    notes.append(
        f"matrix products, GFLOP/s: float32 {own['float32 GFLOP/s']:.0f}, "
        f"bfloat16 {own['bfloat16 GFLOP/s']:.0f}"
    )
    rows += [
        Row("T-SPIN triplet step over SPIN pair step", 1.4, own["triplets over pairs"], "x", True),
        Row("useful share of the float32 matrix-product rate", 60, own["useful share"], " %"),
        Row("bfloat16 step faster than float32 step", 2.0, own["bfloat16"], "x"),
    ]
    return rows, notes


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--gpu", action="store_true", help="the 1B-class comparison on CUDA")
    parser.add_argument("--tiny", action="store_true", help="try what --gpu does, on any device")
    parser.add_argument("--busy", action="store_true", help="measure although others are working")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each step")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    on_gpu = arguments.gpu or arguments.tiny
    load = refuse_busy(allowed=arguments.busy or on_gpu)
    torch.set_num_threads(1 if arguments.busy and not on_gpu else CORES)
    if arguments.memory:
        report_memory(arguments.memory)
        return
    try:
        import trl

        with_trl, version = True, f"TRL {trl.__version__}"
    except ImportError:
        with_trl, version = False, "TRL is not installed: pip install '.[bench]'"
    if on_gpu:
        from benchmarks.gpu_step import gpu_rows

        rows, notes = gpu_rows(arguments.rounds, with_trl=with_trl, tiny=arguments.tiny)
    else:
        rows, notes = cpu_rows(arguments.rounds, with_trl=with_trl)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__},")
    print(f"{version}; load before {load:.2f}, after {os.getloadavg()[0]:.2f}\n")
    print("| claim | target | measured | |\n|---|---|---|---|")
    print("\n".join(row.markdown() for row in rows))
    print("\n" + "\n".join(notes))


if __name__ == "__main__":
    main()
