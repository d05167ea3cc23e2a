"""Runs that share a policy out over two ranks where it does not train."""

import signal
import time

import pytest
import torch
from transformers import AutoModelForCausalLM

from spin_train.system.files import read_json
from tests.train.runs import make_config, records_of, refused, start, succeed, weights

pytestmark = pytest.mark.process

# Three roles, so that opponent and reference score. Prompts are few to a pass, and 53 training and
# 7 held-out rows divide unevenly over ranks and passes.
SETTINGS = {
    "algorithm": "tspin_ref",
    "iterations": 1,
    "sft": None,
    "ranks": 2,
    "zero_stage": 3,
    "data": {"held_out": 7},
    "generation": {"max_new_tokens": 3},
    "training": {"micro_batch_tokens": 16, "micro_batch_size": None, "batch_size": 16},
    "evaluation": {"samples": True, "answers": {}},
}


def scores(run):
    """Every stored log-prob of a run, by its place in it."""
    found = {}
    for part in ("reference", "scored"):
        for record in records_of(run, f"iter0/{part}/*.parquet"):
            for response in record.responses:
                key = (part, record.prompt_id, response.role, tuple(response.ids))
                found[key] = (response.opponent_logps, response.reference_logps)
    return found


def loaded(run):
    """Weights of the policy that a run ended with."""
    return AutoModelForCausalLM.from_pretrained(run / "iter0/policy").state_dict()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run whose ranks hold whole policies, and the folder of its config."""
    folder = tmp_path_factory.mktemp("whole")
    succeed("run", make_config(folder, **SETTINGS))
    return folder


def test_shared_out_policies_give_the_bits_of_whole_ones(whole, tmp_path):
    out = tmp_path / "run"
    changes = {**SETTINGS, "output_dir": str(out), "sharded_inference": True}
    succeed("run", make_config(whole, **changes))
    before = whole / "run"
    assert scores(out) == scores(before)
    assert {role for _, _, role, _ in scores(out)} == {"real", "generated", "proto"}
    assert None not in scores(out)["scored", *next(iter(scores(out)))[1:]]
    for place in ("initial", "iter0"):
        assert read_json(out / place / "evaluation.json") == read_json(
            before / place / "evaluation.json"
        )
    assert weights(out) == weights(before)
    for name in ("samples.parquet", "greedy.parquet"):
        found, wanted = (records_of(root, f"iter0/{name}") for root in (out, before))
        assert [r.prompt_id for r in found] == [r.prompt_id for r in wanted] != []
        for one, other in zip(found, wanted, strict=True):
            (sampled,), (expected,) = one.responses, other.responses
            assert sampled.ids == expected.ids
            # Decoding goes through other kernels where weights lie elsewhere in memory.
            assert sampled.sampling_logps == pytest.approx(expected.sampling_logps, abs=1e-6)


def test_what_is_offloaded_is_computed_as_before(whole, tmp_path):
    out = tmp_path / "run"
    changes = {
        **SETTINGS,
        "output_dir": str(out),
        "sharded_inference": True,
        "offload": {"optimizer": "cpu", "parameters": "cpu"},
        "deepspeed": {"zero_optimization": {"stage3_max_live_parameters": 100_000}},
    }
    succeed("run", make_config(whole, **changes))
    before = whole / "run"
    assert scores(out) == scores(before)
    # DeepSpeed's step for offloaded shares sums in another order.
    trained, wanted = loaded(out), loaded(before)
    assert trained.keys() == wanted.keys()
    for name, weight in wanted.items():
        torch.testing.assert_close(trained[name], weight, rtol=0, atol=1e-6)


def test_every_rank_saves_its_share_of_a_policy(whole):
    policy = whole / "run/iter0/policy"
    sizes = {path.name: path.stat().st_size for path in policy.glob("*.safetensors")}
    assert sorted(sizes) == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert max(sizes.values()) < 0.7 * sum(sizes.values())
    assert not (policy / "model.safetensors").exists()
    files = read_json(whole / "run/manifest.json")["stages"]["iter0/train"]["files"]
    assert {f"iter0/policy/{name}" for name in sizes} <= files.keys()


def test_all_ranks_stop_at_one_pass_and_resuming_changes_no_bit(whole, tmp_path):
    out = tmp_path / "run"
    changes = {**SETTINGS, "output_dir": str(out), "sharded_inference": True}
    config = make_config(whole, **changes)
    process = start("run", config)
    try:
        deadline = time.monotonic() + 240
        while not list(out.glob("iter0/reference/*.parquet")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM, err
    assert not (out / "iter0" / "policy").exists()
    succeed("run", config)
    assert scores(out) == scores(whole / "run")
    assert weights(out) == weights(whole / "run")


def test_stacked_adapters_are_refused(tmp_path):
    config = make_config(tmp_path, adapter={"between": "stack"}, sharded_inference=True)
    assert "sharded_inference" in refused("run", config)
