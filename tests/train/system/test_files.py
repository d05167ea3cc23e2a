import hashlib

import pytest

from spin_train.system.files import read_json, sha256_of_file, sha256_of_text, write_json


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
