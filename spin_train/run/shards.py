"""Shards of rows, the unit of sampling and scoring: the same rows each, whoever does them.

A shard is done by one rank, written whole or not at all, and depends on data and configuration
alone. Ranks take the next that nobody is at: the claim is a lock that the kernel drops when its
holder dies, so none goes stale.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spin_train.config.schema import GenerationConfig
from spin_train.data.records import Record, count_records, read_records
from spin_train.run.directory import RunDirectory
from spin_train.system.locks import FileLock

__all__ = ["Shard", "claimed", "forget_claims", "rows_per_shard", "shards_of"]

_CLAIMS = ".claims"
_MANY = 64  # shards of large data: a kill loses a 64th of the work, uneven ones differ by as much
_FEW = 8  # shards of small data, so that eight ranks have something to do
_LEAST = 8  # rows, where there are so many


@dataclass(frozen=True)
class Shard:
    """Some rows of a split, in order."""

    split: str
    """`train` or `held_out`."""
    index: int
    """From 0 within the split."""
    source: Path
    """File of the split."""
    start: int = 0
    """First row of the file."""
    stop: int = 0
    """Row after the last."""

    @property
    def records(self) -> list[Record]:
        """Rows, read from the file at each call.

        Returns
        -------
        list of Record
            In order.
        """
        return list(read_records(self.source, start=self.start, stop=self.stop))

    @property
    def name(self) -> str:
        """File name.

        Returns
        -------
        str
            Of split and index.
        """
        return f"{self.split}-{self.index:05d}.parquet"


def rows_per_shard(rows: int, generation: GenerationConfig) -> int:
    """Say how many rows a shard has; neither ranks nor anything else of the machine enter.

    Parameters
    ----------
    rows : int
        Of the split.
    generation : GenerationConfig
        The run's.

    Returns
    -------
    int
        A 64th of the rows, but not less than one batch of responses and not more than 32; an
        eighth, where a batch is more than that; at least 8 rows.

    Examples
    --------
    >>> [rows_per_shard(rows, GenerationConfig(batch_size=32)) for rows in (5, 200, 1000, 50_000)]
    [8, 25, 32, 782]
    """
    batch = -(-generation.batch_size // generation.samples_per_prompt)
    wanted = min(max(batch, -(-rows // _MANY)), 32 * batch)
    return max(_LEAST, min(wanted, -(-rows // _FEW)))


def shards_of(run: RunDirectory, generation: GenerationConfig) -> list[Shard]:
    """Cut the prepared rows of a run into shards.

    Parameters
    ----------
    run : RunDirectory
        With prepared rows.
    generation : GenerationConfig
        The run's.

    Returns
    -------
    list of Shard
        Those to train on first.
    """
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
    """Go through the shards that are not in a folder yet and that nobody else is at.

    Parameters
    ----------
    shards : sequence of Shard
        All of them.
    folder : Path
        Where they go.

    Yields
    ------
    number : int
        Place of the shard among all.
    shard : Shard
        This process's until the next is taken; by then it must be in the folder.
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
    """Remove the files of claims, once every shard is there.

    Parameters
    ----------
    folder : Path
        Where the shards are.
    """
    shutil.rmtree(folder / _CLAIMS, ignore_errors=True)
