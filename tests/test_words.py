"""The word list finds what it should; `make lint` holds the texts to it."""

import json

import pytest

from tests import words

ENTRIES = words.content()["word"]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["bad"][0])
def test_a_pattern_finds_its_bad_samples_and_no_good_one(entry):
    pattern = words.compiled(entry).pattern
    assert all(pattern.search(sample) for sample in entry["bad"])
    assert not any(pattern.search(sample) for sample in entry["good"])


def test_every_folder_of_the_repository_is_scanned_or_listed_for_later():
    listed = {*words.content()["scanned"], *words.content()["later"]}
    assert all((words.ROOT / name).exists() for name in listed)
    packages = {path.parent.name for path in words.ROOT.glob("*/__init__.py")}
    assert {*packages, "tests", "notebooks", "docs", "README.md"} <= listed


def test_docstrings_comments_and_strings_are_read_and_names_are_not(tmp_path):
    source = '''"""Nothing here.

    Scored anew.
    """
mend = 1  # one a
#           device
text = f"{mend} is no YAML " "and lent"
'''
    path = tmp_path / "module.py"
    path.write_text(source)
    found = [line.removeprefix(f"{path}:") for line in words.hits([path])]
    assert [line.partition(":")[0] for line in found] == ["3", "5", "7", "7"]
    assert found[0] == "3: 'anew': write again"
    assert "per device" in found[1]
    assert "'is no YAML'" in found[2]
    assert "'lent'" in found[3]


def test_cells_of_notebooks_are_read_with_the_line_of_the_file(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["Plain.\n", "Drawn anew."]},
        {"cell_type": "code", "source": ["x = 1\n", "# beside\n"]},
    ]
    path = tmp_path / "book.ipynb"
    path.write_text(json.dumps({"cells": cells}, indent=1))
    lines = path.read_text().splitlines()
    for hit, text in zip(words.hits([path]), ("anew", "beside"), strict=True):
        number = int(hit.removeprefix(f"{path}:").partition(":")[0])
        assert text in lines[number - 1]


def test_long_sentences_and_chains_are_found_in_prose_only(tmp_path):
    long = " ".join(["word"] * 31)
    path = tmp_path / "page.md"
    path.write_text(
        f"Fine; so far.\n\n{long}.\n\n```\n{long}\na; b; c\n```\n\n| {long} |\n\n- a; b; c\n"
    )
    found = [hit.removeprefix(f"{path}:") for hit in words.hits([path])]
    assert [hit.partition(":")[0] for hit in found] == ["3", "12"]
    assert "31 words" in found[0]
    assert "semicolon" in found[1]


def test_the_lines_of_two_sentences_are_two(tmp_path):
    path = tmp_path / "page.md"
    half = " ".join(["word"] * 20)
    path.write_text(f"A {half}. `B` {half}.\n\nA {half}, B {half}.\n")
    assert [hit.partition(": ")[0] for hit in words.hits([path])] == [f"{path}:3"]


def test_a_file_that_was_clean_is_not_read_again_and_one_with_a_hit_is(tmp_path, monkeypatch):
    clean, other = tmp_path / "clean.md", tmp_path / "other.md"
    clean.write_text("All is well.\n")
    other.write_text("One; two; three.\n")
    seen = set()
    first = words.hits([tmp_path], seen)
    assert len(seen) == 1
    read = []
    chunks_of = words.chunks_of
    monkeypatch.setattr(
        words, "chunks_of", lambda path, text: read.append(path) or chunks_of(path, text)
    )
    assert words.hits([tmp_path], seen) == first
    assert read == [other]
    clean.write_text("All is well; yes; quite.\n")
    assert len(words.hits([tmp_path], seen)) == 2
