"""Files and folders: a name that stands twice, and which files of a folder are read."""

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spin_train.config.files import parse_config
from spin_train.config.sections import DataConfig
from spin_train.data.notes import notes_on, without_effect
from spin_train.data.rendering import Renderer
from spin_train.data.sources import read_rows, source_of
from spin_train.errors import UserError
from spin_train.stages.prepare import Limits, prepare_rows
from tests.train.tokenizers import CHATML, byte_level


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("r.csv", "prompt,response,response\na,b,c\n", "the column 'response' stands twice"),
        ("r.jsonl", '{"prompt": "a", "response": "b", "response": "c"}', "line 1: the key 'respon"),
        ("r.jsonl", '{"messages": [{"role": "user", "role": "x"}]}', "the key 'role' stands twice"),
        ("r.json", '[{"prompt": "a", "prompt": "b"}]', "the key 'prompt' stands twice"),
    ],
)
def test_a_name_that_stands_twice_is_refused(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=says):
        prepare_rows(
            DataConfig(path=str(tmp_path / name)),
            Renderer(byte_level(chat_template=CHATML), None),
            Limits(64, 4, 300),
            train=tmp_path / "a",
            held_out=tmp_path / "b",
            seed=0,
        )


@pytest.mark.parametrize("inner", [False, True])
def test_a_column_of_parquet_that_stands_twice_is_refused(tmp_path, inner):
    texts = pa.array(["a", "b"])
    twice = pa.StructArray.from_arrays([texts, texts], names=["x", "x"])
    names = ["prompt", "response", "meta" if inner else "response"]
    table = pa.Table.from_arrays([texts, texts, twice if inner else texts], names=names)
    pq.write_table(table, tmp_path / "r.parquet")
    with pytest.raises(UserError, match=f"column '{'x' if inner else 'response'}' stands twice"):
        list(read_rows(DataConfig(path=str(tmp_path / "r.parquet"))))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("train.csv", "prompt,response,response\na,b,c\n", "the column 'response' stands twice"),
        ("train.jsonl", '{"prompt": "a", "response": "b", "response": "c"}', "'response' stands"),
        ("train.jsonl", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 1: nested too deep"),
    ],
)
def test_a_file_in_a_folder_is_read_as_if_it_were_alone(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=f"{tmp_path / name}.*{says}"):
        list(read_rows(DataConfig(path=str(tmp_path))))


def test_files_of_a_folder_that_no_split_reads_are_named(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (folder / name).write_text('{"prompt": "a", "response": "b"}\n' * 2)
    (folder / "c.csv").write_text("prompt,response\nx,y\n")
    data = DataConfig(path=str(folder))
    assert len(list(read_rows(data))) == 4
    assert source_of(data)["files_not_read"] == ["c.csv"]
    assert "no split reads: c.csv" in notes_on(data, Counter(source=source_of(data)))[0]


def test_a_folder_is_read_as_its_readme_says(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: a.csv\n  sep: ';'\n---\n"
    )
    (tmp_path / "a.csv").write_text("prompt;response\na;b\nc;d\n")
    rows = list(read_rows(DataConfig(path=str(tmp_path))))
    assert [(row.messages[0]["content"], row.response) for row in rows] == [("a", "b"), ("c", "d")]


def test_files_of_other_kinds_that_may_hold_rows_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    for name in ("b.tsv", "notes.txt"):
        (tmp_path / name).write_text("prompt\tresponse\nc\td\n")
    data = DataConfig(path=str(tmp_path))
    assert [row.response for row in read_rows(data)] == ["b"]
    assert source_of(data)["files_not_read"] == ["b.tsv"]


@pytest.mark.parametrize(
    ("changes", "notes"),
    [
        ({"split": "train"}, []),
        ({"split": "test", "subset": "main"}, ["a local file: data.split, data.subset"]),
        ({"revision": "v1"}, ["a local file: data.revision"]),
        ({"path": "", "split": "test", "revision": "v1"}, ["a local folder: data.revision"]),
        ({"path": "org/name", "split": "test", "subset": "main", "revision": "v1"}, []),
    ],
)
def test_settings_of_the_hub_that_change_nothing_here_are_named(tmp_path, changes, notes):
    (tmp_path / "rows.jsonl").touch()
    path = changes.get("path", "rows.jsonl")
    data = {**changes, "path": path if "/" in path else str(tmp_path / path)}
    settings = {"data": data, "output_dir": "out", "iterations": 1, "learning_rate": 1e-5}
    config = parse_config(settings | {"model": str(tmp_path), "model_revision": "v1"})
    *found, of_the_model = without_effect(config)
    assert [note.partition("is ")[2] for note in found] == notes
    assert of_the_model.endswith("model is a local folder: model_revision")
