from datetime import date

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import processors

from spin_train.data.formats import SftRow
from spin_train.data.rendering import Renderer
from spin_train.errors import UserError
from tests.train.tokenizers import CHATML, WITHOUT_END, ZEPHYR, byte_level, sentence_piece

USER = {"role": "user", "content": "a b"}
CHAT = [
    {"role": "system", "content": "say"},
    USER,
    {"role": "assistant", "content": "a word"},
    {"role": "user", "content": "ab"},
]


def pair_row(prompt, response):
    return SftRow([{"role": "user", "content": prompt}], response, "rows.jsonl, line 1")


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
    """Defect 4: one end of text, within the loss."""
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


@pytest.mark.parametrize("prompt", ["a", "a </s>"])
def test_a_tokenizer_that_closes_every_text_leaves_a_prompt_open(prompt):
    tokenizer = sentence_piece()
    expected = Renderer(tokenizer, "A: {prompt} B:").render(pair_row(prompt, "ba"))
    closing = processors.TemplateProcessing(
        single="<s> $A </s>",
        special_tokens=[("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)],
    )
    tokenizer.backend_tokenizer.post_processor = closing
    assert tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id
    assert Renderer(tokenizer, "A: {prompt} B:").render(pair_row(prompt, "ba")) == expected


def test_a_prompt_may_hold_the_words_of_the_template():
    tokenizer = byte_level()
    prompt_ids, _ = Renderer(tokenizer, "{prompt}:").render(pair_row("{prompt}", "b"))
    assert text_of(tokenizer, prompt_ids) == "{prompt}:"


@pytest.mark.parametrize("tokenizer", [byte_level, sentence_piece])
def test_nothing_after_the_end_of_a_zephyr_turn_is_trained_on(tokenizer):
    """Defect 4: the template's line break after the end of text is not a target."""
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


def test_a_token_that_is_not_special_ends_no_turn():
    tokenizer = byte_level(chat_template=CHATML.replace("<|im_end|>", "</answer><|im_end|>"))
    tokenizer.add_tokens(["</answer>"])
    _, response_ids = Renderer(tokenizer, None).render(pair_row("a b", "ba"))
    assert tokenizer.decode(response_ids) == "ba</answer><|im_end|>"


def test_a_chat_template_without_an_end_gets_the_end_of_text():
    tokenizer = byte_level(eos="<|endoftext|>", chat_template=WITHOUT_END)
    _, response_ids = Renderer(tokenizer, None).render(pair_row("a b", "ba"))
    assert tokenizer.decode(response_ids) == "ba\n<|endoftext|>"


def test_a_given_template_ends_with_the_end_of_text_whatever_the_chat_template():
    tokenizer = byte_level(eos="<|endoftext|>", chat_template=CHATML)
    assert Renderer(tokenizer, "{prompt}").stop_id == tokenizer.eos_token_id


# A template of GLM's kind: the token that begins a turn ends the one before.
BEGINS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_turn_ends_with_the_beginning_of_the_next_where_the_model_says_so():
    tokenizer = byte_level(eos="<|endoftext|>", chat_template=BEGINS)
    begins = tokenizer.convert_tokens_to_ids("<|im_start|>")
    ends = (tokenizer.eos_token_id, begins)
    assert Renderer(tokenizer, None, ends=ends).stop_id == begins
    assert Renderer(tokenizer, None, ends=ends[:1]).stop_id == tokenizer.eos_token_id
    assert Renderer(tokenizer, None).stop_id == tokenizer.eos_token_id


def test_a_template_has_the_day_of_the_configuration_not_that_of_the_run():
    dated = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }} {% endif %}" + CHATML
    tokenizer = byte_level(chat_template=dated)
    renderer = Renderer(tokenizer, None)
    prompt_ids, _ = renderer.render(pair_row("a", "b"))
    assert tokenizer.decode(prompt_ids).startswith("26 Jul 2024 <|im_start|>user")
    renderer = Renderer(tokenizer, None, today=date(1999, 12, 31))
    prompt_ids, _ = renderer.render(pair_row("a", "b"))
    assert tokenizer.decode(prompt_ids).startswith("31 Dec 1999 <|im_start|>user")
    assert renderer.depends_on_date
    assert not Renderer(byte_level(chat_template=CHATML), None).depends_on_date


