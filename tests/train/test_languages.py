import hashlib
import json

import pytest

from spin_theory.languages import Agreement, MarkovChain, NoisyArithmetic, NoisySort
from spin_train import demo
from spin_train.languages import language_data

LANGUAGES = [
    NoisySort("abcd", 3, 0.7),
    MarkovChain("abcd", 5, 2),
    Agreement(1),
    NoisyArithmetic(2),
]


@pytest.mark.parametrize("language", LANGUAGES, ids=repr)
def test_any_language_becomes_rows_a_tokenizer_and_a_template(language):
    drawn = language_data(language, prompts=5, seed=3)
    assert len({row["prompt"] for row in drawn.rows}) == 5
    for row in drawn.rows:
        assert language.is_valid(row["prompt"], row["response"])
        ids = drawn.encode(row["response"])
        tokenized = drawn.tokenizer(row["response"], add_special_tokens=False)["input_ids"]
        assert ids == [*tokenized, drawn.tokenizer.eos_token_id]
        assert drawn.decode(ids[:-1]) == row["response"]
        rendered = drawn.template.format(prompt=row["prompt"])
        assert drawn.decode(drawn.tokenizer(rendered)["input_ids"]) == rendered


def test_the_demos_rows_are_those_that_its_numbers_come_from():
    """The hash is of the demo's rows.jsonl, written before there was a function for languages."""
    drawn = language_data(demo.LANGUAGE, prompts=demo.PROMPTS + demo.HELD_OUT, seed=demo.SEED)
    lines = "\n".join(json.dumps(row) for row in drawn.rows) + "\n"
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == "8e1dab1e5d07de52"


def test_a_symbol_that_ends_prompts_is_refused():
    with pytest.raises(ValueError, match="symbols must not hold '>'"):
        language_data(NoisySort("a>", 2, 1.0), prompts=1, seed=0)
