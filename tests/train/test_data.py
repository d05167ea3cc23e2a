import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spin_train.config import DataConfig
from spin_train.data import Renderer, prepare, split_held_out
from spin_train.errors import UserError
from spin_train.rows import Row, read_rows
from tests.train.tokenizers import CHATML, WITHOUT_END, ZEPHYR, byte_level, sentence_piece

USER = {"role": "user", "content": "a b"}
ANSWER = {"role": "assistant", "content": "ba"}
PAIR = {"prompt": "a b", "response": "ba"}
CHAT = {
    "messages": [
        {"role": "system", "content": "say"},
        USER,
        {"role": "assistant", "content": "a word"},
        {"role": "user", "content": "ab"},
        ANSWER,
    ]
}


def write(folder, rows, kind="jsonl"):
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(path=str(path), held_out=1)


def pair_row(prompt, response):
    return Row([{"role": "user", "content": prompt}], response, "rows.jsonl, line 1")


# Reading


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_prompt_and_response_are_a_user_turn_and_its_answer(tmp_path, kind):
    (row,) = read_rows(write(tmp_path, [PAIR], kind))
    assert (row.messages, row.response) == ([USER], "ba")


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_the_last_assistant_turn_is_the_response(tmp_path, kind):
    (row,) = read_rows(write(tmp_path, [CHAT], kind))
    assert (row.messages, row.response) == (CHAT["messages"][:-1], "ba")


