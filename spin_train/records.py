"""The record of a prompt: one Parquet row, its responses a list by role.

SPIN reads (real, generated) pairs from it, T-SPIN triplets with a proto response; several samples
a prompt and samples of earlier iterations are more list entries.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from spin_train.artifacts import write_atomically

__all__ = ["Record", "Response", "read_records", "write_records"]

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
                        ("sampling_logps", pa.float64()),
                    ]
                )
            ),
        ),
    ]
)


@dataclass(frozen=True)
class Response:
    """One response to a prompt."""

    role: str
    """`real`, `generated` or `proto`."""
    ids: list[int]
    """Token ids, exactly as sampled or rendered."""
    finish_reason: str
    """`stop`: ends with an end-of-text token; `length`: cut, and nothing was invented."""
    iteration: int | None = None
    """Iteration whose opponent sampled it; None for real."""
    opponent_logps: float | None = None
    """Summed log-prob under one opponent, nats; None until scored."""
    sampling_logps: float | None = None
    """Summed log-prob at temperature 1 as the engine that sampled it had it, nats; None if real."""


@dataclass(frozen=True)
class Record:
    """A prompt and its responses."""

    prompt_id: int
    """Number of the row in the SFT data, from 0."""
    prompt_ids: list[int]
    """Token ids of the rendered prompt."""
    responses: list[Response]

    def of_role(self, role: str) -> list[Response]:
        """Responses of one role, in order.

        Parameters
        ----------
        role : str
            `real`, `generated` or `proto`.

        Returns
        -------
        list of Response
            Perhaps empty.
        """
        return [response for response in self.responses if response.role == role]

    def with_logps(self, logps: Iterable[float]) -> "Record":
        """Copy with the opponent's log-probs filled in.

        Parameters
        ----------
        logps : iterable of float
            One a response, in order, nats.

        Returns
        -------
        Record
            The scored copy.
        """
        scored = [
            replace(response, opponent_logps=value)
            for response, value in zip(self.responses, logps, strict=True)
        ]
        return replace(self, responses=scored)


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records as one Parquet file, whole or not at all.

    Parameters
    ----------
    path : Path
        The file.
    records : iterable of Record
        One row each.
    """
    rows: list[dict[str, Any]] = [
        {
            "prompt_id": record.prompt_id,
            "prompt_ids": record.prompt_ids,
            "responses": [vars(response) for response in record.responses],
        }
        for record in records
    ]
    with write_atomically(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), partial)


def read_records(path: Path) -> list[Record]:
    """Read the records of one Parquet file.

    Parameters
    ----------
    path : Path
        As written by `write_records`.

    Returns
    -------
    list of Record
        In the file's order.
    """
    return [
        Record(
            prompt_id=row["prompt_id"],
            prompt_ids=row["prompt_ids"],
            responses=[Response(**response) for response in row["responses"]],
        )
        for row in pq.read_table(path).to_pylist()
    ]
