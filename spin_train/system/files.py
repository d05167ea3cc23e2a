"""Files and directories that are written whole or not at all."""

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["or_null", "write_atomically", "write_directory", "write_json"]


_PARTIAL = ".partial"


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; it becomes `path` when the block ends well.

    Parameters
    ----------
    path : Path
        The file that will be there whole, or not at all.

    Yields
    ------
    Path
        Where to write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}{_PARTIAL}")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def write_directory(path: Path) -> Iterator[Path]:
    """Give a directory beside `path` to fill; it becomes `path` when the block ends well.

    Parameters
    ----------
    path : Path
        The directory that will be there whole, or not at all; an older one is replaced.

    Yields
    ------
    Path
        An empty directory to fill.
    """
    partial = path.with_name(path.name + _PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for written in partial.rglob("*"):
            if written.is_file():
                with written.open("rb") as file:
                    os.fsync(file.fileno())
        shutil.rmtree(path, ignore_errors=True)
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all.

    Parameters
    ----------
    path : Path
        The file.
    content : object
        Anything JSON holds.
    """
    with write_atomically(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def or_null(content: Any) -> Any:
    """Replace nan and infinities in nested lists and dictionaries by None: JSON has none of them.

    Examples
    --------
    >>> or_null({"loss": [0.5, float("nan")]})
    {'loss': [0.5, None]}
    """
    if isinstance(content, dict):
        return {key: or_null(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [or_null(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
