"""Runs with LoRA: the opponent is never the bare base."""

import json

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from spin_train.config.files import parse_config
from spin_train.data.records import read_records, write_records
from spin_train.model.adapters import is_adapter
from spin_train.model.loading import load_policy
from spin_train.model.logps import Group, response_logps
from tests.train.runs import logs_of, make_config, run, succeed

pytestmark = pytest.mark.process


@pytest.mark.parametrize(("between", "zero_stage"), [("merge", 3), ("stack", 2)])
def test_the_opponent_of_the_second_iteration_is_all_that_was_learnt(tmp_path, between, zero_stage):
    settings = {"zero_stage": zero_stage, "ranks": 2, "learning_rate": 0.05, "beta": 2.0}
    config = make_config(tmp_path, adapter={"rank": 4, "between": between}, **settings)
    succeed("run", config)
    policy = tmp_path / "run" / "iter0" / "policy"
    assert is_adapter(policy) == (between == "stack")
    if between == "stack":  # by peft alone
        opponent = peft.AutoPeftModelForCausalLM.from_pretrained(policy).merge_and_unload()
    else:
        opponent = AutoModelForCausalLM.from_pretrained(policy)
    bare = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    shards = sorted((tmp_path / "run" / "iter1" / "scored").glob("train-*.parquet"))
    records = [record for shard in shards for record in read_records(shard)][:20]
    groups = [
        Group(list(record.prompt_ids), [list(response.ids) for response in record.responses])
        for record in records
    ]
    stored = torch.tensor(
        [response.opponent_logps for record in records for response in record.responses]
    )
    torch.testing.assert_close(logps_of(opponent, groups), stored, rtol=1e-5, atol=1e-4)
    assert (logps_of(bare, groups) - stored).abs().max() > 0.1


def test_scores_of_the_bare_base_are_refused_at_step_zero(tmp_path):
    """Defect 14 as others have it: after the first stage the opponent loses its adapter."""
    keys = {"adapter": {"rank": 4, "between": "stack"}, "learning_rate": 0.05}
    config = make_config(tmp_path, iterations=1, **keys)
    succeed("run", config)
    scored = tmp_path / "run" / "iter0" / "scored"
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert "iter0/train" in manifest["stages"]
    bare = load_policy(str(tmp_path / "model"), parse_config(bare_config(tmp_path)))
    for shard in scored.glob("train-*.parquet"):
        rescored = []
        for record in read_records(shard):
            group = Group(list(record.prompt_ids), [list(r.ids) for r in record.responses])
            rescored.append(record.with_logps(logps_of(bare, [group]).tolist()))
        write_records(shard, rescored)
        manifest["stages"]["iter0/score"]["files"][f"iter0/scored/{shard.name}"]["bytes"] = (
            shard.stat().st_size
        )
    for stage in ("iter0/train", "iter0/evaluate"):
        del manifest["stages"][stage]
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    code, _, err = run("run", config)
    assert code == 2, err + logs_of(("run", config))
    assert "step-0 check" in err


def logps_of(model, groups):
    return response_logps(model.eval(), groups).detach()


def bare_config(folder):
    return {"model": str(folder / "model"), "data": {"path": "d"}, "output_dir": "o"}
