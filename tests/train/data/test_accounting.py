"""Every field of a row is used, or the row is refused or left out, or the field is named."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spin_train.config.sections import DataConfig
from spin_train.data.records import read_records
from spin_train.data.rendering import Renderer
from spin_train.errors import UserError
from spin_train.stages.prepare import Limits, prepare_rows
from tests.train.data.accounts import REASONING, TOKENIZERS, TOOLS, answer, chat, prepared, user
from tests.train.tokenizers import CHATML

USED = {
    "system": (chat(user(), answer(), system="SEEN"), CHATML),
    "system_prompt": (chat(user(), answer(), system_prompt="SEEN"), CHATML),
    "alpaca_system": ({"instruction": "q", "output": "ANSWER", "system": "SEEN"}, CHATML),
    "sharegpt_system": (
        {
            "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "ANSWER"}],
            "system": "SEEN",
        },
        CHATML,
    ),
    "same_system": (
        chat({"role": "system", "content": "SEEN"}, user(), answer(), system="SEEN "),
        CHATML,
    ),
    "history": ({"instruction": "q", "output": "ANSWER", "history": [["SEEN", "a"]]}, CHATML),
    "history_as_json": (
        {"prompt": "q", "response": "ANSWER", "history": '[["a", "SEEN"]]'},
        CHATML,
    ),
    "history_as_turns": ({"prompt": "q", "response": "ANSWER", "history": [user("SEEN")]}, CHATML),
    "reasoning_content": (chat(user(), answer(reasoning_content="SEEN")), REASONING),
    "tools": (chat(user(), answer(), tools=[{"name": "SEEN"}]), TOOLS),
    "tools_as_json": (chat(user(), answer(), tools='[{"name": "SEEN"}]'), TOOLS),
    "tool_calls": (
        chat(
            user(),
            answer("", tool_calls=[{"name": "f", "arguments": '{"a": "SEEN"}'}]),
            {"role": "tool", "content": "3"},
            answer(),
        ),
        TOOLS,
    ),
    "orca_pair": ({"system": "SEEN", "question": "q", "chosen": "ANSWER", "rejected": "b"}, CHATML),
    "alpaca_pair": (
        {"instruction": "q", "input": "SEEN", "chosen": "ANSWER", "rejected": "b"},
        CHATML,
    ),
    "text_in_parts": (chat(user([{"type": "text", "text": "SEEN"}]), answer()), CHATML),
    "name_of_a_turn": (
        chat({**user(), "name": "SEEN"}, answer()),
        CHATML.replace("{{ m.content }}", "{{ m.name or '' }}{{ m.content }}"),
    ),
}


@pytest.mark.parametrize("name", USED)
def test_what_a_template_can_render_is_used(tmp_path, name):
    row, template = USED[name]
    ((prompt, response, *_, weight),), summary = prepared(tmp_path, [row], template=template)
    assert "SEEN" in prompt + response
    assert "ANSWER" in response
    assert weight == 1
    assert summary["unused_fields"] == {}


NAMED = {
    "source": (chat(user(), answer(), source="web"), CHATML, ["source"]),
    "reasoning": (
        chat(user(), answer(reasoning_content="because")),
        CHATML,
        ["messages[].reasoning_content"],
    ),
    "reasoning_of_a_text": (
        chat(user(), answer(reasoning_content="because")),
        "{prompt} ",
        ["messages[].reasoning_content"],
    ),
    "a_mark": (chat({**user(), "is_first": True}, answer()), CHATML, ["messages[].is_first"]),
    "tools": (chat(user(), answer(), tools=[{"name": "f"}]), CHATML, ["tools"]),
    "id_of_a_call": (
        chat(user(), answer("", tool_calls=[{"id": "x", "function": {"name": "f"}}]), answer()),
        TOOLS.replace("{{ m.tool_calls }}", "{{ m.tool_calls[0].function }}"),
        ["messages[].tool_calls[].id"],
    ),
    "scores": (
        {"prompt": "q", "chosen": "ANSWER", "rejected": "b", "score_chosen": 1.5, "margin": 0.0},
        CHATML,
        ["margin", "score_chosen"],
    ),
    "a_label_in_words": (chat(user(), answer(), label="politics"), CHATML, ["label"]),
    "a_measured_loss": (chat(user(), answer(), loss=2.31), CHATML, ["loss"]),
    "history_of_a_chat": (
        chat(user(), answer("a"), user("b"), answer(), history=[["c", "d"]]),
        CHATML,
        ["history"],
    ),
    "part_of_an_answer": (
        chat(user(), answer("<think>why</think>ANSWER")),
        CHATML.replace("m.content", "(m.content.split('</think>') | last)"),
        ["messages[].content (a part of the assistant's)"],
    ),
    "part_of_the_other_answer": (
        {"prompt": "q", "chosen": "ANSWER", "rejected": "<think>why</think>b"},
        CHATML.replace("m.content", "(m.content.split('</think>') | last)"),
        ["messages[].content (a part of the assistant's)"],
    ),
    "spaces_around_a_question": (
        chat(user(" q\n"), answer()),
        CHATML.replace("m.content", "m.content | trim"),
        ["messages[].content (spaces around the user's)"],
    ),
    "spaces_around_the_other_answer": (
        {"prompt": "q", "chosen": "ANSWER", "rejected": "b\n"},
        CHATML.replace("m.content", "m.content | trim"),
        ["messages[].content (spaces around the assistant's)"],
    ),
    "capitals_of_an_answer": (
        chat(user("q"), answer("ANSWER of Paris")),
        CHATML.replace("m.content", "m.content | lower"),
        ["messages[].content (spaces or letter case of the assistant's)"],
    ),
    "field_of_a_part": (
        chat(user([{"type": "text", "text": "q", "cache_control": {"a": "b"}}]), answer()),
        CHATML,
        ["messages[].content[].cache_control"],
    ),
    "weight_of_the_other_answer": (
        {"chosen": [user(), answer()], "rejected": [user(), answer("b", weight=0)]},
        CHATML,
        ["messages[].weight (of the rejected response)"],
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_nothing_uses_is_counted_and_named(tmp_path, name):
    row, template, names = NAMED[name]
    ((*texts, _),), summary = prepared(tmp_path, [row], template=template)
    assert "ANSWER" in texts[1].upper()
    assert summary["unused_fields"] == dict.fromkeys(names, 1)
    assert any(f"{names[0]} (1 rows)" in note for note in summary["notes"])


@pytest.mark.parametrize("content", ["m.content", "(m.content | tojson)"])
def test_spaces_and_quotes_that_stay_are_no_matter(tmp_path, content):
    row = chat(user(' "q"\né\n'), answer('"a"\n'))
    _, summary = prepared(tmp_path, [row], template=CHATML.replace("m.content", content))
    assert (summary["unused_fields"], summary["notes"]) == ({}, [])


def test_a_template_that_writes_capitals_leaves_out_no_turn(tmp_path):
    template = CHATML.replace("m.content", "m.content | upper")
    _, summary = prepared(tmp_path, [chat(user("q"), answer("b"))], template=template)
    altered = "messages[].content (spaces or letter case of the {}'s)"
    assert summary["unused_fields"] == {altered.format(r): 3 for r in ("assistant", "user")}


@pytest.mark.parametrize("name", NAMED)
def test_a_name_can_be_silenced(tmp_path, name):
    row, template, names = NAMED[name]
    _, summary = prepared(tmp_path, [row], template=template, ignore=names)
    assert (summary["unused_fields"], summary["notes"]) == ({}, [])


def test_a_text_that_is_said_again_is_known_by_its_key_not_by_its_words(tmp_path):
    row = chat(user("yes"), answer("ANSWER")) | {
        "prompt": "yes",
        "is_safe": "yes",
        "pick": "ANSWER",
    }
    _, summary = prepared(tmp_path, [row], template=CHATML)
    assert summary["unused_fields"] == {"is_safe": 1, "pick": 1}


def test_a_name_that_no_row_has_silences_nothing_and_is_named(tmp_path):
    rows = [{"prompt": "q", "response": "a", "source": None}, {"prompt": "p", "response": "b"}]
    _, summary = prepared(tmp_path, rows, ignore=["source", "sauce", "messages[].name"])
    assert summary["ignored_in_vain"] == ["sauce", "messages[].name"]
    (note,) = (note for note in summary["notes"] if "data.ignore" in note)
    assert "what no row has: sauce, messages[].name" in note


@pytest.mark.parametrize("empty", [[], "", None])
def test_an_empty_chat_beside_a_full_one_leaves_no_choice(tmp_path, empty):
    row = {"messages": [user(), answer()], "conversations": empty}
    ((*texts, _),), summary = prepared(tmp_path, [row], template=CHATML)
    assert "ANSWER" in texts[1]
    assert summary["unused_fields"] == {}


HALF = "\ud800"


def nested(levels):
    return json.loads("[" * levels + "]" * levels)


REFUSED = {
    "weight_beyond_floats": (chat(user(), answer(), weight=10**400), "weight must be a number"),
    "deep_tools": (chat(user(), answer(), tools=nested(600)), "tools is nested more than 100"),
    "deep_field": (chat(user(), answer(meta=nested(600))), "messages is nested more than 100"),
    "deep_tools_in_text": (
        chat(user(), answer(), tools="[" * 100_000 + "]" * 100_000),
        "JSON in text is nested too deeply",
    ),
    "deep_history_in_text": (
        {"prompt": "q", "response": "a", "history": "[" * 600 + "]" * 600},
        "JSON in text is nested more than 100",
    ),
    "images": (chat(user("<image> q"), answer(), images=["a.png"]), "images: only text"),
    "images_of_a_turn": (
        chat({**user("<image> q"), "images": ["a.png"]}, answer()),
        r"messages\[\].images: only text .*data.ignore=\['messages\[\].images'\]",
    ),
    "audio": (chat(user(), answer(), audio={"path": "a.wav"}), "audio: only text"),
    "image_part": (
        chat(user([{"type": "image", "image": "a.png"}]), answer()),
        r"a part that is not text \(image\)",
    ),
    "image_of_a_text_part": (
        chat(user([{"text": "q", "image": "a.png"}]), answer()),
        r"messages\[\].content\[\].image: only text is trained on",
    ),
    "a_number_for_input": (
        {"instruction": "q", "input": 0, "output": "a"},
        "input must be non-empty text, got 0",
    ),
    "two_systems": (
        chat({"role": "system", "content": "a"}, user(), answer(), system="b"),
        "not that of its system turn",
    ),
    "weight_in_words": (chat(user(), answer(), weight="heavy"), "weight must be a number >= 0"),
    "weight_below_0": (chat(user(), answer(weight=-1)), "weight of turn 2 .* >= 0"),
    "history_in_words": ({"prompt": "q", "response": "a", "history": "before"}, "history must be"),
    "triples": ({"prompt": "q", "response": "a", "history": [["b"]]}, "pairs of texts"),
    "tools_in_words": (chat(user(), answer(), tools="hammer"), "tools must be a list"),
    "ultrafeedback": ({"instruction": "q", "completions": [{"response": "a"}]}, "needs one of"),
    "nectar": ({"prompt": "q", "answers": [{"answer": "a", "rank": 1.0}]}, "needs one of"),
}


@pytest.mark.parametrize(
    "row",
    [
        chat(user(), answer(), tools=[{"type": "function", "function": {"name": HALF}}]),
        chat(user(), answer(reasoning_content=HALF)),
        chat(user(), answer(tool_calls=[{"name": "f", "arguments": {"x": HALF}}])),
    ],
)
def test_half_a_character_is_refused_wherever_the_template_writes_it(tmp_path, row):
    everything = CHATML.replace("{{ m.content }}", "{{ m | tojson }}{{ tools | tojson }}")
    with pytest.raises(UserError, match=r"rows.jsonl, line 1: .* unpaired surrogate .*ud800"):
        prepared(tmp_path, [row], template=everything)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_right_is_refused_by_line(tmp_path, name):
    row, says = REFUSED[name]
    with pytest.raises(UserError, match=rf"rows.jsonl, line 1: .*{says}"):
        prepared(tmp_path, [row])


def test_a_refused_key_can_be_ignored(tmp_path):
    rows, _ = prepared(tmp_path, [REFUSED["images"][0]], ignore=["images"])
    assert "<image> q" in rows[0][0]


@pytest.mark.parametrize(
    ("template", "turns"),
    [
        # A template for content in parts, and one that takes a system turn at the start alone.
        ("{% for m in messages %}{{ m.role }}{% for p in m.content %}{% if p.type == 'text' %}"
         "{{ p.text }}{% endif %}{% endfor %}{% endfor %}", [user(), answer()]),
        ("{% for m in messages %}{% if m.role != 'system' or loop.first %}{{ m.content }}"
         "{% endif %}{% endfor %}", [user(), {"role": "system", "content": "q"}, answer()]),
    ],
)  # fmt: skip
def test_a_turn_that_a_template_swallows_is_refused(tmp_path, template, turns):
    """The second has the text of another turn, so looking for texts alone would not do."""
    with pytest.raises(UserError, match="line 1: the chat template leaves out the text of turn"):
        prepared(tmp_path, [chat(*turns)], template=template)


def test_turns_of_tools_that_a_template_cannot_render_are_left_out_and_counted(tmp_path):
    call = answer("", tool_calls=[{"name": "f", "arguments": {"a": "b"}}])
    row = chat(user(), call, {"role": "tool", "content": "3"}, answer())
    for template in (CHATML, "{prompt} "):
        ((prompt, response, _),), summary = prepared(tmp_path, [row], template=template)
        assert (prompt.count("q"), "3" in prompt) == (1, False)
        assert response.startswith("ANSWER")
        assert summary["ignored_tool_turns"] == 2


def test_turns_after_the_other_response_are_counted(tmp_path):
    row = {"chosen": [user(), answer()], "rejected": [user(), answer("b"), user("more")]}
    _, summary = prepared(tmp_path, [row])
    assert summary["dropped_turns_after_response"] == 1


def test_a_user_field_called_tool_calls_does_not_take_the_calls_of_the_assistant_away(tmp_path):
    template = "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.tool_calls }}{% endif %}"
    template += "{{ m.content }}{% endfor %}"
    call = answer("", tool_calls=[{"name": "f", "arguments": {"a": "b"}}])
    asked = {**user(), "tool_calls": "a user's own note"}
    row = chat(asked, call, {"role": "tool", "content": "3"}, answer())
    ((prompt, _, _),), summary = prepared(tmp_path, [row], template=template)
    assert "'f'" in prompt
    assert summary["ignored_tool_turns"] == 0
    assert summary["unused_fields"] == {"messages[].tool_calls": 1}


def test_arguments_are_text_where_a_template_takes_no_objects(tmp_path):
    template = TOOLS.replace("{{ m.tool_calls }}", "{{ m.tool_calls[0].function.arguments + '!' }}")
    call = answer("", tool_calls=[{"name": "f", "arguments": {"a": "b"}}])
    rows, summary = prepared(tmp_path, [chat(user(), call, answer())], template=template)
    assert summary["ignored_tool_turns"] == 2 - 1  # the name is not rendered, so it is left out
    template = template.replace(" + '!'", " + m.tool_calls[0].function.name")
    rows, summary = prepared(tmp_path, [chat(user(), call, answer())], template=template)
    assert '{"a": "b"}f' in rows[0][0]
    assert summary["ignored_tool_turns"] == 0


def test_a_call_of_a_tool_can_be_the_response(tmp_path):
    call = answer("", tool_calls=[{"name": "f", "arguments": {"a": "ANSWER"}}])
    rows, _ = prepared(tmp_path, [chat(user(), call)], template=TOOLS)
    assert "ANSWER" in rows[0][1]


def test_the_nulls_of_parquet_are_not_there(tmp_path):
    """Parquet gives every row the keys of all, and every call the arguments of all."""
    rows = [
        chat(user("a"), answer("", tool_calls=[{"name": "f", "arguments": {"x": "1"}}]), answer()),
        chat(user("b"), answer("", tool_calls=[{"name": "f", "arguments": {"y": "2"}}]), answer()),
        chat(user("c"), answer(reasoning_content="why"), system="s", weight=2.0),
    ]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert "None" in str(pq.read_table(path).to_pylist())
    files = [tmp_path / name for name in ("train", "held_out")]
    summary = prepare_rows(
        DataConfig(path=str(path), held_out=1),
        Renderer(TOKENIZERS[TOOLS], None),
        Limits(4096, 4, 300),
        train=files[0],
        held_out=files[1],
        seed=0,
    )
    texts = [TOKENIZERS[TOOLS].decode(r.prompt_ids) for r in read_records(*map(Path, files))]
    assert not any("None" in text or ("'x'" in text and "'y'" in text) for text in texts)
    assert summary["unused_fields"] == {"messages[].reasoning_content": 1}


def test_a_response_of_unknown_characters_alone_is_refused(tmp_path):
    from tests.train.tokenizers import sentence_piece

    tokenizer = sentence_piece(chat_template=CHATML)
    path = tmp_path / "rows.jsonl"
    lines = [{"prompt": "a", "response": "b"}, {"prompt": "b", "response": "a ☃"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def prepare():
        return prepare_rows(
            DataConfig(path=str(path), held_out=1),
            Renderer(tokenizer, "{prompt}>"),
            Limits(64, 4, 100),
            train=tmp_path / "train",
            held_out=tmp_path / "held_out",
            seed=0,
        )

    assert prepare()["rows_with_unknown_tokens"] == 1
    path.write_text(path.read_text() + json.dumps({"prompt": "ab", "response": "☃☃"}) + "\n")
    with pytest.raises(UserError, match="line 3: the tokenizer knows no character"):
        prepare()
