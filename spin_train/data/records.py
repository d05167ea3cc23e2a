"""The record of a prompt: one Parquet row, its responses a list by role.

SPIN reads (real, generated) pairs from it, T-SPIN triplets with a proto response. Several samples
per prompt and samples of earlier iterations are more list entries. Data stay in Arrow columns,
4 bytes per token, until a record is requested.

`datasets` was measured against this on 200,000 rows (``python -m benchmarks.records``): it maps
files into memory, 58 MB of its own against 627, but copies every iteration's records into a cache
on disk (518 MB) and takes 120 microseconds per record against 40. Shards are read by their rows
here, without a cache to keep in step with files that are written again.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spin_train.errors import DamagedFileError
from spin_train.system.files import write_atomically

__all__ = [
    "Record",
    "Records",
    "Response",
    "count_records",
    "read_records",
    "share_out",
    "write_records",
]

# Rows per row group on disk (reading one row reads its group), and per block in memory.
_GROUP_ROWS = 512
_BLOCK_ROWS = 8192

_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.int64()),
        ("prompt_ids", pa.list_(pa.int32())),
        (
            "responses",
            pa.list_(
                pa.struct(
                    [
                        ("role", pa.string()),
                        ("iteration", pa.int32()),
                        ("ids", pa.list_(pa.int32())),
                        ("finish_reason", pa.string()),
                        ("opponent_logps", pa.float64()),
                        ("reference_logps", pa.float64()),
                        ("sampling_logps", pa.float64()),
                    ]
                )
            ),
        ),
        ("weight", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Response:
    """One response to a prompt."""

    role: str
    """`real`, `generated`, `proto`, `greedy`, or `given`: the other response that came with the
    data."""
    ids: list[int]
    """Token ids, exactly as sampled or rendered."""
    finish_reason: str
    """`stop`: ends with an end-of-text token; `length`: cut, without an end-of-text token."""
    iteration: int | None = None
    """Iteration whose opponent sampled it; None for real and given."""
    opponent_logps: float | None = None
    """Summed log-prob under one opponent, nats; None until scored."""
    reference_logps: float | None = None
    """Summed log-prob under p_0, nats; only for T-SPIN_ref."""
    sampling_logps: float | None = None
    """Summed log-prob at temperature 1 from the engine that sampled it, nats; None if real."""


@dataclass(frozen=True)
class Record:
    """A prompt and its responses."""

    prompt_id: int
    """Number of the row in the SFT data, from 0."""
    prompt_ids: list[int]
    """Token ids of the rendered prompt."""
    responses: list[Response]
    weight: float = 1.0
    """Factor on the loss of each of its examples."""

    def of_role(self, role: str) -> list[Response]:
        """Responses of one role (`real`, `generated`, `proto`, `given`) in order, perhaps none."""
        return [response for response in self.responses if response.role == role]

    def with_logps(
        self, logps: Iterable[float], *, by: Literal["opponent", "reference"] = "opponent"
    ) -> "Record":
        """Copy with the log-probs (nats, one per response in order) of the opponent or of p_0."""
        scored = [
            replace(response, opponent_logps=value)
            if by == "opponent"
            else replace(response, reference_logps=value)
            for response, value in zip(self.responses, logps, strict=True)
        ]
        return replace(self, responses=scored)


class Records(Sequence[Record]):
    """Records in Arrow columns; each is created on access, and a slice gives a list."""

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        self._blocks = [_Block(table) for table in _joined(tables)]
        self._starts = np.cumsum([0, *map(len, self._blocks)]).tolist()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[row] for row in range(len(self))[index]]
        row = range(len(self))[index]
        block = bisect_right(self._starts, row) - 1
        return self._blocks[block].record(row - self._starts[block])

    def prompt_tokens(self) -> NDArray[np.int64]:
        """Length of each prompt in tokens, (R,)."""
        return _concatenated(np.diff(block.prompt_starts) for block in self._blocks)

    def response_tokens(self, role: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Count each record's responses of one role, (R,), and give their lengths in tokens."""
        counts, tokens = [], []
        for block in self._blocks:
            chosen = block.roles == (block.names.index(role) if role in block.names else -1)
            before = np.concatenate([[0], np.cumsum(chosen)])
            counts.append(np.diff(before[block.response_starts]))
            tokens.append(np.diff(block.id_starts)[chosen])
        return _concatenated(counts), _concatenated(tokens)


