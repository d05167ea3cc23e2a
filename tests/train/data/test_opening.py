"""Compressed data files: read by what they hold, whatever they are called."""

import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pytest

from spin_train.config.sections import DataConfig
from spin_train.data.sources import read_rows
from spin_train.errors import UserError

ROWS = [{"prompt": f"p{i}", "response": f"é{i}"} for i in range(500)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
CSV = ("prompt,response\n" + "".join(f"p{i},é{i}\n" for i in range(500))).encode()
PACKERS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda content: pa.compress(content, "zstd", asbytes=True),
}


def read(path):
    return [(row.messages[-1]["content"], row.response) for row in read_rows(DataConfig(path=path))]


WANTED = [(row["prompt"], row["response"]) for row in ROWS]


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize(
    ("name", "content"),
    [("rows.jsonl", LINES), ("rows.json", json.dumps(ROWS).encode()), ("rows.csv", CSV)],
)
def test_a_compressed_file_holds_the_same_rows(tmp_path, suffix, name, content):
    path = tmp_path / f"{name}.{suffix}"
    path.write_bytes(PACKERS[suffix](content))
    assert read(str(path)) == WANTED


@pytest.mark.parametrize("suffix", PACKERS)
def test_parts_that_were_put_together_and_a_plain_name_are_read(tmp_path, suffix):
    path = tmp_path / "rows.jsonl"
    middle = LINES.index(b"\n", len(LINES) // 2) + 1
    path.write_bytes(PACKERS[suffix](LINES[:middle]) + PACKERS[suffix](LINES[middle:]))
    assert read(str(path)) == WANTED


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_file_that_was_cut_short_is_named(tmp_path, suffix):
    path = tmp_path / f"rows.jsonl.{suffix}"
    packed = PACKERS[suffix](LINES)
    path.write_bytes(packed[: len(packed) - 8])
    with pytest.raises(UserError, match=r"cannot be read to its end|not valid JSON"):
        read(str(path))


@pytest.mark.parametrize("suffix", PACKERS)
def test_rows_after_the_compressed_ones_are_not_lost_without_a_word(tmp_path, suffix):
    path = tmp_path / f"rows.jsonl.{suffix}"
    path.write_bytes(PACKERS[suffix](LINES) + LINES)  # appended to, but not compressed
    with pytest.raises(UserError, match="cannot be read to its end"):
        read(str(path))


def test_zeros_pad_xz_and_streams_of_any_size_are_one_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    parts = [LINES[:9_000], b"", LINES[9_000:]]
    path.write_bytes(b"".join(lzma.compress(part) + bytes(40_000) for part in parts))
    assert read(str(path)) == WANTED


def test_an_archive_is_named_as_one(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(UserError, match="ZIP archive: unpack it"):
        read(str(path))


def test_rows_nested_beyond_what_python_reads_are_refused_by_their_line(tmp_path):
    deep = "[" * 100_000 + "]" * 100_000
    path = tmp_path / "rows.jsonl"
    path.write_bytes(LINES + f'{{"prompt": "p", "response": "r", "meta": {deep}}}\n'.encode())
    with pytest.raises(UserError, match="line 501: nested too deeply"):
        read(str(path))
    path = tmp_path / "rows.json"
    path.write_text(f'[{{"prompt": "p", "response": "r", "meta": {deep}}}]')
    with pytest.raises(UserError, match="nested too deeply"):
        read(str(path))
