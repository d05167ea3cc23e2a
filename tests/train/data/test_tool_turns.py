"""Calls of tools and what the tools gave back."""

from datetime import date

import pytest

from spin_train.data.formats import RowError, row_of
from tests.train.data.accounts import TOOLS, answer, chat, prepared, user
from tests.train.tokenizers import CHATML

CALL = answer("", tool_calls=[{"name": "f", "arguments": {"a": "b"}}])


@pytest.mark.parametrize("nothing", [[], {}, ""])
@pytest.mark.parametrize("key", ["tool_calls", "function_call"])
@pytest.mark.parametrize("template", [CHATML, TOOLS, "{prompt} "])
def test_an_answer_with_an_empty_list_of_calls_calls_nothing(tmp_path, key, nothing, template):
    rows, summary = prepared(tmp_path, [chat(user(), answer(**{key: nothing}))], template=template)
    assert rows[0][1].startswith("ANSWER")
    assert (summary["ignored_tool_turns"], summary["unused_fields"]) == (0, {})


def test_an_empty_list_of_calls_does_not_stand_for_an_answer():
    with pytest.raises(RowError, match="content of turn 2 of messages must be non-empty"):
        row_of(chat(user(), answer("", tool_calls=[])), "row 1")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (0, "0"),
        (False, "false"),
        ([], "[]"),
        (None, ""),
        ("é", "é"),
        ({"a": "é"}, '{"a": "é"}'),
        ({"day": date(2024, 1, 2)}, '{"day": "2024-01-02"}'),
        ([{"type": "text", "text": "one"}, {"type": "text", "text": " two"}], "one two"),
        ([{"type": "fruit", "name": "fig"}], '[{"type": "fruit", "name": "fig"}]'),
    ],
)
def test_what_a_tool_gave_back_is_its_text_or_json(content, text):
    row = row_of(chat(user(), CALL, {"role": "tool", "content": content}, answer()), "row 1")
    assert row.messages[-1]["content"] == text


@pytest.mark.parametrize("kind", ["image", "image_url", "input_audio"])
def test_pictures_and_sounds_of_a_tool_are_refused(kind):
    given = {"role": "tool", "content": [{"type": "text", "text": "a"}, {"type": kind, kind: "b"}]}
    with pytest.raises(RowError, match=rf"turn 3 of messages holds a part .* \({kind}\)"):
        row_of(chat(user(), CALL, given, answer()), "row 1")
