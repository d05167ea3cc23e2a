"""Shards of rows, the unit of sampling and scoring: always the same rows, on any rank.

One rank does a shard, and writes it whole or not at all. A shard depends on data and configuration
alone. Each rank takes the next shard that no other works on: the claim is a lock that the kernel
drops when its holder dies, so none goes stale.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spin_train.config.sections import GenerationConfig
from spin_train.data.records import Record, count_records, read_records
from spin_train.run.directory import RunDirectory
from spin_train.system.locks import FileLock

__all__ = ["Shard", "claimed", "forget_claims", "rows_per_shard", "shards_of"]

_CLAIMS = ".claims"
_MANY = 64  # shards of large data: a kill loses a 64th of the work
_FEW = 8  # shards of small data, so that eight ranks have something to do
_LEAST = 8  # rows, where there are so many


@dataclass(frozen=True)
class Shard:
    """Some rows of a split, in order."""

    split: str
    """`train` or `held_out`."""
    index: int
    """Its number within the split, from 0."""
    source: Path
    """File of the split."""
    start: int = 0
    """First row of the file."""
    stop: int = 0
    """Row after the last."""

    @property
    def records(self) -> list[Record]:
        """Rows in order, read from the file at each call."""
        return list(read_records(self.source, start=self.start, stop=self.stop))

    @property
    def name(self) -> str:
        """File name, made from split and index."""
        return f"{self.split}-{self.index:05d}.parquet"


def rows_per_shard(rows: int, generation: GenerationConfig) -> int:
    """Say how many rows of a split one shard has; it depends on data and configuration alone.

    A 64th of the rows, but at least one batch of responses and at most 32. Where one batch is more
    than an eighth of the rows, an eighth. At least 8 rows in any case.

    Examples
    --------
    >>> [rows_per_shard(rows, GenerationConfig(batch_size=32)) for rows in (5, 200, 1000, 50_000)]
    [8, 25, 32, 782]
    """
    batch = -(-generation.batch_size // generation.samples_per_prompt)
    wanted = min(max(batch, -(-rows // _MANY)), 32 * batch)
    return max(_LEAST, min(wanted, -(-rows // _FEW)))


def shards_of(run: RunDirectory, generation: GenerationConfig) -> list[Shard]:
    """Cut the prepared rows of a run into shards, those to train on first."""
    shards = []
    for split, path in (("train", run.train_rows), ("held_out", run.held_out_rows)):
        rows = count_records(path)
        size = rows_per_shard(rows, generation)
        shards += [
            Shard(split, start // size, path, start, min(rows, start + size))
            for start in range(0, rows, size)
        ]
    return shards


def claimed(shards: Sequence[Shard], folder: Path) -> Iterator[tuple[int, Shard]]:
    """Claim, one by one, the shards that are not in a folder yet and that no rank works on.

    Yields the shard's place among all, and the shard. It belongs to this process until the next one
    is taken, and by then it must be in the folder.
    """
    for number, shard in enumerate(shards):
        path = folder / shard.name
        claim = FileLock(folder / _CLAIMS / f"{shard.name}.lock")
        try:
            # Looked at again under the claim: its last holder may just have written it.
            if not path.exists() and claim.acquire() and not path.exists():
                yield number, shard
        finally:
            claim.release()


def forget_claims(folder: Path) -> None:
    """Remove the lock files of claims, once every shard is there."""
    shutil.rmtree(folder / _CLAIMS, ignore_errors=True)
