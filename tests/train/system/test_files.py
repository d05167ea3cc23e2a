import hashlib
import os

import pytest

from spin_train.errors import DamagedFileError
from spin_train.system.files import (
    read_json,
    read_lines,
    read_object,
    sha256_of_file,
    sha256_of_files,
    sha256_of_text,
    write_directory,
    write_json,
)


def test_json_is_read_as_it_was_written(tmp_path):
    content = {"a": [1, 0.1, None, "é"], "b": {"c": True}}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content


def test_json_that_is_missing_and_json_that_is_broken_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(ValueError, match="Expecting value"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["", "abc", "é" * 100_000])
def test_a_file_has_the_hash_of_its_text(tmp_path, text):
    (tmp_path / "a").write_text(text, encoding="utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert sha256_of_file(tmp_path / "a") == sha256_of_text(text) == digest


def test_several_files_are_hashed_in_their_order(tmp_path):
    paths = [tmp_path / str(n) for n in (3, 1, 2)]
    for path in paths:
        path.write_text(path.name * 100_000)
    assert sha256_of_files(paths) == [sha256_of_file(path) for path in paths]
    assert sha256_of_files([]) == []


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_of_a_directory_may_be_read_by_those_whom_the_umask_lets(tmp_path, umask):
    before = os.umask(umask)
    try:
        with write_directory(tmp_path / "policy") as partial:
            (partial / "deep").mkdir()
            for name in ("private", "deep/private", "config.json"):
                (partial / name).write_text("")
            for name in ("private", "deep/private"):  # as the writer of safetensors does it
                (partial / name).chmod(0o600)
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "policy").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe", b"[" * 100_000])
def test_a_broken_file_is_for_the_user_to_restore(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    for read in (read_json, read_object):
        with pytest.raises(DamagedFileError, match=r"a.json is damaged \(.*restore it from a copy"):
            read(path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")


@pytest.mark.parametrize("content", ["null", "[]", "3"])
def test_an_object_is_an_object(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DamagedFileError, match="in place of an object"):
        read_object(path)
    with pytest.raises(DamagedFileError, match="a line that is not an object"):
        read_lines(path)
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert [line["a"] for line in read_lines(path)] == [1, 2]
