import csv
import hashlib
import json
from collections import Counter

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spin_train.config.sections import ROW_FORMATS, DataConfig
from spin_train.data.formats import FORMATS, row_of, without_tools
from spin_train.data.sources import read_rows, source_of
from spin_train.errors import UserError


def turn(role, content):
    return {"role": role, "content": content}


USER, ANSWER = turn("user", "a b"), turn("assistant", "ba")
PAIR = {"prompt": "a b", "response": "ba"}
MANY = [
    turn("system", "say"),
    USER,
    turn("assistant", "a word"),
    turn("user", "ab"),
    ANSWER,
]
SHARED = [{"from": "human", "value": "a b"}, {"from": "gpt", "value": "ba"}]


def write(folder, rows, kind="jsonl"):
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(path=str(path), held_out=1)


# Shapes


@pytest.mark.parametrize(
    "raw",
    [
        PAIR,
        {"prompt": "a b", "completion": "ba"},
        {"prompt": [USER], "completion": [ANSWER]},
        {"messages": [USER, ANSWER]},
        {"messages": SHARED},
        {"conversations": SHARED, "id": "7"},
        {"conversations": [USER, ANSWER]},
        {"conversations": [turn("User", "a b"), turn("ChatGPT", "ba")]},
        {"instruction": "a b", "input": "", "output": "ba"},
        {"instruction": "a b", "output": "ba", "text": "### Instruction: a b"},
        {"question": "a b", "answer": "ba"},
        {"prompt": "of ultrachat", "prompt_id": "7", "messages": [USER, ANSWER]},
        {"messages": [USER, ANSWER], "response": None, "prompt": None},
    ],
    ids=lambda raw: "+".join(raw),
)
def test_every_shape_gives_the_same_prompt_and_response(raw):
    row = row_of(raw, "line 1")
    assert (row.messages, row.response, row.given) == ([USER], "ba", None)


def test_an_alpaca_input_stands_under_its_instruction():
    row = row_of({"instruction": "Sort.", "input": "b a", "output": "a b"}, "line 1")
    assert row.messages == [turn("user", "Sort.\n\nb a")]


@pytest.mark.parametrize(
    "raw",
    [
        {"real": [USER, ANSWER], "generated": [USER, turn("assistant", "no")]},
        {"prompt": "a b", "chosen": "ba", "rejected": "no"},
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [turn("assistant", "no")]},
        {"chosen": [USER, ANSWER], "rejected": [USER, turn("assistant", "no")]},
        {"prompt": "a b", "chosen": [USER, ANSWER], "rejected": [USER, turn("assistant", "no")]},
    ],
    ids=lambda raw: "+".join(raw),
)
def test_a_ready_made_pair_keeps_its_other_response(raw):
    row = row_of(raw, "line 1")
    assert (row.messages, row.response, row.given) == ([USER], "ba", "no")


def test_the_schema_names_the_formats_that_are_read():
    assert tuple(FORMATS) == ROW_FORMATS


def test_the_description_of_the_key_names_every_format():
    assert all(f"`{name}`" in DataConfig.model_fields["shape"].description for name in FORMATS)


def test_a_sample_may_be_empty():
    raw = {"real": [USER, ANSWER], "generated": [USER, turn("assistant", "")]}
    assert row_of(raw, "line 1").given == ""


def test_the_last_assistant_turn_is_the_response_and_what_follows_is_dropped():
    """Defects 6 and 7: every other turn belongs to the prompt, or to nothing."""
    row = row_of({"messages": [*MANY, turn("user", "a"), turn("system", "b")]}, "line 1")
    assert (row.messages, row.response, row.dropped_turns) == (MANY[:-1], "ba", 2)


def test_turns_of_tools_have_one_form():
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "sort"}]}
    older = {"role": "assistant", "function_call": {"name": "sort", "arguments": '{"a": 1}'}}
    shared = [
        {"from": "function_call", "value": '{"name": "sort", "arguments": {"a": 1}}'},
        {"from": "observation", "value": "{}"},
    ]
    messages = [USER, call, turn("tool", "a"), older, turn("function", ""), *shared, ANSWER]
    row = row_of({"messages": messages}, "line 1")

    def calls(arguments):
        function = {"name": "sort", "arguments": arguments}
        return turn("assistant", "") | {"tool_calls": [{"type": "function", "function": function}]}

    tools = [turn("tool", "a"), turn("tool", ""), turn("tool", "{}")]
    both = zip(map(calls, ({}, {"a": 1}, {"a": 1})), tools, strict=True)
    assert row.messages == [USER, *(message for pair in both for message in pair)]
    assert without_tools(row).messages == [USER]
    assert without_tools(row).ignored_turns == 6


def test_an_empty_system_turn_stays():
    """It keeps a chat template's default system turn away."""
    messages = [turn("system", ""), USER]
    assert row_of({"messages": [*messages, ANSWER]}, "line 1").messages == messages


