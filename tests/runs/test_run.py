"""The command line from end to end on a tiny model."""

import json
import re
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from spin_theory.losses import spin_loss
from spin_train.data.records import read_records, write_records
from spin_train.model.logps import Group, response_logps
from tests.train.runs import (
    SHORT,
    losses,
    make_config,
    make_model,
    records_of,
    refused,
    start,
    succeed,
    weights,
)

pytestmark = pytest.mark.process


def shared_memory():
    return set(map(str, Path("/dev/shm").glob("deepspeed_*")))


def mapped():
    """Files that a process which still lives has in its memory: another run's."""
    found = set()
    for process in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            found |= set(re.findall(r"/dev/shm/deepspeed_\S+", process.read_text()))
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A SPIN run: SFT, two iterations with mixing, the control, two ranks, ZeRO-2."""
    folder = tmp_path_factory.mktemp("finished")
    config = make_config(folder, ranks=2, zero_stage=2, mixing=1, control=True)
    before = shared_memory()
    out = succeed("run", config, cold=True)
    left = sorted(shared_memory() - before - mapped())
    (folder / "shared_memory.json").write_text(json.dumps(left))
    return folder, config, out


def test_policy_holds_weights_config_and_tokenizer_and_loads(finished):
    policy = finished[0] / "run" / "iter1" / "policy"
    assert {path.name for path in policy.iterdir()} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    _, report = AutoModelForCausalLM.from_pretrained(policy, output_loading_info=True)
    assert not any(report.values())
    assert AutoTokenizer.from_pretrained(policy).eos_token == "<eos>"


def test_a_run_leaves_no_shared_memory_behind(finished):
    """DeepSpeed's buffers, 66 MiB per rank, would fill it run by run."""
    assert json.loads((finished[0] / "shared_memory.json").read_text()) == []


def test_every_stage_is_in_the_manifest(finished):
    manifest = json.loads((finished[0] / "run" / "manifest.json").read_text())
    assert list(manifest["stages"]) == [
        "data/prepare",
        "sft/train",
        "initial/evaluate",
        *(f"iter0/{kind}" for kind in ("generate", "score", "train", "evaluate")),
        *(f"control/iter0/{kind}" for kind in ("train", "evaluate")),
        *(f"iter1/{kind}" for kind in ("generate", "score", "train", "evaluate")),
        *(f"control/iter1/{kind}" for kind in ("train", "evaluate")),
        "iter1/sample",
    ]


def test_mixed_in_samples_are_scored_by_the_new_opponent(finished):
    folder = finished[0] / "run"
    records = records_of(folder / "iter1" / "scored", "train-*.parquet")
    assert [r.iteration for r in records[0].of_role("generated")] == [1, 0]
    opponent = AutoModelForCausalLM.from_pretrained(folder / "iter0" / "policy").double().eval()
    for record in records[:5]:
        group = Group(record.prompt_ids, [r.ids for r in record.responses])
        stored = torch.tensor([r.opponent_logps for r in record.responses], dtype=torch.float64)
        torch.testing.assert_close(response_logps(opponent, [group]), stored, atol=1e-4, rtol=0)


def test_logged_loss_is_the_dense_float64_mean_over_the_global_batch(finished):
    """With every example in one batch the first loss does not depend on their order."""
    folder = finished[0]
    other = folder / "one_batch"
    settings = {"batch_size": 1000, "micro_batch_size": 7, "save_steps": 3, "logging_steps": 1}
    config = make_config(folder, **SHORT, output_dir=str(other), training=settings, epochs=2)
    succeed("run", config)
    records = records_of(other / "iter0" / "scored", "train-*.parquet")
    model = AutoModelForCausalLM.from_pretrained(folder / "model").double().eval()
    pairs = [Group(r.prompt_ids, [s.ids for s in r.responses]) for r in records]
    policy = torch.stack([response_logps(model, [pair]) for pair in pairs])
    stored = [[s.opponent_logps for s in r.responses] for r in records]
    opponent = torch.tensor(stored, dtype=torch.float64)
    expected = spin_loss(
        policy_real_logps=policy[:, 0],
        policy_generated_logps=policy[:, 1],
        opponent_real_logps=opponent[:, 0],
        opponent_generated_logps=opponent[:, 1],
        beta=0.5,
    ).mean()
    assert losses(other, "iter0")[1] == pytest.approx(expected.item(), abs=1e-5)
    # Step 2 is after a warm-up step of learning rate 0: the same loss once more.
    assert losses(other, "iter0")[2] == pytest.approx(expected.item(), abs=1e-5)