def test_other_keys_are_left_alone_and_empty_lines_skipped(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(PAIR | {"source": 3}) + "\n\n" + json.dumps(PAIR) + "\n")
    rows = list(read_rows(DataConfig(path=str(path))))
    assert [row.where for row in rows] == [f"{path}, line 1", f"{path}, line 3"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([1], "must be an object, got list"),
        ({"text": "a"}, "needs prompt and response, or messages; got text"),
        ({}, "got no keys"),
        ({"prompt": "a"}, "got prompt"),
        ({"prompt": "a", "response": None}, "response must be text"),
        ({"prompt": "a", "response": " \n"}, "response must be text that is not empty"),
        ({"prompt": 7, "response": "a"}, "prompt must be text"),
        ({"prompt": "a", "response": "b\ud800"}, "response holds half a character"),
        ({"messages": "a"}, "messages must be a list"),
        ({"messages": [ANSWER]}, "at least a user and a last turn"),
        ({"messages": [USER, USER]}, "last message must be the assistant's, got 'user'"),
        ({"messages": [USER, {"role": "assistant"}]}, "message 2 needs role and content"),
        ({"messages": [{"role": "user", "content": ""}, ANSWER]}, "content of message 1"),
        ({"messages": [{"role": None, "content": "a"}, ANSWER]}, "role of message 1"),
    ],
)
def test_a_malformed_row_is_refused_by_file_and_line(tmp_path, row, says):
    data = write(tmp_path, [PAIR, row])
    with pytest.raises(UserError, match=says) as caught:
        list(read_rows(data))
    assert str(caught.value).startswith(f"{data.path}, line 2: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.jsonl", b'{"prompt": "a", "response": "b"}\n{"prompt\n', "line 2: no JSON"),
        ("rows.jsonl", b'{"prompt": "\xff", "response": "b"}\n', "line 1: no JSON"),
        ("rows.json", b'{"prompt": "a", "response": "b"}', "must hold a list of rows, got dict"),
        ("rows.json", b'{"a": 1}\n{"a": 2}', "JSON lines belong in a .jsonl file"),
        ("rows.parquet", b"no such thing", "no Parquet"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        list(read_rows(DataConfig(path=str(path))))
    assert str(path) in str(caught.value)


def test_a_missing_file_is_refused_without_asking_the_hub(tmp_path):
    with pytest.raises(UserError, match=r"no data file at .*correct data\.path"):
        list(read_rows(DataConfig(path=str(tmp_path / "rows.jsonl"))))


# Rendering

TEXTS = st.text("ab :\n", min_size=1, max_size=8).filter(str.strip)
TOKENIZERS = {"byte_level": byte_level(), "sentence_piece": sentence_piece()}
TEMPLATES = ["{prompt}\n", "{prompt} ", "A: {prompt} B: ", "{prompt}"]


def text_of(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True)


@example(prompt="a", response="a word", template="{prompt} ").via("a space of its own came before")
@example(prompt="a", response="\nb", template="{prompt}\n")
@given(prompt=TEXTS, response=TEXTS, template=st.sampled_from(TEMPLATES))
@pytest.mark.parametrize("name", TOKENIZERS)
def test_decoded_prompt_and_response_are_the_text_again(name, prompt, response, template):
    tokenizer = TOKENIZERS[name]
    ids = Renderer(tokenizer, template).render(pair_row(prompt, response))
    assert text_of(tokenizer, ids[0] + ids[1]) == template.replace("{prompt}", prompt) + response


@given(prompt=TEXTS, response=TEXTS, template=st.sampled_from(TEMPLATES))
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_response_ends_in_exactly_one_end_token(name, prompt, response, template):
    tokenizer = TOKENIZERS[name]
    _, response_ids = Renderer(tokenizer, template).render(pair_row(prompt, response))
    assert response_ids.index(tokenizer.eos_token_id) == len(response_ids) - 1


@given(prompt=TEXTS, responses=st.lists(TEXTS, min_size=2, max_size=2))
@pytest.mark.parametrize("template", [None, *TEMPLATES])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_prompt_ids_do_not_depend_on_the_response(name, template, prompt, responses):
    # What the opponent is given must be what training conditions on.
    tokenizer = {"byte_level": byte_level, "sentence_piece": sentence_piece}[name]
    renderer = Renderer(tokenizer(chat_template=CHATML), template)
    first, second = (renderer.render(pair_row(prompt, response))[0] for response in responses)
    assert first == second


def test_a_plain_template_has_the_tokenizers_start_of_text_once():
    tokenizer = sentence_piece()
    prompt_ids, response_ids = Renderer(tokenizer, "A: {prompt}").render(pair_row("a", "b"))
    assert (prompt_ids + response_ids).count(tokenizer.bos_token_id) == 1
    assert prompt_ids[0] == tokenizer.bos_token_id


def test_a_prompt_may_hold_the_words_of_the_template():
    tokenizer = byte_level()
    prompt_ids, _ = Renderer(tokenizer, "{prompt}:").render(pair_row("{prompt}", "b"))
    assert text_of(tokenizer, prompt_ids) == "{prompt}:"


@pytest.mark.parametrize("tokenizer", [byte_level, sentence_piece])
def test_nothing_after_the_end_of_a_zephyr_turn_is_trained_on(tokenizer):
    tokenizer = tokenizer(eos="</s>", chat_template=ZEPHYR)
    renderer = Renderer(tokenizer, None)
    prompt_ids, response_ids = renderer.render(pair_row("a b", "ba"))
    # One family of tokenizers puts a space after every special token.
    prompt = tokenizer.decode(prompt_ids).replace("</s> ", "</s>")
    assert prompt == "<|user|>\na b</s>\n<|assistant|>\n"
    assert tokenizer.decode(response_ids) == "ba</s>"
    assert renderer.stop_id == tokenizer.eos_token_id


def test_a_response_ends_with_the_end_of_turn_of_the_chat_template():
    tokenizer = byte_level(eos="<|endoftext|>", chat_template=CHATML)
    renderer = Renderer(tokenizer, None)
    _, response_ids = renderer.render(pair_row("a b", "ba"))
    assert tokenizer.decode(response_ids) == "ba<|im_end|>"
    assert renderer.stop_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert renderer.stop_id != tokenizer.eos_token_id


def test_a_chat_template_without_an_end_gets_the_end_of_text():
    tokenizer = byte_level(eos="<|endoftext|>", chat_template=WITHOUT_END)
    _, response_ids = Renderer(tokenizer, None).render(pair_row("a b", "ba"))
    assert tokenizer.decode(response_ids) == "ba\n<|endoftext|>"


def test_a_given_template_ends_with_the_end_of_text_whatever_the_chat_template():
    tokenizer = byte_level(eos="<|endoftext|>", chat_template=CHATML)
    assert Renderer(tokenizer, "{prompt}").stop_id == tokenizer.eos_token_id


def test_only_the_last_assistant_turn_of_a_chat_is_the_response(tmp_path):
    tokenizer = byte_level(eos="</s>", chat_template=ZEPHYR)
    (row,) = read_rows(write(tmp_path, [CHAT]))
    prompt_ids, response_ids = Renderer(tokenizer, None).render(row)
    assert tokenizer.decode(prompt_ids) == (
        "<|system|>\nsay</s>\n<|user|>\na b</s>\n<|assistant|>\na word</s>\n"
        "<|user|>\nab</s>\n<|assistant|>\n"
    )
    assert tokenizer.decode(response_ids) == "ba</s>"


def test_a_tokenizer_without_end_of_text_is_refused():
    with pytest.raises(UserError, match="no end-of-text token"):
        Renderer(byte_level(eos=None), "{prompt}")


def test_neither_chat_template_nor_template_is_refused():
    with pytest.raises(UserError, match="give a template: key"):
        Renderer(byte_level(), None)


@pytest.mark.parametrize("messages", [CHAT["messages"][:2], CHAT["messages"][1:4]])
def test_a_plain_template_refuses_system_and_several_turns_by_line(messages):
    renderer = Renderer(byte_level(), "{prompt}")
    with pytest.raises(UserError, match="line 4: template: holds one user turn"):
        renderer.render(Row(messages, "ba", "rows.jsonl, line 4"))


def test_a_row_that_its_chat_template_refuses_is_named():
    strict = CHATML + "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    renderer = Renderer(byte_level(chat_template=strict), None)
    with pytest.raises(UserError, match="line 4: the chat template refuses this row: no"):
        renderer.render(Row(CHAT["messages"][:2], "ba", "rows.jsonl, line 4"))


def test_a_chat_template_that_rewrites_its_generation_prompt_is_refused():
    changing = CHATML + "{% if add_generation_prompt %}<think>{% endif %}"
    with pytest.raises(UserError, match="does not continue its own generation prompt"):
        Renderer(byte_level(chat_template=changing), None)


# The held-out split


@given(
    prompts=st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=30),
    held_out=st.sampled_from([0.02, 0.3, 0.5, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_no_prompt_is_on_both_sides(prompts, held_out, seed):
    prompts = ["x", "y", *prompts]
    out = split_held_out(prompts, held_out, seed=seed)
    sides = [{p for p, o in zip(prompts, out, strict=True) if o is side} for side in (True, False)]
    assert all(sides)
    assert not sides[0] & sides[1]


@pytest.mark.parametrize(
    ("held_out", "count"),
    # Of 10 distinct prompts: a fraction is rounded, and at least one; a number is that number.
    [(0.3, 3), (0.02, 1), (0.25, 2), (1, 1), (4, 4)],
)
def test_held_out_counts_distinct_prompts(held_out, count):
    prompts = [str(number) for number in range(10)]
    assert sum(split_held_out(prompts, held_out, seed=0)) == count


def test_the_split_follows_from_the_seed_not_from_the_order_of_rows():
    prompts = [str(number) for number in range(20)]
    out = dict(zip(prompts, split_held_out(prompts, 0.5, seed=1), strict=True))
    turned = dict(zip(prompts[::-1], split_held_out(prompts[::-1], 0.5, seed=1), strict=True))
    assert out == turned
    assert split_held_out(prompts, 0.5, seed=2) != split_held_out(prompts, 0.5, seed=1)


@pytest.mark.parametrize("held_out", [10, 11, 0.99])
def test_holding_everything_out_is_refused(held_out):
    with pytest.raises(UserError, match="10 distinct prompts; leave some to train on"):
        split_held_out([str(number) for number in range(10)], held_out, seed=0)


# All of it


def prepared(data, **limits):
    settings = {"context": 64, "max_new_tokens": 4, "seed": 0} | limits
    return prepare(data, Renderer(byte_level(), "{prompt}\n"), **settings)


ROWS = [{"prompt": "ab" * number, "response": "ba"} for number in range(1, 7)]


def test_every_row_becomes_one_record_with_its_real_response(tmp_path):
    train, held_out, summary = prepared(write(tmp_path, ROWS))
    assert sorted(record.prompt_id for record in train + held_out) == list(range(6))
    for record in train + held_out:
        (real,) = record.responses
        assert (real.role, real.finish_reason, real.opponent_logps) == ("real", "stop", None)
    assert (summary["rows"], summary["train"], summary["held_out"]) == (6, 5, 1)


def test_a_repeated_prompt_stays_on_one_side(tmp_path):
    rows = [PAIR, PAIR | {"response": "b"}, {"prompt": "b", "response": "a"}]
    train, held_out, summary = prepared(write(tmp_path, rows))
    assert {len(train), len(held_out)} == {1, 2}
    assert summary["distinct_prompts"] == 2


TOO_LONG = [
    # One word of a letter is a token; the long rows are far over their limit.
    ({"prompt": "a " * 30, "response": "b"}, {"max_prompt_tokens": 20}, {}, "max_prompt_tokens"),
    ({"prompt": "a", "response": "b " * 30}, {"max_response_tokens": 20}, {}, "max_response_token"),
    ({"prompt": "a", "response": "b " * 30}, {}, {"context": 20}, "context of 20"),
    ({"prompt": "a " * 12, "response": "b"}, {}, {"context": 20, "max_new_tokens": 8}, "context"),
]


@pytest.mark.parametrize(("row", "limits", "of_run", "says"), TOO_LONG)
def test_a_row_beyond_a_limit_is_refused_by_line(tmp_path, row, limits, of_run, says):
    data = write(tmp_path, [*ROWS[:3], row]).model_copy(update=limits)
    with pytest.raises(UserError, match=rf"line 4: .*{says}.*too_long=drop"):
        prepared(data, **of_run)


@pytest.mark.parametrize(("row", "limits", "of_run", "says"), TOO_LONG)
def test_a_row_beyond_a_limit_can_be_dropped_and_is_counted(tmp_path, row, limits, of_run, says):
    data = write(tmp_path, [*ROWS[:3], row]).model_copy(update={**limits, "too_long": "drop"})
    train, held_out, summary = prepared(data, **of_run)
    assert sorted(record.prompt_id for record in train + held_out) == [0, 1, 2]
    assert (summary["rows"], summary["dropped_too_long"]) == (4, 1)


@pytest.mark.parametrize("rows", [[], [PAIR], [PAIR, PAIR]])
def test_fewer_than_two_prompts_are_refused(tmp_path, rows):
    with pytest.raises(UserError, match="at least 2 prompts needed"):
        prepared(write(tmp_path, rows))