MALFORMED = [
    ([1], "must be an object, got list"),
    ({"text": "a"}, "needs one of messages; .*prompt/response; .*question/answer; got text"),
    ({}, "got no keys"),
    ({"prompt": "a"}, "got prompt"),
    ({"prompt": "a", "response": None}, "got prompt"),
    (PAIR | {"messages": [USER, ANSWER]}, "could be messages or prompt/response; .*data.shape"),
    ({"prompt": "a", "response": 7}, "response must be non-empty text"),
    ({"prompt": "a", "response": " \n"}, "response must be non-empty text"),
    ({"prompt": 7, "response": "a"}, "prompt must be non-empty text"),
    ({"prompt": "a", "response": "b\ud800"}, "response contains an unpaired surrogate"),
    ({"instruction": "a", "input": 7, "output": "b"}, "input must be non-empty text"),
    ({"messages": "a"}, "messages must be a list"),
    ({"messages": ["a"]}, "turn 1 of messages must be an object"),
    ({"messages": []}, "no assistant turn"),
    ({"messages": [ANSWER]}, "an assistant turn comes before any user turn"),
    ({"messages": [turn("system", "a"), ANSWER]}, "an assistant turn comes before any user turn"),
    ({"messages": [ANSWER, USER, ANSWER]}, "an assistant turn comes before any user turn"),
    ({"messages": [USER, USER]}, "no assistant turn"),
    ({"messages": [USER, {"role": "assistant"}]}, "content of turn 2 of messages"),
    ({"messages": [turn("user", ""), ANSWER]}, "content of turn 1 of messages"),
    ({"messages": [turn(None, "a"), ANSWER]}, "role of turn 1 of messages"),
    ({"messages": [turn("narrator", "a"), ANSWER]}, "user, assistant or system, got 'narrator'"),
    ({"real": [USER, ANSWER], "generated": [turn("user", "b"), ANSWER]}, "different prompts"),
    ({"real": [USER, turn("assistant", "")], "generated": [USER, ANSWER]}, "turn 2 of real"),
    ({"chosen": "a", "rejected": "b"}, "prompt must be non-empty text"),
]


@pytest.mark.parametrize(("row", "says"), MALFORMED)
def test_a_malformed_row_is_refused_by_file_and_line(tmp_path, row, says):
    data = write(tmp_path, [PAIR, row])
    with pytest.raises(UserError, match=says) as caught:
        list(read_rows(data))
    assert str(caught.value).startswith(f"{data.path}, line 2: ")
    assert "data.malformed=drop" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("row", [row for row, _ in MALFORMED], ids=repr)
def test_a_malformed_row_can_be_dropped_and_is_counted(tmp_path, row):
    data = write(tmp_path, [row, PAIR, row]).model_copy(update={"malformed": "drop"})
    counts = Counter()
    (kept,) = read_rows(data, counts)
    assert kept.where == f"{data.path}, line 2"
    assert counts == {"rows": 3, "dropped_malformed": 2}


def test_a_shape_can_be_chosen(tmp_path):
    both = PAIR | {"messages": MANY}
    data = write(tmp_path, [both])
    (row,) = read_rows(data.model_copy(update={"shape": "messages"}))
    assert row.messages == MANY[:-1]
    with pytest.raises(UserError, match=r"data\.shape is question/answer, but the row has prompt"):
        list(read_rows(data.model_copy(update={"shape": "question/answer"})))
    with pytest.raises(ValueError, match="shape must be one of messages, "):
        DataConfig(path="rows.jsonl", shape="chat")


# Sources


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "csv"])
def test_every_file_format_gives_the_same_rows(tmp_path, kind):
    rows = [PAIR, {"prompt": 'a "b",\nü', "response": "b" * 200_000}]
    read = list(read_rows(write(tmp_path, rows, kind)))
    assert [row.messages for row in read] == [[turn("user", row["prompt"])] for row in rows]
    assert [row.response for row in read] == [row["response"] for row in rows]


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_official_pairs_are_read_unchanged(tmp_path, kind):
    official = [{"real": [USER, ANSWER], "generated": [USER, turn("assistant", "no")]}] * 600
    assert [row.given for row in read_rows(write(tmp_path, official, kind))] == ["no"] * 600


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("csv", b"prompt,response\r\na b,ba\r\n"),
        ("json", b'[{"prompt": "a b", "response": "ba"}]'),
        ("jsonl", b'{"prompt": "a b", "response": "ba"}\r\n'),
    ],
)
def test_a_file_may_begin_with_a_byte_order_mark(tmp_path, kind, content):
    path = tmp_path / f"rows.{kind}"
    path.write_bytes(b"\xef\xbb\xbf" + content)
    (row,) = read_rows(DataConfig(path=str(path)))
    assert row.messages == [USER]


