import json

import pytest

from spin_train.data.from_python import write_rows
from spin_train.errors import UserError

ROWS = [{"prompt": "a", "response": "b"}, {"prompt": "c\n", "response": "ü \u2028"}]


def test_rows_are_written_one_per_line_and_read_back_as_they_were(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows(ROWS, path, replace=False)
    assert [json.loads(line) for line in path.read_text().split("\n") if line] == ROWS
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_the_same_rows_may_be_given_again_and_others_may_not(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows(ROWS, path, replace=False)
    write_rows(iter(ROWS), path, replace=False)
    with pytest.raises(UserError, match="started with other rows"):
        write_rows(ROWS[:1], path, replace=False)
    assert len(path.read_text().splitlines()) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_until_something_rests_on_them_rows_are_replaced(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows(ROWS, path, replace=True)
    write_rows(ROWS[:1], path, replace=True)
    assert len(path.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "rows is empty"),
        (["text"], "row 1 is str, not a dict"),
        ([ROWS[0], {"prompt": {1, 2}}], "row 2 cannot be written as JSON"),
    ],
)
def test_rows_that_are_no_rows_are_named(tmp_path, rows, says):
    with pytest.raises(UserError, match=says):
        write_rows(rows, tmp_path / "rows.jsonl", replace=True)
    assert not list(tmp_path.iterdir())


def test_a_dataset_gives_its_rows(tmp_path):
    from datasets import Dataset

    write_rows(Dataset.from_list(ROWS), tmp_path / "rows.jsonl", replace=True)
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == ROWS