def test_control_trains_as_many_steps_on_the_same_learning_rates(finished):
    folder = finished[0] / "run"
    for k in range(2):
        lines = {}
        for name in (f"iter{k}", f"control/iter{k}"):
            rows = map(json.loads, (folder / name / "metrics.jsonl").read_text().splitlines())
            lines[name] = [(r["step"], r["learning_rate"]) for r in rows if "loss" in r]
        first, second = lines.values()
        assert first == second


def test_the_same_command_on_a_finished_run_changes_nothing(finished):
    folder, _, _ = finished
    before = weights(folder / "run")
    succeed("run", make_config(folder, ranks=2, zero_stage=2, mixing=1, control=True))
    assert weights(folder / "run") == before


def test_more_iterations_go_on_from_a_finished_run_that_was_moved(finished, tmp_path):
    shutil.copytree(finished[0] / "run", tmp_path / "run")
    arguments = {"ranks": 2, "zero_stage": 2, "mixing": 1, "control": True, "iterations": 3}
    succeed("run", make_config(finished[0], **arguments, output_dir=str(tmp_path / "run")))
    old, new = weights(finished[0] / "run"), weights(tmp_path / "run")
    assert "iter2/policy/model.safetensors" in new
    assert old.items() <= new.items()


def test_a_changed_config_is_refused_by_the_names_of_its_keys(finished):
    folder, config, _ = finished
    line = refused("run", config, "output_dir=" + str(folder / "run"), "beta=0.7", "seed=1")
    assert "beta: 0.5 -> 0.7" in line
    assert "seed: 42 -> 1" in line


def test_a_run_may_end_after_a_stage_and_go_on_later(finished, tmp_path):
    config = make_config(finished[0], ranks=2, zero_stage=2, output_dir=str(tmp_path / "run"))
    succeed("run", config, "--until", "sft/train")
    manifest = tmp_path / "run" / "manifest.json"
    assert list(json.loads(manifest.read_text())["stages"]) == ["data/prepare", "sft/train"]
    first = weights(tmp_path / "run")
    assert first.items() <= weights(finished[0] / "run").items()
    succeed("run", config, "--until", "initial/evaluate")
    assert list(json.loads(manifest.read_text())["stages"])[-1] == "initial/evaluate"
    assert weights(tmp_path / "run") == first


def test_scores_of_another_checkpoint_are_refused_at_step_zero(tmp_path):
    config = make_config(tmp_path, **SHORT)
    folder = tmp_path / "run"
    process = start("run", config)
    scored = folder / "iter0" / "scored"
    manifest = folder / "manifest.json"
    while process.poll() is None:
        if manifest.exists() and "iter0/score" in manifest.read_text():
            break
    process.kill()
    process.communicate()
    shutil.rmtree(folder / "iter0" / "policy", ignore_errors=True)
    shutil.rmtree(folder / "iter0" / "checkpoints", ignore_errors=True)
    make_model(tmp_path / "other", seed=1)
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "other")
    for shard in scored.glob("train-*.parquet"):
        records = read_records(shard)
        swapped = [
            record.with_logps(
                response_logps(
                    other, [Group(record.prompt_ids, [r.ids for r in record.responses])]
                ).tolist()
            )
            for record in records
        ]
        write_records(shard, swapped)
    # Other bytes of the same length, as far as the manifest can tell.
    content = json.loads(manifest.read_text())
    for name, file in content["stages"]["iter0/score"]["files"].items():
        file["bytes"] = (folder / name).stat().st_size
    manifest.write_text(json.dumps(content))
    line = refused("run", config)
    assert "step-0 check" in line
    assert not (folder / "iter0" / "policy").exists()


def test_a_policy_that_later_stages_were_made_from_is_not_made_anew(finished, tmp_path):
    shutil.copytree(finished[0] / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "iter0" / "policy")
    text = (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "run" / "config.yaml").write_text(
        text.replace(str(finished[0] / "run"), str(tmp_path / "run"))
    )
    line = refused("run", tmp_path / "run" / "config.yaml")
    assert "iter0/train" in line
    assert "restore" in line
