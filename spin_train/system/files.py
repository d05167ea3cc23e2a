"""Files and directories that are written whole or not at all, JSON, and SHA-256."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spin_train.errors import DamagedFileError

__all__ = [
    "PARTIAL",
    "or_null",
    "read_json",
    "read_lines",
    "read_object",
    "sha256_of_file",
    "sha256_of_files",
    "sha256_of_text",
    "write_atomically",
    "write_directory",
    "write_json",
]


PARTIAL = ".spin-partial"
"""End of the name of what is half-written; nobody else uses it, so it may be deleted."""

_HASHED_AT_ONCE = 8  # files: what fast disks keep up with


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Give a name next to `path` to write to; it becomes `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def write_directory(path: Path) -> Iterator[Path]:
    """Give an empty directory to fill; it replaces `path` when the block ends well."""
    partial = path.with_name(path.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        # As the umask allows a directory, it allows a file: some writers make theirs private.
        mode = partial.stat().st_mode & 0o666
        for written in partial.rglob("*"):
            if written.is_file():
                written.chmod(mode)
                with written.open("rb") as file:
                    os.fsync(file.fileno())
        shutil.rmtree(path, ignore_errors=True)
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all."""
    with write_atomically(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON; a missing file raises FileNotFoundError, a broken one DamagedFileError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(path, error) from None


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object; anything else is damaged."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise DamagedFileError(path, f"{type(content).__name__} in place of an object")
    return content


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file that holds one JSON object per line."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(path, error) from None
    if not all(isinstance(line, dict) for line in lines):
        raise DamagedFileError(path, "a line that is not an object")
    return lines


def sha256_of_file(path: Path) -> str:
    """Hash a file without holding it in memory; in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_files(paths: Sequence[Path]) -> list[str]:
    """Hash several files at once, as `sha256_of_file` does, in their order.

    Threads are enough: hashlib lets others run while it hashes.
    """
    with ThreadPoolExecutor(min(_HASHED_AT_ONCE, os.cpu_count() or 1)) as pool:
        return list(pool.map(sha256_of_file, paths))


def sha256_of_text(text: str) -> str:
    """Hash a text in UTF-8; in hexadecimal.

    >>> sha256_of_text("")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(text.encode()).hexdigest()


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