@pytest.mark.parametrize(
    ("clock", "written"),
    [
        ("{% set form = '%Y-%m-%d' %}{{ strftime_now(form) }}", "1999-12-01"),
        ("{% set now = strftime_now %}{{ now('%-d %B %y, 100%%') }}", "1 December 99, 100%"),
        ("{% macro day(f) %}{{ strftime_now(f) }}{% endmacro %}{{ day('%A') }}", "Wednesday"),
    ],
)
def test_the_day_is_pinned_however_a_template_asks_for_it(clock, written):
    tokenizer = byte_level(chat_template=f"{clock} {CHATML}")
    renderer = Renderer(tokenizer, None, today=date(1999, 12, 1))
    prompt_ids, _ = renderer.render(pair_row("a", "b"))
    assert tokenizer.decode(prompt_ids).startswith(f"{written} <|im_start|>user")
    assert renderer.depends_on_date


def test_arguments_reach_the_template():
    tokenizer = byte_level(chat_template="{{ mood }}" + CHATML)
    renderer = Renderer(tokenizer, None, arguments={"mood": "glad"})
    prompt_ids, _ = renderer.render(pair_row("a", "b"))
    assert tokenizer.decode(prompt_ids).startswith("glad<|im_start|>user")


def test_only_the_last_assistant_turn_of_a_chat_is_the_response():
    """Defects 6 and 7: neither system, user nor earlier assistant turns are in the loss."""
    tokenizer = byte_level(eos="</s>", chat_template=ZEPHYR)
    prompt_ids, response_ids = Renderer(tokenizer, None).render(SftRow(CHAT, "ba", "line 1"))
    assert tokenizer.decode(prompt_ids) == (
        "<|system|>\nsay</s>\n<|user|>\na b</s>\n<|assistant|>\na word</s>\n"
        "<|user|>\nab</s>\n<|assistant|>\n"
    )
    assert tokenizer.decode(response_ids) == "ba</s>"


def test_a_tokenizer_without_end_of_text_is_refused():
    with pytest.raises(UserError, match="no end-of-text token"):
        Renderer(byte_level(eos=None), "{prompt}")


def test_neither_chat_template_nor_template_is_refused():
    with pytest.raises(
        UserError, match=r"set template to a name.*\(spin-official, tspin, zephyr\)"
    ):
        Renderer(byte_level(), None)


@pytest.mark.parametrize("messages", [CHAT[:2], CHAT[1:]])
def test_a_plain_template_refuses_system_and_several_turns_by_line(messages):
    renderer = Renderer(byte_level(), "{prompt}")
    with pytest.raises(UserError, match="line 4: a plain template holds a single user turn"):
        renderer.render(SftRow(messages, "ba", "rows.jsonl, line 4"))


def test_a_row_that_its_chat_template_refuses_is_named():
    strict = CHATML + "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    renderer = Renderer(byte_level(chat_template=strict), None)
    with pytest.raises(UserError, match="line 4: the chat template refuses this row: no"):
        renderer.render(SftRow(CHAT[:2], "ba", "rows.jsonl, line 4"))


def test_a_chat_template_that_rewrites_its_generation_prompt_is_refused():
    changing = CHATML + "{% if add_generation_prompt %}<think>{% endif %}"
    with pytest.raises(UserError, match="does not continue its own generation prompt"):
        Renderer(byte_level(chat_template=changing), None)


# Named templates


def decoded(tokenizer, template, row):
    prompt_ids, response_ids = Renderer(tokenizer, template).render(row)
    return tokenizer.decode(prompt_ids), tokenizer.decode(response_ids)


@pytest.mark.parametrize("name", ["spin-official", "tspin"])
def test_the_official_prompt_is_that_of_the_generation_script(name):
    assert decoded(byte_level(), name, pair_row("a b", "ba")) == (
        "### Instruction: a b\n\n### Response: ",
        "ba<|endoftext|>",
    )


@pytest.mark.parametrize("eos", ["</s>", "<|endoftext|>"])
def test_zephyrs_chat_template_works_with_any_tokenizer(eos):
    """A turn ends with the tokenizer's own end of text; without a system turn it is empty."""
    tokenizer = byte_level(eos=eos, chat_template=CHATML)
    assert decoded(tokenizer, "zephyr", pair_row("a b", "ba")) == (
        f"<|system|>\n{eos}\n<|user|>\na b{eos}\n<|assistant|>\n",
        f"ba{eos}",
    )
    assert decoded(tokenizer, "zephyr", SftRow(CHAT, "ba", "line 1")) == (
        f"<|system|>\nsay{eos}\n<|user|>\na b{eos}\n<|assistant|>\na word{eos}\n"
        f"<|user|>\nab{eos}\n<|assistant|>\n",
        f"ba{eos}",
    )
    assert Renderer(tokenizer, "zephyr").stop_id == tokenizer.eos_token_id