def test_other_keys_are_left_alone_and_empty_lines_skipped(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(PAIR | {"source": 3}) + "\n\n" + json.dumps(PAIR) + "\n")
    rows = list(read_rows(DataConfig(path=str(path))))
    assert [row.where for row in rows] == [f"{path}, line 1", f"{path}, line 3"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.jsonl", b'{"prompt": "a", "response": "b"}\n{"prompt\n', "line 2: not valid JSON"),
        (
            "rows.jsonl",
            b'{"prompt": "a", "response":\n',
            r"not valid JSON \(Expecting value\);",
        ),
        ("rows.jsonl", b'{"prompt": "\xff", "response": "b"}\n', "line 1: not UTF-8;"),
        ("rows.json", b'{"prompt": "a", "response": "b"}', "must be a list of rows, got dict"),
        ("rows.json", b'[{"prompt": "\xff", "response": "b"}]', "not UTF-8;"),
        ("rows.json", b'{"a": 1}\n{"a": 2}', "if it holds JSON lines, name it .jsonl"),
        ("rows.parquet", b"no such thing", "not valid Parquet"),
        ("rows.csv", b"prompt,response\na,b,c\n", "row 1: more fields than header names"),
        ("rows.csv", b'prompt,response\na,"b"c\n', "not valid CSV"),
        ("rows.csv", b"prompt,response\na,\xff\n", "not UTF-8;"),
        ("rows.csv", b"prompt,response\na\n", "row 1: fewer fields than header names"),
        ("rows.csv", b"prompt,response,system\na,b,c\nd,e\n", "row 2: fewer fields"),
        ("rows.tsv", b"prompt\tresponse\na\tb\n", ".tsv files are not read; save the rows as"),
        ("rows.arrow.gz", b"ARROW1", ".arrow files are not read"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        list(read_rows(DataConfig(path=str(path))))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused_without_asking_the_hub(tmp_path):
    with pytest.raises(UserError, match=r"no data file at .*correct data\.path"):
        list(read_rows(DataConfig(path=str(tmp_path / "rows.jsonl"))))


def test_a_folder_of_files_is_read_and_one_that_datasets_saved(tmp_path):
    (tmp_path / "files").mkdir()
    write(tmp_path / "files", [PAIR] * 3)
    datasets.Dataset.from_list([PAIR] * 4).save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"test": datasets.Dataset.from_list([PAIR] * 5)}).save_to_disk(
        tmp_path / "several"
    )
    for name, split, count in (("files", "train", 3), ("one", "train", 4), ("several", "test", 5)):
        rows = list(read_rows(DataConfig(path=str(tmp_path / name), split=split)))
        assert len(rows) == count
        where = f"{tmp_path / name}[{split}], row {count}"
        if name == "files":  # its files are read as they are, and named
            where = f"{tmp_path / name / 'rows.jsonl'}, line {count}"
        assert rows[-1].where == where


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_folder_without_rows_or_the_split_is_one_line(tmp_path, split):
    if split != "train":
        datasets.DatasetDict({"test": datasets.Dataset.from_list([PAIR])}).save_to_disk(tmp_path)
    with pytest.raises(UserError, match=f"the folder returned no rows .split '{split}'") as caught:
        list(read_rows(DataConfig(path=str(tmp_path), split=split)))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hub_dataset_is_streamed_with_its_subset_and_revision(monkeypatch):
    asked = {}

    def load_dataset(path, **settings):
        asked.update(settings, path=path)
        return iter([PAIR, PAIR])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = DataConfig(path="openai/gsm8k", subset="main", revision="v1", split="test")
    assert [row.where for row in read_rows(data)] == [
        "openai/gsm8k[test], row 1",
        "openai/gsm8k[test], row 2",
    ]
    assert asked == {
        "path": "openai/gsm8k",
        "name": "main",
        "split": "test",
        "revision": "v1",
        "streaming": True,
    }


def test_a_hub_that_fails_half_way_is_one_line(monkeypatch):
    def broken():
        yield PAIR
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: broken())
    with pytest.raises(UserError, match=r"'openai/gsm8k'.*the hub returned no rows.*no route"):
        list(read_rows(DataConfig(path="openai/gsm8k")))


def test_the_source_of_a_file_is_its_hash(tmp_path):
    data = write(tmp_path, [PAIR])
    content = (tmp_path / "rows.jsonl").read_bytes()
    assert source_of(data) == {
        "path": data.path,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def test_the_source_of_a_folder_changes_with_names_and_contents(tmp_path):
    seen = set()
    for name, rows in (("a", [PAIR]), ("b", [PAIR]), ("b", [PAIR, PAIR])):
        folder = tmp_path / str(len(seen))
        (folder / name).mkdir(parents=True)
        write(folder / name, rows)
        seen.add(source_of(DataConfig(path=str(folder)))["sha256"])
    assert len(seen) == 3


def test_the_source_of_a_hub_dataset_is_the_commit_if_the_hub_says(monkeypatch):
    class Api:
        def dataset_info(self, path, *, revision, timeout):
            if path == "offline":
                raise ConnectionError
            return type("Info", (), {"sha": f"commit of {path} at {revision}"})

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    source = source_of(DataConfig(path="openai/gsm8k", subset="main"))
    assert source == {
        "hub": "openai/gsm8k",
        "subset": "main",
        "split": "train",
        "commit": "commit of openai/gsm8k at None",
    }
    assert source_of(DataConfig(path="offline", revision="v1"))["commit"] == "v1"