class _Block:
    """A few thousand records as numpy views of Arrow's buffers."""

    def __init__(self, table: pa.Table) -> None:
        prompts = _array(table, "prompt_ids")
        responses = _array(table, "responses")
        columns = responses.flatten()
        ids = columns.field("ids")
        self._prompt_ids = _array(table, "prompt_id").to_numpy()
        self.weights = np.ones(len(self._prompt_ids))
        if "weight" in table.column_names:  # runs of before had none
            self.weights = pc.fill_null(_array(table, "weight"), 1.0).to_numpy()
        self.prompt_starts = _starts(prompts)
        self._prompts = prompts.flatten().to_numpy()
        self.response_starts = _starts(responses)
        self.id_starts = _starts(ids)
        self._ids = ids.flatten().to_numpy()
        roles = columns.field("role").dictionary_encode()
        self.roles = roles.indices.to_numpy()
        self.names: list[str] = roles.dictionary.to_pylist()
        reasons = columns.field("finish_reason").dictionary_encode()
        self._reasons = reasons.indices.to_numpy()
        self._reason_names = reasons.dictionary.to_pylist()
        # An iteration of -1 or a log-prob of nan is never stored, so they can stand for None.
        self._iterations = pc.fill_null(columns.field("iteration"), -1).to_numpy()
        self._logps = pc.fill_null(columns.field("opponent_logps"), np.nan).to_numpy()
        self._reference = pc.fill_null(columns.field("reference_logps"), np.nan).to_numpy()
        self._sampling = pc.fill_null(columns.field("sampling_logps"), np.nan).to_numpy()

    def __len__(self) -> int:
        return len(self._prompt_ids)

    def record(self, row: int) -> Record:
        start, stop = self.prompt_starts[row], self.prompt_starts[row + 1]
        span = range(self.response_starts[row], self.response_starts[row + 1])
        return Record(
            prompt_id=int(self._prompt_ids[row]),
            prompt_ids=self._prompts[start:stop].tolist(),
            responses=[self._response(place) for place in span],
            weight=float(self.weights[row]),
        )

    def _response(self, place: int) -> Response:
        iteration = self._iterations[place]
        return Response(
            role=self.names[self.roles[place]],
            ids=self._ids[self.id_starts[place] : self.id_starts[place + 1]].tolist(),
            finish_reason=self._reason_names[self._reasons[place]],
            iteration=None if iteration < 0 else int(iteration),
            opponent_logps=_none_if_nan(self._logps[place]),
            reference_logps=_none_if_nan(self._reference[place]),
            sampling_logps=_none_if_nan(self._sampling[place]),
        )


def _none_if_nan(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)


def _array(table: pa.Table, name: str) -> pa.Array:
    """Column of a table as one array, without a copy if it is one already."""
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _starts(lists: pa.ListArray) -> NDArray[np.int64]:
    offsets = lists.offsets.to_numpy()
    return offsets - offsets[0] if len(offsets) else np.zeros(1, np.int32)


def _concatenated(parts: Iterable[NDArray[Any]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)


def _joined(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Concatenate small tables, as shards may have about ten rows each."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(part.num_rows for part in waiting) >= _BLOCK_ROWS:
            yield pa.concat_tables(waiting, promote_options="default").combine_chunks()
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting, promote_options="default").combine_chunks()


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records as one Parquet file, whole or not at all, a few hundred in memory at once."""
    rows = iter(records)
    with write_atomically(path) as partial, pq.ParquetWriter(partial, _SCHEMA) as writer:
        while group := list(islice(rows, _GROUP_ROWS)):
            writer.write_table(_table(group))


def _table(records: Iterable[Record]) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {
            "prompt_id": record.prompt_id,
            "prompt_ids": record.prompt_ids,
            "responses": [vars(response) for response in record.responses],
            "weight": record.weight,
        }
        for record in records
    ]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def share_out(source: Path, masks: Mapping[Path, NDArray[np.bool_]]) -> None:
    """Write the rows of `source` that each mask (R,) selects to its file, by row groups."""
    with ExitStack() as stack:
        writers = {
            path: stack.enter_context(
                pq.ParquetWriter(stack.enter_context(write_atomically(path)), _SCHEMA)
            )
            for path in masks
        }
        start = 0
        for table in _tables(source):
            stop = start + table.num_rows
            for path, mask in masks.items():
                taken = table.filter(pa.array(mask[start:stop]))
                if taken.num_rows:
                    writers[path].write_table(taken)
            start = stop


def count_records(path: Path) -> int:
    """Count the records of a file without reading them."""
    with _opened(path) as file:
        return int(file.metadata.num_rows)


def read_records(*paths: Path, start: int = 0, stop: int | None = None) -> Records:
    """Read rows `start` to `stop` of each file, one file after the other; all rows by default.

    Other rows are mostly skipped, as Parquet is read in groups of 512 rows.
    """
    return Records(table for path in paths for table in _tables(path, start, stop))


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DamagedFileError(path, error) from error


def _tables(path: Path, start: int = 0, stop: int | None = None) -> Iterator[pa.Table]:
    with _opened(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            low, high = max(start - first, 0), rows if stop is None else min(stop - first, rows)
            if low < high:
                yield file.read_row_group(group).slice(low, high - low)
            first += rows