def test_no_template_is_made_for_one_model():
    """Defect 8: a turn's beginning comes from the chat template, whichever it is."""
    for template in (CHATML, WITHOUT_END, ZEPHYR):
        tokenizer = byte_level(chat_template=template)
        prompt, response = decoded(tokenizer, None, SftRow(CHAT, "ba", "line 1"))
        assert prompt == tokenizer.apply_chat_template(
            CHAT, tokenize=False, add_generation_prompt=True
        )
        assert response.startswith("ba")


@pytest.mark.parametrize("template", [None, "zephyr", "spin-official", "A: {prompt} B: "])
@pytest.mark.parametrize("tokenizer", [byte_level, sentence_piece])
def test_what_is_sampled_from_is_what_is_trained_on(tokenizer, template):
    """Defect 9: real, given and sampled responses stand behind one prompt, token for token."""
    renderer = Renderer(tokenizer(chat_template=CHATML), template)
    row = SftRow([USER], "ba", "line 1", given="ba")
    prompt_ids, response_ids = renderer.render(row)
    assert renderer.render_given(row) == response_ids
    assert renderer.render(pair_row("a b", "a word"))[0] == prompt_ids
    assert response_ids[-1] == renderer.stop_id


def test_an_empty_given_response_is_the_end_alone():
    """A model may have said nothing; a person who did is a mistake in the data."""
    renderer = Renderer(byte_level(), "{prompt}\n")
    assert renderer.render_given(SftRow([USER], "ba", "line 1", given="")) == [renderer.stop_id]
    with pytest.raises(UserError, match="line 1: prompt or response renders to no tokens"):
        renderer.render(SftRow([USER], "", "line 1"))


# Special tokens written out


@pytest.mark.parametrize("template", [None, "zephyr", "<s>A: {prompt} B: "])
def test_a_special_token_written_out_in_a_row_is_text(template):
    tokenizer = byte_level(eos="</s>", chat_template=ZEPHYR)
    renderer = Renderer(tokenizer, template)
    row = pair_row("a </s> b", "b </s> a <|im_end|>")
    prompt_ids, response_ids = renderer.render(row)
    bare_prompt_ids, _ = renderer.render(pair_row("a b", "ba"))
    special = set(tokenizer.all_special_ids)
    count = [sum(i in special for i in ids) for ids in (prompt_ids, bare_prompt_ids)]
    assert count[0] == count[1]
    assert response_ids.index(renderer.stop_id) == len(response_ids) - 1
    assert not special & set(response_ids[:-1])
    assert tokenizer.decode(response_ids) == "b </s> a <|im_end|></s>"
    assert "a </s> b" in tokenizer.decode(prompt_ids)


@given(prompt=TEXTS, response=TEXTS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_start_of_text_stands_before_a_marked_prompt_as_before_any(name, prompt, response):
    renderer = Renderer(TOKENIZERS[name], "A: {prompt} B:")
    plain, _ = renderer.render(pair_row(prompt, response))
    marked, _ = renderer.render(pair_row(f"{prompt}</s>", response))
    assert (plain[0] == TOKENIZERS[name].bos_token_id) == (
        marked[0] == TOKENIZERS[name].bos_token_id
    )


@pytest.mark.parametrize("text", ["<s>[INST] {prompt} [/INST]", "<s>{prompt}", "Q: {prompt} A:"])
@pytest.mark.parametrize("prompt", ["q", "<s>q"])
def test_a_prompt_begins_with_its_beginning_of_text_once(text, prompt):
    tokenizer = sentence_piece()
    begin = tokenizer.bos_token_id
    ids, _ = Renderer(tokenizer, text).render(pair_row(prompt, "a"))
    assert (ids[0], ids.count(begin)) == (begin, 1)


def test_an_argument_that_a_chat_template_does_not_use_is_refused():
    tokenizer = byte_level(chat_template=CHATML + "{{ '' if enable_thinking else '' }}")
    Renderer(tokenizer, None, arguments={"enable_thinking": False})
    with pytest.raises(UserError, match="does not use enable_thinkng; correct the name"):
        Renderer(tokenizer, None, arguments={"enable_thinkng": False})
