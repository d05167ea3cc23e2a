"""Whatever stands in a data file, the answer is prepared rows or one line for the user."""

import json
import math

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from spin_train.config.sections import DataConfig
from spin_train.data.records import read_records
from spin_train.data.rendering import Renderer
from spin_train.errors import UserError
from spin_train.stages.prepare import Limits, prepare_rows
from tests.train.data.accounts import CHATML, TOKENIZERS, prepared

NAMES = st.sampled_from(
    [
        *("prompt", "response", "completion", "messages", "conversations", "instruction", "input"),
        *("output", "question", "answer", "system", "history", "tools", "chosen", "rejected"),
        *("real", "generated", "label", "weight", "images", "text", "id", "train"),
    ]
) | st.text(max_size=4)
TEXTS = st.text(max_size=12) | st.sampled_from(
    ["", " ", "\x00", "\ud800", "<|im_end|>", "{{ 1 }}", "{% x", "a\r\nb", "[]", "{}", "null", "🙂"]
)
TURNS = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system", "tool", "human"]) | TEXTS,
        "content": TEXTS
        | st.none()
        | st.lists(st.dictionaries(TEXTS, TEXTS, max_size=2), max_size=2),
        "from": st.sampled_from(["human", "gpt", "system"]),
        "value": TEXTS,
        "weight": st.floats() | st.none() | TEXTS,
        "tool_calls": st.lists(st.dictionaries(NAMES, TEXTS, max_size=2), max_size=2),
    },
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.lists(TURNS, max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=4,
)
NAMES_OF_FILES = ["a.jsonl", "a.json", "a.csv", "a.parquet"]
ROWS = st.dictionaries(NAMES, VALUES, max_size=5) | st.fixed_dictionaries(
    {"messages": st.lists(TURNS, max_size=4)}
)


USER_CALLS = {
    "messages": [
        {"role": "user", "content": "q", "tool_calls": [{}]},
        {"role": "assistant", "content": "a"},
    ]
}


def one_line(error):
    text = str(error)
    assert text
    assert text.isprintable() or "\n" not in text
    assert len(text) < 2000


@settings(suppress_health_check=[HealthCheck.too_slow])
@example(rows=[USER_CALLS], pairs=False).via("a user's tool_calls were taken for calls")
@given(rows=st.lists(ROWS, min_size=1, max_size=3), pairs=st.booleans())
def test_rows_are_prepared_or_refused_in_one_line(tmp_path_factory, rows, pairs):
    folder = tmp_path_factory.mktemp("any")
    try:
        texts, summary = prepared(folder, rows, pairs=pairs)
    except UserError as error:
        one_line(error)
        assert not list((folder / "data").glob("*.parquet"))  # nothing is half-written
        return
    # Every row is somewhere: prepared, or counted with a reason.
    assert len(texts) <= len(rows) * 4
    for record in read_records(*sorted((folder / "data").glob("*.parquet"))):
        assert record.prompt_ids
        assert record.of_role("real")[0].ids
        assert 0 < record.weight < math.inf
    json.dumps(summary, allow_nan=False)


@given(
    content=st.binary(max_size=80),
    name=st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.parquet"]),
)
def test_any_file_is_refused_in_one_line_or_read(tmp_path_factory, content, name):
    folder = tmp_path_factory.mktemp("file")
    (folder / name).write_bytes(content)
    files = {side: folder / "data" / f"{side}.parquet" for side in ("train", "held_out")}
    try:
        prepare_rows(
            DataConfig(path=str(folder / name), held_out=1),
            Renderer(TOKENIZERS[CHATML], None),
            Limits(4096, 4, 300),
            **files,
            seed=0,
        )
    except UserError as error:
        one_line(error)
        assert not any(path.exists() for path in files.values())
