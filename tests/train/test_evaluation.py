import math

import pytest
import torch

from spin_train.evaluation import held_out_sums, summarise
from spin_train.objective import Objective, sft_objective
from spin_train.records import Record, Response
from tests.train.models import VOCABULARY, tiny_model, uniform_model

TOKEN = math.log(VOCABULARY)  # nats a token under the uniform model


def spin_record(*, real_tokens=2, generated_tokens=3, stopped=True):
    """Stored opponent log-probs: real half a nat below the uniform policy, generated 1/4 above."""
    real = Response("real", [3] * real_tokens, "stop", None, -real_tokens * TOKEN - 0.5)
    reason = "stop" if stopped else "length"
    ids = [4] * generated_tokens
    generated = Response("generated", ids, reason, 0, -generated_tokens * TOKEN + 0.25)
    return Record(0, [1], [real, generated])


def sums(records, objective, *, model=None, tokens=20):
    return held_out_sums(model or uniform_model(), records, objective, tokens=tokens)


def test_spin_numbers_by_hand():
    # Log-ratios: real -2 TOKEN - (-2 TOKEN - 0.5) = 0.5; generated -0.25; margin 0.75;
    # correlation loss at beta 2: 1 - 2 * 0.75 = -0.5.
    objective = Objective("spin", loss_type="correlation", beta=2.0)
    values = sums([spin_record()], objective)
    expected = {
        "loss": -0.5,
        "real_logps": -2 * TOKEN,
        "generated_logps": -3 * TOKEN,
        "margin": 0.75,
        "real_log_ratio": 0.5,
        "real_tokens": 2.0,
        "generated_tokens": 3.0,
        "generated_stopped": 1.0,
    }
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        assert values[name] == [pytest.approx(value, abs=1e-12)]


def test_tspin_margin_is_the_policys_own_advantage():
    # Uniform policy, 2 real and 3 generated tokens: -2 TOKEN + 3 TOKEN = TOKEN, no opponent in it.
    record = spin_record()
    proto = Response("proto", [5], "stop", 0, 0.0)
    triplet = Record(0, [1], [*record.responses, proto])
    values = sums([triplet], Objective("tspin", history_weight=0.1))
    assert values["margin"] == [pytest.approx(TOKEN, abs=1e-12)]
    assert "real_log_ratio" not in values


def test_rows_that_nobody_scored_can_be_judged_by_their_nll():
    row = Record(0, [1], [Response("real", [3, 4], "stop")])
    values = sums([row], sft_objective())
    assert values.keys() == {"loss", "real_logps", "real_tokens"}
    assert values["loss"] == [pytest.approx(2 * TOKEN, abs=1e-12)]


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


def test_summary_by_hand():
    # Margins -1, 1, 3: mean 1, variance ((-2)^2 + 0 + 2^2) / 2 = 4, standard error 2 / sqrt(3);
    # two of three are positive. Real responses: 12 nats on 2 + 1 + 3 = 6 tokens.
    summary = summarise(
        {
            "loss": [1.0, 2.0, 3.0],
            "margin": [-1.0, 1.0, 3.0],
            "real_logps": [-5.0, -3.0, -4.0],
            "real_tokens": [2.0, 1.0, 3.0],
        }
    )
    assert summary["examples"] == 3
    assert summary["margin"] == 1.0
    assert summary["margin_standard_error"] == pytest.approx(2 / math.sqrt(3))
    assert summary["accuracy"] == pytest.approx(2 / 3)
    assert summary["real_nll_per_token"] == 2.0


def test_one_value_has_no_standard_error():
    summary = summarise({"loss": [1.0], "real_logps": [-1.0], "real_tokens": [1.0]})
    assert math.isnan(summary["loss_standard_error"])
    assert "accuracy" not in summary


def test_a_margin_of_zero_is_no_hit():
    # The opponent judged against itself: every margin is 0, and it wins nothing by that.
    values = {"loss": [0.0], "margin": [0.0], "real_logps": [-1.0], "real_tokens": [1.0]}
    assert summarise(values)["accuracy"] == 0.0
