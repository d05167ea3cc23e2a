"""Calls of tools and what the tools gave back."""

from datetime import date

import pytest

from spin_train.data.formats import RowError, row_of
from tests.train.data.accounts import REASONING, TOOLS, answer, chat, prepared, user
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


def called(place):
    return answer("", tool_calls=[{"name": "f", "arguments": {"a": f"ANSWER {place}"}}])


def test_answers_that_differ_in_their_calls_or_reasoning_are_no_repeats(tmp_path):
    calls = [chat(user(), called(n)) for n in (1, 2, 1)]
    rows, summary = prepared(tmp_path, calls, template=TOOLS, deduplicate="row")
    assert [f"ANSWER {n}" in row[1] for n, row in zip((1, 2), rows, strict=True)] == [True, True]
    assert summary["dropped_repeated"] == 1 + 1  # one of them stands in the rows of `prepared`
    whys = [chat(user(), answer(reasoning_content=why)) for why in ("one", "two")]
    rows, _ = prepared(tmp_path, whys, template=REASONING, deduplicate="row")
    assert [row[1][:5] for row in rows] == ["(one)", "(two)"]


def test_answers_that_are_calls_are_not_all_the_same_response(tmp_path):
    rows = [chat(user(f"u{n}"), called(n)) for n in range(30)]
    _, summary = prepared(tmp_path, rows, template=TOOLS)
    assert summary["held_out_responses_in_training"] == 0
    kept, summary = prepared(tmp_path, rows, template=TOOLS, shared_responses="drop")
    assert (len(kept), summary["dropped_shared_responses"]) == (30, 0)
