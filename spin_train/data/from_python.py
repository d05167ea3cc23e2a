"""SFT rows passed as Python objects, written to a file from which a resumed run reads them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spin_train.errors import UserError
from spin_train.system.files import write_atomically

__all__ = ["write_rows"]


def write_rows(rows: Iterable[Mapping[str, Any]], path: Path, *, replace: bool) -> None:
    """Write rows as JSON lines; unless `replace`, the file is there and must hold the same rows.

    Raises `UserError` if a row is not a mapping of JSON values, there is none, or the rows are not
    those of the file.
    """
    if not replace and not path.is_file():
        raise UserError(f"{path} is gone, with the rows of this run: restore it")
    with write_atomically(path) as partial:
        count = 0
        with partial.open("w", encoding="utf-8") as file:
            for count, row in enumerate(rows, start=1):
                file.write(_line(row, count))
        if not count:
            raise UserError("rows is empty: pass at least two rows")
        if not replace and path.read_bytes() != partial.read_bytes():
            raise UserError(
                f"the run in {path.parent} was started with other rows: pass the same rows, or "
                "choose a new output_dir"
            )


def _line(row: Mapping[str, Any], number: int) -> str:
    if not isinstance(row, Mapping):
        raise UserError(f"rows: row {number} is {type(row).__name__}, not a dict")
    try:
        return json.dumps(dict(row), ensure_ascii=True) + "\n"
    except (TypeError, ValueError) as error:
        raise UserError(f"rows: row {number} cannot be written as JSON: {error}") from None
