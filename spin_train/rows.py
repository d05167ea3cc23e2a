"""SFT rows as they come: files or a hub dataset, each mistake named by file and line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spin_train.config import DataConfig
from spin_train.errors import UserError

__all__ = ["Row", "read_rows"]


@dataclass(frozen=True)
class Row:
    """One SFT example."""

    messages: list[dict[str, str]]
    """Chat up to the prompt, each with `role` and `content`."""
    response: str
    """The human response: the last assistant turn."""
    where: str
    """File and line, for messages."""


def read_rows(data: DataConfig) -> Iterator[Row]:
    """Read the SFT rows of a file or a hub dataset.

    Parameters
    ----------
    data : DataConfig
        Where they are. Rows are ``{"prompt", "response"}`` or ``{"messages"}``.

    Yields
    ------
    Row
        In the order of the source.

    Raises
    ------
    UserError
        If the source is missing or a row is malformed; the message names file and line.
    """
    for where, content in _read_source(data):
        if not isinstance(content, dict):
            raise UserError(f"{where}: a row must be an object, got {type(content).__name__}")
        if "messages" in content:
            yield _messages_row(content["messages"], where)
        elif "prompt" in content and "response" in content:
            prompt, response = content["prompt"], content["response"]
            _require_text(prompt, "prompt", where)
            _require_text(response, "response", where)
            yield Row([{"role": "user", "content": prompt}], response, where)
        else:
            keys = ", ".join(map(str, content)) or "no keys"
            raise UserError(f"{where}: a row needs prompt and response, or messages; got {keys}")


def _read_source(data: DataConfig) -> Iterator[tuple[str, Any]]:
    path = Path(data.path)
    if path.is_file():
        if path.suffix == ".parquet":
            yield from _read_parquet(path)
        elif path.suffix == ".json":
            yield from _read_json(path)
        else:
            yield from _read_jsonl(path)
    elif path.suffix in (".json", ".jsonl", ".parquet") or path.is_absolute():
        raise UserError(f"no data file at {path}; correct data.path")
    else:
        yield from _read_hub(data)


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                yield where, json.loads(line)
            except ValueError as error:
                raise UserError(f"{where}: no JSON ({error}); mend or remove the line") from None


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: no JSON ({error}); JSON lines belong in a .jsonl file") from None
    if not isinstance(content, list):
        raise UserError(f"{path}: must hold a list of rows, got {type(content).__name__}")
    for number, row in enumerate(content, 1):
        yield f"{path}, row {number}", row


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: no Parquet ({reason}); write the file again") from None
    for number, row in enumerate(rows, 1):
        yield f"{path}, row {number}", row


def _read_hub(data: DataConfig) -> Iterator[tuple[str, Any]]:
    import datasets

    try:
        rows = datasets.load_dataset(data.path, split=data.split)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"data.path {data.path!r} is no file here and the hub gave no dataset: {reason}"
        ) from None
    for number, row in enumerate(rows, 1):
        yield f"{data.path}[{data.split}], row {number}", row


def _messages_row(messages: Any, where: str) -> Row:
    if not isinstance(messages, list) or len(messages) < 2:
        raise UserError(f"{where}: messages must be a list of at least a user and a last turn")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise UserError(f"{where}: message {number} needs role and content")
        for key in ("role", "content"):
            _require_text(message[key], f"{key} of message {number}", where)
    *before, last = messages
    if last["role"] != "assistant":
        raise UserError(f"{where}: the last message must be the assistant's, got {last['role']!r}")
    kept = [{"role": message["role"], "content": message["content"]} for message in before]
    return Row(kept, last["content"], where)


def _require_text(value: Any, name: str, where: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {name} must be text that is not empty, got {value!r:.60}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = value[error.start]
        raise UserError(
            f"{where}: {name} holds half a character (surrogate {half!r}); mend or remove the row"
        ) from None
