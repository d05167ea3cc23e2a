"""Which files of a folder are read for a split.

`datasets` decides, by its rules of names and by the folder's README. The files themselves are read
as single files are, so that a key that stands twice is refused there too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from spin_train.config.sections import DataConfig
from spin_train.data.opening import plain_suffix
from spin_train.system.ownership import files_outside_runs

__all__ = ["SUFFIXES", "files_not_read", "files_of", "without_runs"]

SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")
"""Of the files that hold rows, compressed or not."""

# Of files that may hold rows too; which of them a folder's reader takes, `datasets` decides.
_OTHER_SUFFIXES = (".arrow", ".avro", ".feather", ".ndjson", ".orc", ".tsv", ".xls", ".xlsx")

# What a folder's README may change without changing how a file is read.
_OF_THE_CHOICE = {"name", "version", "data_dir", "data_files", "description", "features"}


def files_of(data: DataConfig) -> list[Path] | None:
    """Files of ``data.split`` in the folder ``data.path``, in their order.

    None where they are of other kinds, or to be read in another way, so that `datasets` has to read
    them. KeyError: there is no such split. Raises what `datasets` raises where it finds no files.
    """
    splits = _splits(data)
    if splits is None:
        return None
    chosen = splits[data.split]
    return chosen if all(plain_suffix(file) in SUFFIXES for file in chosen) else None


def files_not_read(data: DataConfig) -> list[str]:
    """Name the files of rows in the folder ``data.path`` that belong to no split."""
    folder = Path(data.path)
    splits = _splits(data) or {}
    read = {file for files in splits.values() for file in files}
    return [
        str(file.relative_to(folder))
        for file in files_outside_runs(folder)
        if splits and plain_suffix(file) in (*SUFFIXES, *_OTHER_SUFFIXES) and file not in read
    ]


def _splits(data: DataConfig) -> dict[str, list[Path]] | None:
    """Files of each split; None where `datasets` has to read them."""
    import datasets

    folder = Path(data.path)
    with without_runs(folder) as view:
        builder = datasets.load_dataset_builder(view, name=data.subset)
        found: Any = builder.config.data_files
        if not found or _is_read_in_another_way(builder.config):
            return None
        splits = {}
        for split, names in found.items():
            files = [Path(name) for name in names]
            if not all(file.is_relative_to(view) and file.is_file() for file in files):
                return None
            splits[str(split)] = [folder / file.relative_to(view) for file in files]
        return splits


def _is_read_in_another_way(config: Any) -> bool:
    """Say whether the README of a folder sets how its files are read, such as a separator."""
    usual = type(config)()
    return any(
        repr(getattr(config, field.name)) != repr(getattr(usual, field.name))
        for field in fields(config)
        if field.name not in _OF_THE_CHOICE
    )


@contextmanager
def without_runs(folder: Path) -> Iterator[str]:
    """Give a folder as `datasets` is to see it: runs that lie in it are not data."""
    kept = [file for file in files_outside_runs(folder) if file.is_file()]
    if len(kept) == sum(file.is_file() for file in folder.rglob("*")):
        yield str(folder.resolve())
        return
    with TemporaryDirectory() as view:
        for file in kept:
            link = Path(view) / file.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
        yield view
