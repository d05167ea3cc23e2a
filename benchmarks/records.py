"""The records of `spin_train.data.records` against `datasets`, on scored rows of training.

``python -m benchmarks.records`` writes 200,000 records (a prompt of about 150 tokens, a real and a
generated response of about 250 each) as shards and reads them as the training stage does: open all
files, count the tokens of every example, take 10,000 records in random order. Each way runs in a
process of its own; times are of the processor. About five minutes on one core, 2 GB of disk.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from spin_train.data.records import Record, Response, read_records, write_records

ROWS = 200_000
SHARDS = 64
PROMPT_TOKENS, RESPONSE_TOKENS = 150, 250
TAKEN = 10_000


def write_shards(folder: Path, rows: int) -> None:
    """Write scored records of random tokens, in shards as the scoring stage leaves them.

    Parameters
    ----------
    folder : Path
        The shards go into it.
    rows : int
        How many records.
    """
    draw = np.random.default_rng(0)

    def ids(mean: int) -> list[int]:
        size = draw.integers(mean // 2, mean * 3 // 2)
        drawn: list[int] = draw.integers(32_000, size=size).tolist()
        return drawn

    def record(number: int) -> Record:
        real = Response("real", ids(RESPONSE_TOKENS), "stop", opponent_logps=-100.0)
        sample = Response("generated", ids(RESPONSE_TOKENS), "stop", 0, -90.0, None, -90.0)
        return Record(number, ids(PROMPT_TOKENS), [real, sample])

    share = -(-rows // SHARDS)
    for shard, start in enumerate(range(0, rows, share)):
        numbers = range(start, min(start + share, rows))
        write_records(folder / f"train-{shard:05d}.parquet", map(record, numbers))


def ours(paths: Sequence[Path]) -> tuple[Callable[[], int], Callable[[int], Record]]:
    """Open shards with `read_records`.

    Parameters
    ----------
    paths : sequence of Path
        The shards.

    Returns
    -------
    tokens : callable
        Counts the tokens of all prompts and responses.
    record : callable
        Takes one record by its place.
    """
    records = read_records(*paths)

    def tokens() -> int:
        counted = [records.response_tokens(role)[1] for role in ("real", "generated")]
        return int(sum(part.sum() for part in (records.prompt_tokens(), *counted)))

    return tokens, records.__getitem__


def theirs(paths: Sequence[Path]) -> tuple[Callable[[], int], Callable[[int], Record]]:
    """Open shards with `datasets`, which converts them to Arrow files and maps those into memory.

    Parameters
    ----------
    paths : sequence of Path
        The shards.

    Returns
    -------
    tokens : callable
        Counts the tokens of all prompts and responses.
    record : callable
        Takes one record by its place.
    """
    import datasets
    import pyarrow.compute as pc

    datasets.disable_progress_bars()
    cache = str(paths[0].parent / "cache")
    rows = datasets.Dataset.from_parquet([str(path) for path in paths], cache_dir=cache)

    def tokens() -> int:
        prompts = pc.sum(pc.list_value_length(rows.data.column("prompt_ids"))).as_py()
        responses = pc.list_flatten(rows.data.column("responses"))
        return int(
            prompts + pc.sum(pc.list_value_length(pc.struct_field(responses, "ids"))).as_py()
        )

    def record(place: int) -> Record:
        row = rows[place]
        responses = [Response(**response) for response in row["responses"]]
        return Record(row["prompt_id"], row["prompt_ids"], responses)

    return tokens, record


WAYS = {"records.py": ours, "datasets, first": theirs, "datasets, cached": theirs}


def measure(way: str, folder: Path, rows: int) -> str:
    """Open, count and take records in one way.

    Parameters
    ----------
    way : str
        Name in `WAYS`.
    folder : Path
        With the shards.
    rows : int
        How many records they hold.

    Returns
    -------
    str
        A row of the table.
    """
    paths = sorted(folder.glob("train-*.parquet"))
    if way != "records.py":
        import datasets  # noqa: F401  the import is not what is measured
    idle = _resident("RssAnon")
    started = time.process_time()
    tokens, record = WAYS[way](paths)
    opened = time.process_time()
    tokens()
    counted = time.process_time()
    places = random.Random(0).choices(range(rows), k=TAKEN)
    for place in places:
        assert record(place).prompt_id == place
    taken = time.process_time()
    disk = sum(file.stat().st_size for file in folder.glob("cache/**/*") if file.is_file())
    cells = [
        f"{opened - started:.1f}",
        f"{counted - opened:.2f}",
        f"{(taken - counted) / TAKEN * 1e6:.0f}",
        f"{_resident('RssAnon') - idle:.0f}",
        f"{_resident('RssFile'):.0f}",
        f"{disk / 2**20:.0f}",
    ]
    return f"| {way} | {' | '.join(cells)} |"


def _resident(field: str) -> float:
    """Resident memory of this process now, MB: its own (RssAnon), or mapped files (RssFile)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise OSError(f"no {field} in /proc/self/status")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(measure(arguments.way, arguments.folder, arguments.rows), flush=True)
        return
    with tempfile.TemporaryDirectory() as name:
        write_shards(Path(name), arguments.rows)
        print("| way | open, s | count, s | record, us | own, MB | mapped, MB | cache, MB |")
        print("|---|---|---|---|---|---|---|", flush=True)
        for way in WAYS:
            module = [sys.executable, "-m", "benchmarks.records", "--rows", str(arguments.rows)]
            subprocess.run([*module, "--way", way, "--folder", name], check=True)


if __name__ == "__main__":
    main()
