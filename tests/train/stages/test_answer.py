"""Greedy answers: those of transformers' own decoding, and counts of right ones by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from spin_train.config.files import parse_config
from spin_train.data.records import Record, Response
from spin_train.errors import UserError
from spin_train.model.loading import load_model
from spin_train.sampling.decoding import draw
from spin_train.sampling.engine import SamplingSettings
from spin_train.stages.answer import final_answer, greedy_answers, questions, summarise_answers
from tests.train.runs import make_model

STOP = 0
GSM8K = "#### *(.+)"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers") / "model"
    make_model(folder)
    return folder


@pytest.fixture
def config(model_folder):
    def make(**answers):
        return parse_config(
            {
                "model": str(model_folder),
                "data": {"path": "rows.jsonl"},
                "output_dir": "run",
                "generation": {"max_new_tokens": 6},
                "evaluation": {"answers": answers},
            }
        )

    return make


def settings(most=10):
    return SamplingSettings((STOP,), max_new_tokens=most, temperature=0.0, batch_size=3)


def test_greedy_answers_are_those_of_generate_without_sampling(model_folder):
    generator = torch.Generator().manual_seed(3)
    prompts = [
        torch.randint(1, 9, (length,), generator=generator).tolist() for length in (1, 3, 4, 6, 9)
    ]
    records = [Record(number, ids, []) for number, ids in enumerate(prompts)]
    found = greedy_answers(load_model(model_folder, dtype="float32").eval(), records, settings())
    plain = AutoModelForCausalLM.from_pretrained(model_folder)
    for record in found:
        ids = torch.tensor([record.prompt_ids])
        wanted = plain.generate(ids, do_sample=False, max_new_tokens=10, eos_token_id=STOP)
        (response,) = record.of_role("greedy")
        assert response.ids == wanted[0, len(record.prompt_ids) :].tolist()
        ended = response.ids[-1] == STOP
        assert response.finish_reason == ("stop" if ended else "length")


@given(
    logits=st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=9),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_at_temperature_0_the_likeliest_token_comes_whatever_is_drawn(logits, uniform):
    row = torch.tensor([logits])
    tokens, logps = draw(row, torch.tensor([uniform], dtype=torch.float64), 0.0)
    assert tokens.item() == logits.index(max(logits))
    wanted = row.double().log_softmax(-1).max()
    assert logps.dtype == torch.float64
    assert torch.allclose(logps, wanted, rtol=0, atol=1e-12)  # a log-sum of at most 9 terms


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("5 * 3 = 15\n#### 15", "15"),
        ("#### 3, no:\n#### $1,250.", "1250"),
        ("#### 7 \n", "7"),
        ("####", None),
        ("so it is 15", None),
    ],
)
def test_the_final_answer_is_the_last_match_without_what_only_decorates(text, wanted):
    assert final_answer(text, GSM8K) == wanted


def records_of(folder, texts, role):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [
        Record(number, [number + 1], [Response(role, [*tokenizer.encode(text), STOP], "stop")])
        for number, text in enumerate(texts)
    ]


def test_right_answers_are_counted_with_wilsons_interval(model_folder, config):
    """1 of 4: the interval is (1 + z²/2)/(4 + z²) ± z sqrt(1·3/4 + z²/4)/(4 + z²)."""
    human = records_of(model_folder, ["abc", "abd", "abe", "abf"], "real")
    answers = records_of(model_folder, ["ac", "ag", "ccccc", "f"], "greedy")
    answers[2].responses[0] = Response("greedy", [4, 4, 4, 4, 4, 4], "length")
    # Symbols are decoded with spaces. "bbbbbb" and "f" have no c to h behind an a or b.
    counted = summarise_answers(answers, human, config(final="[ab] ([c-h])"))
    assert (counted["exact_match"], counted["with_final"]) == (0.25, 0.5)
    z = 1.959963984540054
    centre, width = (1 + z**2 / 2) / (4 + z**2), z * (1 * 3 / 4 + z**2 / 4) ** 0.5 / (4 + z**2)
    assert counted["exact_match_low"] == pytest.approx(centre - width, abs=1e-9)
    assert counted["exact_match_high"] == pytest.approx(centre + width, abs=1e-9)
    assert (counted["prompts"], counted["stopped"]) == (4, 0.75)
    assert counted["tokens"] == (3 + 3 + 6 + 2) / 4
    assert counted["notes"] == ["1 of 4 greedy answers were cut at generation.max_new_tokens=6"]


def test_without_a_pattern_nothing_is_compared(model_folder, config):
    answers = records_of(model_folder, ["ac"], "greedy")
    counted = summarise_answers(answers, records_of(model_folder, ["ac"], "real"), config())
    assert not [name for name in counted if name.startswith(("exact", "final"))]


def test_human_responses_without_a_final_answer_are_named_and_not_compared(model_folder, config):
    answers = records_of(model_folder, ["ac", "ac"], "greedy")
    human = records_of(model_folder, ["ac", "hh"], "real")
    counted = summarise_answers(answers, human, config(final="[ab] ([c-h])"))
    assert (counted["compared"], counted["exact_match"], counted["prompts"]) == (1, 1, 2)
    assert counted["notes"][-1].startswith("1 of 2 human responses have no final answer")
    assert counted["notes"][-1].endswith("row 2 of the data the first")
    counted = summarise_answers(answers, human, config(final="(never)"))
    assert "exact_match" not in counted
    assert counted["notes"][-1].startswith("2 of 2 human responses")


def test_each_prompt_is_asked_once_and_no_more_than_wanted(config):
    records = [Record(number, [number % 3], []) for number in range(7)]
    assert [record.prompt_id for record in questions(records, config())] == [0, 1, 2]
    assert [record.prompt_id for record in questions(records, config(prompts=2))] == [0, 1]


@pytest.mark.parametrize(("final", "why"), [("#### .+", "needs a group"), ("(", "not a regular")])
def test_a_pattern_that_can_find_nothing_is_refused_at_once(config, final, why):
    with pytest.raises(UserError, match=f"evaluation.answers.*{why}"):
        config(final=final)
