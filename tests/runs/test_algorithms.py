"""SPIN, T-SPIN, T-SPIN with a reference, and given pairs, each as a run."""

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from spin_train.model.logps import Group, response_logps
from tests.train.runs import (
    SHORT,
    losses,
    make_config,
    make_model,
    records_of,
    refused,
    succeed,
)

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Losses of a run of one process, and the folder of its config."""
    folder = tmp_path_factory.mktemp("alone")
    succeed("run", make_config(folder, **SHORT))
    return losses(folder / "run", "iter0"), folder


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_two_ranks_train_as_one_process_does(alone, tmp_path, zero_stage):
    alone, folder = alone
    out = tmp_path / "two"
    two = make_config(folder, **SHORT, output_dir=str(out), ranks=2, zero_stage=zero_stage)
    succeed("run", two)
    together = losses(out, "iter0")
    assert alone.keys() == together.keys()
    assert len(alone) == 7  # 52 rows in batches of 8
    assert max(abs(alone[step] - together[step]) for step in alone) < 1e-3
    assert abs(alone[7] - alone[1]) > 0.02  # it does train


def test_tspin_on_chat_rows_trains_on_triplets_whose_proto_is_the_first_opponents(tmp_path):
    end = "{{ '>' if m.role == 'user' else '<eos>' }}"
    chat = "{% for m in messages %}{{ m.content }}" + end + "{% endfor %}"
    config = make_config(tmp_path, algorithm="tspin", beta=1.0, template=None)
    (tmp_path / "model" / "chat_template.jinja").write_text(chat)
    rows = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    turns = [[("user", row["prompt"]), ("assistant", row["response"])] for row in rows]
    messages = [[{"role": role, "content": text} for role, text in pair] for pair in turns]
    lines = [json.dumps({"messages": pair}) for pair in messages]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    succeed("run", config)
    folder = tmp_path / "run"
    sampled = records_of(folder, "iter0/generations/*.parquet")
    first = {record.prompt_id: record.responses[0].ids for record in sampled}
    for record in records_of(folder / "iter1" / "scored", "train-*.parquet"):
        assert [response.role for response in record.responses] == ["real", "generated", "proto"]
        assert record.of_role("proto")[0].ids == first[record.prompt_id]
    assert AutoTokenizer.from_pretrained(folder / "iter1" / "policy").chat_template == chat
    assert len(losses(folder, "iter1")) == 7


def test_tspin_ref_subtracts_p_0_and_not_the_opponent(tmp_path):
    rules = {"algorithm": "tspin_ref", "beta": 1.0, "learning_rate": 1e-2, "control": True}
    succeed("run", make_config(tmp_path, **rules))
    folder = tmp_path / "run"
    records = records_of(folder / "iter1" / "scored", "train-*.parquet")
    responses = [response for record in records for response in record.responses]
    groups = [Group(r.prompt_ids, [s.ids for s in r.responses]) for r in records]
    for policy, stored in (("sft", "reference_logps"), ("iter0", "opponent_logps")):
        model = AutoModelForCausalLM.from_pretrained(folder / policy / "policy").eval()
        numbers = torch.tensor([getattr(response, stored) for response in responses])
        torch.testing.assert_close(
            response_logps(model, groups).detach(), numbers, rtol=1e-5, atol=1e-4
        )
    apart = [abs(response.reference_logps - response.opponent_logps) for response in responses]
    assert max(apart) > 0.1
    # No history yet, nothing learnt yet.
    assert losses(folder, "iter0")[1] == pytest.approx(math.log(2), abs=1e-4)
    # The control is SFT times beta |l'(0)| in iteration 0, and another factor from then on.
    lines = [json.loads(line) for line in metrics(folder / "control" / "iter0")]
    assert lines[0]["loss"] == pytest.approx(-0.5 * lines[0]["logps/real"], rel=1e-4)
    lines = [json.loads(line) for line in metrics(folder / "control" / "iter1")]
    factor = lines[0]["loss"] / -lines[0]["logps/real"]
    assert 0 < factor < 1
    assert abs(factor - 0.5) > 1e-3


def metrics(stage):
    return (stage / "metrics.jsonl").read_text().splitlines()


@pytest.mark.parametrize(
    ("rules", "start"),
    [
        ({"algorithm": "space", "space_mu": 3.0, "beta": 1.0}, math.log(4) + 3 * math.log(4 / 3)),
        ({"algorithm": "gsil", "loss_type": "brier", "beta": 1.0, "sft_weight": 0.1}, 0.5),
    ],
)
def test_space_and_gsil_are_trained_next_to_their_control(tmp_path, rules, start):
    factor = 0.75 if rules["algorithm"] == "space" else 0.25 + 0.1
    succeed("run", make_config(tmp_path, **SHORT, **rules, control=True))
    folder = tmp_path / "run"
    first, *_, last = (json.loads(line) for line in metrics(folder / "iter0"))
    weight = rules.get("sft_weight", 0.0)
    assert first["loss"] + weight * first["logps/real"] == pytest.approx(start, abs=1e-4)
    assert first.get("loss/sft", 0.0) == pytest.approx(-weight * first["logps/real"], rel=1e-5)
    assert last["rewards/margin"] != 0
    control = json.loads(metrics(folder / "control" / "iter0")[0])
    assert control["loss"] == pytest.approx(-factor * control["logps/real"], rel=1e-4)


def test_given_pairs_are_trained_on_as_dpo_does(tmp_path):
    config = make_config(tmp_path, **SHORT, generation={"engine": "given"}, beta=0.3)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    official = [
        {
            side: [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": answer},
            ]
            for side, answer in (("real", row["response"]), ("generated", row["prompt"][::-1]))
        }
        for row in rows
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, official)))
    succeed("run", config)
    folder = tmp_path / "run"
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    for record in records_of(folder / "iter0" / "scored", "train-*.parquet"):
        real, generated = record.responses
        prompt = tokenizer.convert_ids_to_tokens(record.prompt_ids)
        answer = tokenizer.convert_ids_to_tokens(generated.ids)
        assert answer == [*prompt[:-1][::-1], "<eos>"]
        group = Group(record.prompt_ids, [real.ids, generated.ids])
        stored = torch.tensor([real.opponent_logps, generated.opponent_logps])
        logps = response_logps(reference, [group]).detach()
        torch.testing.assert_close(logps, stored, rtol=0, atol=1e-4)
    assert losses(folder, "iter0")[1] == pytest.approx(math.log(2), abs=1e-4)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, [*official[:3], *rows[3:]])))
    other = {"generation": {"engine": "given"}, "output_dir": str(tmp_path / "other")}
    line = refused("run", make_config(tmp_path, **SHORT, **other))
    assert f"given, but {len(rows) - 3} rows of" in line
    assert not (tmp_path / "other" / "initial").exists()  # before anything is evaluated


def test_given_pairs_are_of_one_iteration(tmp_path):
    config = make_config(tmp_path, generation={"engine": "given"})
    assert "iterations: 1" in refused("run", config)


def test_dropout_is_off_in_scoring_and_training(tmp_path):
    config = make_config(tmp_path, **SHORT)
    make_model(tmp_path / "model", dropout=0.5)
    succeed("run", config)  # with dropout on, the first losses would not be log 2
    assert losses(tmp_path / "run", "iter0")[1] == pytest.approx(0.6931472, abs=1e-5)
