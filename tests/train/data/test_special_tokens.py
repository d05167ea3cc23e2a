import re
from importlib.metadata import version

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from packaging.version import Version
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from spin_train.data.formats import SftRow
from spin_train.data.rendering import Renderer
from spin_train.data.special_tokens import SpecialTokens
from spin_train.errors import UserError
from tests.train.tokenizers import CHATML, SPECIAL, byte_level, sentence_piece

TOKENIZERS = {
    "byte_level": byte_level(),
    "sentence_piece": sentence_piece(),
    "bytes": ByT5Tokenizer(),
}
PIECES = ["a", "b ", " a word", "\n", "<s>", "</s>", "<|im_end|>", "<pad>", "<", ">"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)


@example(text="</s>")
@example(text="a</s></s>b")
@given(text=TEXTS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_marked_text_has_no_special_token_and_reads_the_same(name, text):
    tokenizer = TOKENIZERS[name]
    special = SpecialTokens(tokenizer)
    ids = special.encode(special.mark(text))
    assert not special.ids & (set(ids) - {tokenizer.unk_token_id})
    if name != "sentence_piece":  # which has no slash
        assert tokenizer.decode(ids) == text


@given(text=TEXTS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_text_without_marks_is_encoded_as_by_the_tokenizer(name, text):
    tokenizer = TOKENIZERS[name]
    expected = tokenizer.encode(text, add_special_tokens=False)
    assert SpecialTokens(tokenizer).encode(text) == expected


@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_the_template_writes_around_a_marked_token_stays_special(name):
    tokenizer = TOKENIZERS[name]
    special = SpecialTokens(tokenizer)
    ids = special.encode(f"</s>{special.mark('</s>')}</s>")
    end = tokenizer.convert_tokens_to_ids("</s>")
    assert ids[0] == ids[-1] == end
    assert ids.count(end) == 2
    assert len(ids) > 3


@given(text=TEXTS)
@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.skipif(
    Version(version("transformers")) < Version("5.23"),
    reason="transformers has this since 5.20, so called since 5.23",
)
def test_ids_are_those_of_transformers_own(name, text):
    tokenizer = TOKENIZERS[name]
    special = SpecialTokens(tokenizer)
    written = re.compile("|".join(map(re.escape, tokenizer.convert_ids_to_tokens(special.ids))))
    theirs = chat_template_utils.mark_control_tokens(text, written)
    ids = chat_template_utils.encode_marked_chat(tokenizer, f"A: {theirs}</s>")
    assert special.encode(f"A: {special.mark(text)}</s>") == ids


def test_a_mark_that_a_template_cuts_off_leaves_no_trace():
    tokenizer = byte_level(chat_template=CHATML.replace("m.content", "m.content[:3]"))
    row = SftRow([{"role": "user", "content": "a </s>"}], "b", "line 1")
    prompt_ids, _ = Renderer(tokenizer, None).render(row)
    assert tokenizer.decode(prompt_ids) == "<|im_start|>user\na <|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("mark", ["\ufdd0", "\ufdd1"])
def test_a_row_that_holds_a_mark_is_refused_by_line(mark):
    row = SftRow([{"role": "user", "content": f"a{mark}"}], "b", "rows.jsonl, line 4")
    with pytest.raises(UserError, match=r"rows.jsonl, line 4: the text holds U\+FDD[01]"):
        Renderer(byte_level(), "{prompt} ").render(row)


def test_a_special_token_that_has_no_other_ids_is_refused_by_line():
    words = Tokenizer(models.WordLevel({"a": 0, "</s>": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", unk_token="?")
    row = SftRow([{"role": "user", "content": "a </s>"}], "a", "rows.jsonl, line 4")
    with pytest.raises(UserError, match="line 4: the text holds the special token '</s>'"):
        Renderer(tokenizer, "{prompt} ").render(row)


def test_the_longest_special_token_is_marked_whole():
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<s>a"]})
    special = SpecialTokens(tokenizer)
    assert not special.ids & set(special.encode(special.mark("<s>a")))
    assert special.mark("<s>a") == "\ufdd0<s>a\ufdd1"


def test_every_special_token_is_known():
    assert SpecialTokens(byte_level()).ids >= set(byte_level().convert_tokens_to_ids(SPECIAL[1:]))
