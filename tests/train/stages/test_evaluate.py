import math
from dataclasses import replace

import pytest
import torch

from spin_theory.calibration import beta_of_margins
from spin_theory.meter import convergence_meter
from spin_train.data.records import Record, Response
from spin_train.run.tables import results_table
from spin_train.stages.evaluate import FEWEST_FOR_ERRORS, held_out_sums, summarise
from spin_train.stages.held import Whole
from spin_train.training.objective import Objective, sft_objective
from tests.train.models import VOCABULARY, tiny_model, uniform_model

TOKEN = math.log(VOCABULARY)  # nats per token under the uniform model


def spin_record(*, real_tokens=2, generated_tokens=3, stopped=True):
    """Stored opponent log-probs: real half a nat below the uniform policy, generated 1/4 above."""
    real = Response("real", [3] * real_tokens, "stop", None, -real_tokens * TOKEN - 0.5)
    reason = "stop" if stopped else "length"
    ids = [4] * generated_tokens
    generated = Response("generated", ids, reason, 0, -generated_tokens * TOKEN + 0.25)
    return Record(0, [1], [real, generated])


def sums(records, objective, *, model=None, tokens=20):
    held = Whole(lambda: model or uniform_model(), lambda *_: None)
    return held_out_sums(held.logps, records, objective, tokens=tokens)


def test_spin_numbers_by_hand():
    # Log-ratios: real -2 TOKEN - (-2 TOKEN - 0.5) = 0.5; generated -0.25; margin 0.75;
    # correlation loss at beta 2: 1 - 2 * 0.75 = -0.5.
    objective = Objective("spin", loss_type="correlation", beta=2.0)
    values = sums([spin_record()], objective)
    expected = {
        "loss": -0.5,
        "loss_above_opponent": -1.5,  # the opponent's own is 1
        "real_logps": -2 * TOKEN,
        "generated_logps": -3 * TOKEN,
        "margin": 0.75,
        "real_log_ratio": 0.5,
        "generated_log_ratio": -0.25,
        "real_tokens": 2.0,
        "generated_tokens": 3.0,
        "generated_stopped": 1.0,
    }
    assert values.keys() == {*expected, "prompt", "prompt_id"}
    for name, value in expected.items():
        assert values[name] == [pytest.approx(value, abs=1e-12)]


def test_tspin_margin_is_the_policys_own_advantage():
    # Uniform policy, 2 real and 3 generated tokens: -2 TOKEN + 3 TOKEN = TOKEN, no opponent in it.
    record = spin_record()
    proto = Response("proto", [5], "stop", 0, 0.0)
    triplet = Record(0, [1], [*record.responses, proto])
    values = sums([triplet], Objective("tspin", history_weight=0.1))
    assert values["margin"] == [pytest.approx(TOKEN, abs=1e-12)]
    # The opponent's KL is of interest all the same.
    assert values["generated_log_ratio"] == [pytest.approx(-0.25, abs=1e-12)]


def test_rows_that_nobody_scored_can_be_judged_by_their_nll():
    row = Record(0, [1], [Response("real", [3, 4], "stop")])
    values = sums([row], sft_objective())
    assert values.keys() == {"loss", "prompt", "prompt_id", "real_logps", "real_tokens"}
    assert values["loss"] == [pytest.approx(2 * TOKEN, abs=1e-12)]


def test_every_sample_of_a_prompt_has_its_row_of_the_data():
    one, other = spin_record(), replace(spin_record(), prompt_id=7)
    twice = replace(one, responses=[*one.responses, one.responses[1]])
    assert sums([other, twice], Objective("spin"))["prompt_id"] == [7, 0, 0]
    assert sums([other, twice], sft_objective())["prompt_id"] == [7, 0, 0]


@pytest.mark.parametrize("tokens", [1, 13, 1000])
def test_numbers_do_not_depend_on_how_many_tokens_go_at_once(tokens):
    records = [spin_record(real_tokens=n, generated_tokens=7 - n) for n in range(1, 6)]
    model = tiny_model("gpt2")
    got = sums(records, Objective("spin"), model=model, tokens=tokens)
    alone = [sums([record], Objective("spin"), model=model) for record in records]
    for name, column in got.items():
        expected = [value for values in alone for value in values[name]]
        torch.testing.assert_close(torch.tensor(column), torch.tensor(expected))


def test_a_cut_sample_counts_as_not_stopped():
    records = [spin_record(stopped=True), spin_record(stopped=False)]
    assert sums(records, Objective("spin"))["generated_stopped"] == [1.0, 0.0]


def held_out(margins, **changes):
    """Values as `held_out_sums` gives them, a prompt each."""
    count = len(margins)
    return {
        "loss": [1.0] * count,
        "margin": margins,
        "real_log_ratio": [margin - 0.5 for margin in margins],
        "generated_log_ratio": [-0.5] * count,
        "real_logps": [-1.0] * count,
        "real_tokens": [1.0] * count,
        "generated_stopped": [1.0] * count,
        "prompt": list(range(count)),
    } | changes


