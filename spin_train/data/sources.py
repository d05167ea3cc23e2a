"""SFT rows from files, folders or a hub dataset; errors name the file and the line."""

import csv
import json
import logging
import sys
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from lzma import LZMAError
from pathlib import Path
from typing import Any

from spin_train.config.sections import DataConfig
from spin_train.data.folders import SUFFIXES, files_not_read, files_of, without_runs
from spin_train.data.formats import RowError, SftRow, row_of
from spin_train.data.opening import open_bytes, open_text, plain_suffix
from spin_train.errors import UserError, one_line
from spin_train.system.files import sha256_of_file, sha256_of_files, sha256_of_text
from spin_train.system.ownership import files_outside_runs

__all__ = ["drop_or_raise", "names_a_file", "read_rows", "source_of"]

_LOG = logging.getLogger(__name__)
# What `datasets` leaves where it saved a data set, one split or several.
_SAVED = ("state.json", "dataset_dict.json")
_BATCH_ROWS = 256
# Any other file is read as JSON lines.
_OTHER_FILES = {
    *(".arrow", ".avro", ".db", ".feather", ".npy", ".npz", ".orc", ".pkl", ".sqlite", ".tar"),
    *(".tgz", ".toml", ".tsv", ".xls", ".xlsx", ".xml", ".yaml", ".yml"),
}


def read_rows(
    data: DataConfig, counts: Counter[str] | None = None, *, ignore: Collection[str] | None = None
) -> Iterator[SftRow]:
    """Read the SFT rows of a file, a folder or a hub dataset in their order, a few at a time.

    `counts` counts the ``rows`` read and, among them, ``dropped_malformed``. `ignore` stands for
    ``data.ignore``, by default those names. A source that is
    missing or broken, and a malformed row unless ``data.malformed`` drops it, raise a UserError
    that names file and line.
    """
    counts = Counter() if counts is None else counts
    ignore = data.ignore if ignore is None else ignore
    for where, raw in _read_source(data):
        counts["rows"] += 1
        try:
            row = row_of(raw, where, data.shape, turn=data.turn, ignore=ignore)
        except RowError as error:
            drop_or_raise(error, data, counts)
            continue
        yield replace(row, number=counts["rows"] - 1)


def drop_or_raise(error: RowError, data: DataConfig, counts: Counter[str]) -> None:
    """Count a row that cannot be used as dropped, or raise, as ``data.malformed`` says."""
    if data.malformed != "drop":
        raise UserError(f"{error}; or drop such rows with data.malformed=drop") from None
    if not counts["dropped_malformed"]:
        _LOG.warning("dropping malformed rows (data.malformed=drop), the first: %s", error)
    counts["dropped_malformed"] += 1


