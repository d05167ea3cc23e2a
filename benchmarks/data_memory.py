"""Peak memory and speed of the stages that read the data, at 200,000 rows.

``python -m benchmarks.data_memory`` makes up prompts of about 150 tokens, real and generated
responses of about 250, and takes them through what a rank does with them before any model comes in:
prepare (text to token ids), the shards that generate and score walk through, and the examples and
micro-batches of training. Each runs in a process of its own; peak is its resident memory at most,
above idle is what it has more than after its imports. About five minutes on one core, 1 GB of disk.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROWS = 200_000
EPOCHS = 2.0
SHARD_ROWS = 64
PROMPT_TOKENS, RESPONSE_TOKENS = 150, 250
SYMBOLS = "abcdefghijklmnopqrstuvwxyz"
TARGET_MB = 2048


def made_up_rows(path: Path, rows: int) -> None:
    """Write rows of random letters; a letter is a token.

    Parameters
    ----------
    path : Path
        JSON lines.
    rows : int
        How many.
    """
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            row = {
                "prompt": "".join(draw.choices(SYMBOLS, k=_about(draw, PROMPT_TOKENS))),
                "response": "".join(draw.choices(SYMBOLS, k=_about(draw, RESPONSE_TOKENS))),
            }
            file.write(json.dumps(row) + "\n")


def _about(draw: random.Random, mean: int) -> int:
    return draw.randint(mean // 2, mean + mean // 2)


def prepare(folder: Path) -> int:
    """Render the rows, as the prepare stage does.

    Parameters
    ----------
    folder : Path
        With ``rows.jsonl``; the records are written into it.

    Returns
    -------
    int
        Rows done.
    """
    from spin_train.config.sections import DataConfig
    from spin_train.data.rendering import Renderer
    from spin_train.languages import build_tokenizer
    from spin_train.stages.prepare import Limits, prepare_rows

    _mark_idle()
    summary = prepare_rows(
        DataConfig(path=str(folder / "rows.jsonl")),
        Renderer(build_tokenizer(SYMBOLS), "{prompt}>"),
        Limits(context=2048, max_new_tokens=256, vocabulary=100),
        train=folder / "train.parquet",
        held_out=folder / "held_out.parquet",
        seed=0,
    )
    return int(summary["rows"])


def walk_shards(folder: Path) -> int:
    """Read shard after shard and write each with a sample, as generate and score do.

    Parameters
    ----------
    folder : Path
        With the prepared records; shards are written into ``scored``.

    Returns
    -------
    int
        Rows done.
    """
    from spin_train.data.records import Record, Response, count_records, read_records, write_records

    _mark_idle()
    draw = random.Random(1)
    rows = count_records(folder / "train.parquet")
    for index, start in enumerate(range(0, rows, SHARD_ROWS)):
        records = read_records(folder / "train.parquet", start=start, stop=start + SHARD_ROWS)
        scored = []
        for record in records:
            ids = draw.choices(range(3, 29), k=_about(draw, RESPONSE_TOKENS))
            sample = Response("generated", ids, "length", iteration=0)
            both = Record(record.prompt_id, record.prompt_ids, [*record.responses, sample])
            scored.append(both.with_logps([-100.0, -200.0]))
        write_records(folder / "scored" / f"train-{index:05d}.parquet", scored)
    return rows


def make_batches(folder: Path) -> int:
    """Read all scored shards, plan two epochs of micro-batches and take the first thousand.

    Parameters
    ----------
    folder : Path
        With ``scored``.

    Returns
    -------
    int
        Rows read.
    """
    from spin_train.data.records import read_records
    from spin_train.training.batching import MicroBatches
    from spin_train.training.examples import examples_of
    from spin_train.training.objective import Objective

    _mark_idle()
    started = time.monotonic()
    records = read_records(*sorted((folder / "scored").glob("train-*.parquet")))
    read = time.monotonic()
    examples = examples_of(records, Objective("spin"))
    counted = time.monotonic()
    batches = MicroBatches(
        examples, batch_size=64, micro_batch_tokens=4096, ranks=2, epochs=EPOCHS, seed=0
    )
    planned = time.monotonic()
    for index in range(min(1000, len(batches))):
        batches[index]
    taken = time.monotonic()
    print(
        f"read {read - started:.1f} s, examples {counted - read:.2f} s, plan of {batches.steps} "
        f"steps, {len(batches)} micro-batches {planned - counted:.2f} s, "
        f"one of them {taken - planned:.2f} ms"
    )
    return len(records)


STAGES: dict[str, Callable[[Path], int]] = {
    "prepare": prepare,
    "generate, score": walk_shards,
    "train": make_batches,
}
_idle: list[float] = []


def _mark_idle() -> None:
    import spin_train.stages.table  # noqa: F401  what every rank has loaded: torch, DeepSpeed ...

    _idle[:] = [_resident("VmRSS"), time.monotonic()]


def _resident(field: str) -> float:
    """Resident memory now (VmRSS) or at most (VmHWM), MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise OSError(f"no {field} in /proc/self/status")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        rows = STAGES[arguments.stage](arguments.folder)
        idle, started = _idle
        peak, seconds = _resident("VmHWM"), time.monotonic() - started
        verdict = "met" if peak <= TARGET_MB else "MISS"
        cells = [arguments.stage, f"{peak:.0f}", f"{peak - idle:.0f}", f"{rows / seconds:.0f}"]
        print(f"| {' | '.join([*cells, verdict])} |")
        return
    with tempfile.TemporaryDirectory() as name:
        made_up_rows(Path(name) / "rows.jsonl", arguments.rows)
        print(f"| stage | peak, MB (target {TARGET_MB}) | above idle, MB | rows/s | |")
        print("|---|---|---|---|---|", flush=True)
        for stage in STAGES:
            module = [sys.executable, "-m", "benchmarks.data_memory"]
            subprocess.run([*module, "--stage", stage, "--folder", name], check=True)


if __name__ == "__main__":
    main()