def test_summary_by_hand():
    # Margins -1, 1, 3 four times: mean 1; the squares of the deviations sum to 4 * 8 = 32, so the
    # variance is 32 / 11 and the standard error sqrt(32 / 11 / 12). Two of three are positive.
    # Real responses: 12 nats on 2 + 1 + 3 = 6 tokens. KL(p_t||p_{t+1}): minus the mean of the
    # log-ratios -3, 0, 1.5 is 0.5; squares of deviations 4 * (2.5^2 + 0.5^2 + 2^2) = 42.
    summary = summarise(
        held_out(
            [-1.0, 1.0, 3.0] * 4,
            real_logps=[-5.0, -3.0, -4.0] * 4,
            real_tokens=[2.0, 1.0, 3.0] * 4,
            generated_log_ratio=[-3.0, 0.0, 1.5] * 4,
        )
    )
    assert summary["examples"] == 12
    assert summary["margin"] == 1.0
    assert summary["margin_standard_error"] == pytest.approx(math.sqrt(32 / 11 / 12))
    assert summary["accuracy"] == pytest.approx(2 / 3)
    assert summary["real_nll_per_token"] == 2.0
    assert summary["opponent_kl"] == 0.5
    assert summary["opponent_kl_standard_error"] == pytest.approx(math.sqrt(42 / 11 / 12))
    assert summary["notes"] == []


@pytest.mark.parametrize("count", [1, 4, FEWEST_FOR_ERRORS - 1])
def test_too_few_prompts_say_so_and_give_no_standard_error(count):
    """Four equal margins gave a meter with an error of 0.0."""
    summary = summarise(held_out([1.0] * count))
    errors = [value for name, value in summary.items() if name.endswith("_standard_error")]
    assert errors
    assert all(map(math.isnan, errors))
    assert f"{count} held-out prompts are too few for standard errors" in summary["notes"][-1]
    # The bound holds for any number of prompts.
    assert summary.get("meter_lower_bound", 0.0) == 0.0
    table = results_table("spin", {"p_1": summary}, metric="real_nll_per_token")
    assert list(table.columns[2].cells) == ["1.000"]
    assert "too few" in table.caption


def test_many_rows_of_few_prompts_are_few():
    summary = summarise(held_out([1.0] * 60, prompt=[number % 3 for number in range(60)]))
    assert math.isnan(summary["margin_standard_error"])
    assert "meter" not in summary


def test_the_meter_in_a_summary_is_that_of_the_margins():
    margins = torch.linspace(-1, 3, 60, dtype=torch.float64)
    summary = summarise(held_out(margins.tolist()))
    expected = convergence_meter(margins, prompts=torch.arange(60))
    assert summary["meter"] == expected.estimate > 0
    assert summary["meter_lower_bound"] == expected.lower_bound > 0
    assert summary["tv_lower_bound"] == expected.tv_lower_bound
    assert summary["meter_prompts"] == 30
    assert summary["meter_confidence"] == 0.95


def test_rows_of_one_prompt_count_as_one_in_the_meter():
    margins = torch.linspace(-1, 3, 60).tolist()
    numbers = [number // 2 for number in range(60)]
    assert summarise(held_out(margins, prompt=numbers))["meter_prompts"] == 15


def test_where_the_run_rests_is_kept():
    summary = summarise(held_out([1.0, 2.0]), temperature=0.7, resting="at p_data^0.7")
    assert summary["resting"] == "at p_data^0.7"
    assert "resting" not in summarise(held_out([1.0, 2.0]))


def test_samples_of_another_temperature_give_no_kl_and_say_so():
    summary = summarise(held_out([1.0, 2.0, 1.0, 2.0]), temperature=0.7)
    assert "opponent_kl" not in summary
    assert "meter" in summary
    assert "temperature 0.7, not from p_t" in summary["notes"][0]


def test_cut_samples_are_named_with_what_they_mean():
    summary = summarise(held_out([1.0, 2.0], generated_stopped=[1.0, 0.0]))
    note, _ = summary["notes"]
    assert note.startswith("50.0% of the opponent's samples were cut")


def test_equal_prompts_have_one_number_and_other_prompts_another():
    rows = [
        Record(row, prompt, [Response("real", [3], "stop")])
        for row, prompt in enumerate([[1], [1, 2], [12], [1]])
    ]
    first, second, third, fourth = sums(rows, sft_objective())["prompt"]
    assert first == fourth
    assert len({first, second, third}) == 3
    assert all(isinstance(number, int) for number in (first, second, third))  # no rounding


def test_a_margin_of_zero_is_no_hit():
    # The opponent judged against itself: every margin is 0, and it wins nothing by that.
    assert summarise(held_out([0.0]))["accuracy"] == 0.0


def test_the_log_ratios_show_their_beta():
    """Three of four pairs right and all margins 1: log 3 calibrates them, whatever the loss."""
    margins = [1.0, 1.0, 1.0, -1.0] * 4
    summary = summarise(held_out(margins))
    assert summary["effective_beta"] == pytest.approx(math.log(3))
    found = beta_of_margins(torch.tensor(margins, dtype=torch.float64))
    assert summary["effective_beta_standard_error"] == pytest.approx(found.standard_error)
    assert "effective_beta" not in summarise(held_out([1.0] * 16))  # no finite one
    assert "effective_beta" not in summarise(held_out(margins), temperature=0.7)
    assert "effective_beta" not in summarise(held_out(margins), given=True)