def source_of(data: DataConfig) -> dict[str, Any]:
    """Describe what the rows are read from, so that the same data can be found again.

    A file: path, bytes and SHA-256; a folder: the same over all its files by name, runs left out.
    A hub dataset: name, subset, split and commit, which is None where the hub does not say.
    """
    path = Path(data.path)
    if path.is_file():
        return {"path": data.path, "bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
    if path.is_dir():
        files = sorted(file for file in files_outside_runs(path) if file.is_file())
        hashes = zip(files, sha256_of_files(files), strict=True)
        names = "".join(f"{file.relative_to(path)} {sha256}\n" for file, sha256 in hashes)
        size = sum(file.stat().st_size for file in files)
        source = {"path": data.path, "bytes": size, "sha256": sha256_of_text(names)}
        left = [] if _is_saved(path) else files_not_read(data)
        return source | ({"files_not_read": left} if left else {})
    return {
        "hub": data.path,
        "subset": data.subset,
        "split": data.split,
        "commit": _hub_commit(data),
    }


def names_a_file(path: Path) -> bool:
    """Say whether a path can only be a file or folder, and no name on the hub."""
    return plain_suffix(path) in SUFFIXES or path.is_absolute()


def _read_source(data: DataConfig) -> Iterator[tuple[str, Any]]:
    path = Path(data.path)
    if path.is_file():
        yield from _read_file(path)
    elif not path.is_dir() and names_a_file(path):
        raise UserError(f"no data file at {path}; correct data.path")
    elif path.is_dir() and not _is_saved(path) and (files := _files_of_folder(data)):
        for file in files:
            yield from _read_file(file)
    else:
        yield from _read_dataset(data)


def _files_of_folder(data: DataConfig) -> list[Path] | None:
    try:
        return files_of(data)
    except KeyError as error:
        raise _no_rows(data, f"there is no split {error}") from None
    except Exception as error:  # of many libraries
        raise _no_rows(data, one_line(error, 300)) from None


def _is_saved(folder: Path) -> bool:
    """Say whether `datasets` saved a data set there."""
    return any((folder / name).is_file() for name in _SAVED)


def _read_file(path: Path) -> Iterator[tuple[str, Any]]:
    if (suffix := plain_suffix(path)) in _OTHER_FILES:
        raise UserError(
            f"{path}: {suffix} files are not read; save the rows as JSONL, JSON, CSV or Parquet"
        )
    readers = {".parquet": _read_parquet, ".json": _read_json, ".csv": _read_csv}
    try:
        yield from readers.get(suffix, _read_jsonl)(path)
    except (EOFError, OSError, LZMAError, zlib.error) as error:
        raise UserError(
            f"{path}: cannot be read to its end ({one_line(error)}); check it, or copy it again"
        ) from None
    except RecursionError:
        raise UserError(
            f"{path}: a row is nested too deeply for Python to read; remove that row or field"
        ) from None


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                yield where, json.loads(line, object_pairs_hook=_object)
            except RecursionError:
                raise UserError(
                    f"{where}: nested too deeply for Python to read; remove the row or that field"
                ) from None
            except UnicodeDecodeError:
                raise UserError(f"{where}: not UTF-8; fix or remove the line") from None
            except _TwiceError as error:
                raise UserError(f"{where}: {error}; fix or remove the line") from None
            except ValueError as error:
                reason = getattr(error, "msg", error)  # without json's own line number
                raise UserError(f"{where}: not valid JSON ({reason}); fix or remove it") from None


class _TwiceError(ValueError):
    """A key that stands twice in one object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON; Python's own keeps the last of two values, and says nothing."""
    made = dict(pairs)
    if len(made) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _TwiceError(f"the key {key!r} stands twice in one object")
    return made


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        with open_text(path) as file:
            content = json.load(file, object_pairs_hook=_object)
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; save the file as UTF-8") from None
    except _TwiceError as error:
        raise UserError(f"{path}: {error}; fix the file") from None
    except ValueError as error:
        raise UserError(
            f"{path}: not valid JSON ({error}); if it holds JSON lines, name it .jsonl"
        ) from None
    if not isinstance(content, list):
        raise UserError(f"{path}: must be a list of rows, got {type(content).__name__}")
    for number, row in enumerate(content, 1):
        yield f"{path}, row {number}", row


def _read_csv(path: Path) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(sys.maxsize)  # 131,072 characters by default
    try:
        with open_text(path, newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if twice := [name for name, n in Counter(reader.fieldnames or ()).items() if n > 1]:
                raise UserError(f"{path}: the column {twice[0]!r} stands twice; rename one of them")
            for number, row in enumerate(reader, 1):
                if None in row:
                    raise UserError(
                        f"{path}, row {number}: more fields than header names; fix the row"
                    )
                if None in row.values():  # where a file was cut, too
                    raise UserError(
                        f"{path}, row {number}: fewer fields than header names; fix the row"
                    )
                yield f"{path}, row {number}", row
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; save the file as UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{path}: not valid CSV ({error}); write the file again") from None


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            if twice := _twice_among(file.schema_arrow):
                raise UserError(f"{path}: the column {twice!r} stands twice; rename one of them")
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: not valid Parquet ({one_line(error)}); write the file again"
        ) from None


def _twice_among(columns: Any) -> str:
    """Name a column, at any depth, that another one of its struct is called as well."""
    import pyarrow as pa

    columns = [columns.field(i) for i in range(len(getattr(columns, "names", ())))] or list(columns)
    if twice := [name for name, n in Counter(column.name for column in columns).items() if n > 1]:
        return str(twice[0])
    inner = []
    for column in columns:
        kind = column.type
        while pa.types.is_list(kind) or pa.types.is_large_list(kind):
            kind = kind.value_type
        if pa.types.is_struct(kind):
            inner.append([kind.field(i) for i in range(kind.num_fields)])
    return next((name for name in map(_twice_among, inner) if name), "")


def _read_dataset(data: DataConfig) -> Iterator[tuple[str, Any]]:
    """Rows of a hub dataset or of a folder, streamed."""
    import datasets

    path = Path(data.path)
    try:
        if _is_saved(path):
            saved = datasets.load_from_disk(data.path)
            rows = saved[data.split] if isinstance(saved, datasets.DatasetDict) else saved
            yield from _numbered(data, rows)
            return
        with without_runs(path) if path.is_dir() else nullcontext(data.path) as place:
            rows = datasets.load_dataset(
                place,
                name=data.subset,
                split=data.split,
                revision=None if path.is_dir() else data.revision,
                streaming=True,
            )
            yield from _numbered(data, rows)
    except Exception as error:  # of many libraries: datasets, huggingface_hub, fsspec, httpx
        raise _no_rows(data, one_line(error, 300)) from None


def _numbered(data: DataConfig, rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    for number, row in enumerate(rows, 1):
        yield f"{data.path}[{data.split}], row {number}", row


def _no_rows(data: DataConfig, reason: str) -> UserError:
    is_folder = Path(data.path).is_dir()
    what = "the folder" if is_folder else "there is no such file, and the hub"
    return UserError(
        f"data.path {data.path!r}: {what} returned no rows (split {data.split!r}, subset "
        f"{data.subset!r}): {reason}"
    )


def _hub_commit(data: DataConfig) -> str | None:
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(data.path, revision=data.revision, timeout=10).sha)
    except Exception:  # offline, or a mirror that does not say
        return data.revision
