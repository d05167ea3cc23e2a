"""Shards of rows, the unit of writing: always the same rows, on any rank.

One rank does a shard, and writes it whole or not at all. A shard depends on data and configuration
alone. Each rank takes the next shard that no other works on: the claim is a lock that the kernel
drops when its holder dies, so none goes stale. On several nodes it is an entry of the job's store.

Sampling takes several shards at once, so that its batches are full. Which ones depends on data and
configuration too, never on time: rows that meet in a batch round each other's last bits, and a run
that was killed must end with the bits of one that was not.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spin_train.config.sections import GenerationConfig
from spin_train.data.records import Record, count_records, read_records
from spin_train.run.directory import RunDirectory
from spin_train.system.board import Board
from spin_train.system.locks import FileLock

__all__ = [
    "Shard",
    "claimed",
    "claimed_groups",
    "forget_claims",
    "rows_per_shard",
    "sampled_together",
    "shards_of",
]

_CLAIMS = ".claims"
_MANY = 64  # shards of large data: a kill loses a 64th of the work
_FEW = 8  # shards of small data, so that eight ranks have something to do
_LEAST = 8  # rows, where there are so many
_BATCHES = 8  # that are sampled in one go: the last of them is half empty, and a kill loses them
_VLLM_BATCH = 256  # responses that vLLM samples at a time, more or less


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


def sampled_together(
    shards: Sequence[Shard], generation: GenerationConfig, *, ranks: int
) -> list[list[Shard]]:
    """Group shards, in order, so that batches are full and each rank has its share.

    A group has about eight batches, or a 64th of the rows if that is more. There are as many groups
    as ranks, or a multiple of it, as far as there are shards.

    Examples
    --------
    >>> shards = [Shard("train", n, Path(), 5 * n, 5 * n + 5) for n in range(8)]
    >>> generation = GenerationConfig(batch_size=64)
    >>> [[len(g) for g in sampled_together(shards, generation, ranks=n)] for n in (1, 2)]
    [[8], [4, 4]]
    """
    at_once = generation.batch_size if generation.engine == "hf" else _VLLM_BATCH
    rows = [shard.stop - shard.start for shard in shards]
    total = sum(rows)
    wanted = max(_BATCHES * at_once // generation.samples_per_prompt, -(-total // _MANY), 1)
    count = -(-max(1, round(total / wanted)) // ranks) * ranks
    groups: list[list[Shard]] = [[] for _ in range(count)]
    before = 0
    for shard, size in zip(shards, rows, strict=True):
        # by the middle of the shard, so that groups are as even as shards allow
        groups[(2 * before + size) * count // (2 * total)].append(shard)
        before += size
    return [group for group in groups if group]


def claimed_groups(
    groups: Sequence[Sequence[Shard]], folder: Path, board: Board | None = None
) -> Iterator[tuple[int, Sequence[Shard]]]:
    """Claim, one by one, the groups of which a shard is missing and that no rank works on.

    Yields the place of the group among all, and the group. It belongs to this process until the
    next one is taken, and by then its shards must be in the folder. On several nodes the board
    takes the place of locks, which not every shared file system has.
    """
    if board is not None:
        yield from _claimed_on(board, groups, folder)
        return
    for number, group in enumerate(groups):
        claim = FileLock(folder / _CLAIMS / f"{group[0].name}.lock")
        try:
            # Looked at again under the claim: its last holder may just have written it.
            if not _is_there(group, folder) and claim.acquire() and not _is_there(group, folder):
                yield number, group
        finally:
            claim.release()


def _is_there(group: Sequence[Shard], folder: Path) -> bool:
    return all((folder / shard.name).exists() for shard in group)


def _claimed_on(
    board: Board, groups: Sequence[Sequence[Shard]], folder: Path
) -> Iterator[tuple[int, Sequence[Shard]]]:
    """Claim groups on the board, and announce their shards once they are written.

    A claim is never given back: a start of the run ends with the first process that dies.
    """
    board.announce_left(folder)
    for number, group in enumerate(groups):
        paths = [folder / shard.name for shard in group]
        if all(map(board.is_announced, paths)) or not board.claim(str(paths[0])):
            continue
        yield number, group
        for path in paths:
            board.announce(path)


def claimed(
    shards: Sequence[Shard], folder: Path, board: Board | None = None
) -> Iterator[tuple[int, Shard]]:
    """Do the same for single shards."""
    for number, (shard,) in claimed_groups([(shard,) for shard in shards], folder, board):
        yield number, shard


def forget_claims(folder: Path) -> None:
    """Remove the lock files of claims, once every shard is there."""
    shutil.rmtree(folder / _CLAIMS, ignore_errors=True)
