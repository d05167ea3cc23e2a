"""A run branched from another and played on."""

import json
import os

import pytest

from spin_train.run.branching import branch
from spin_train.run.status import read_status
from tests.train.runs import make_config, succeed, weights

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    succeed("run", make_config(folder, mixing=1))
    return folder / "run"


def test_a_branch_plays_on_to_the_bits_of_its_source(source, tmp_path):
    target = tmp_path / "same"
    assert "spin-train run" in succeed("branch", source, target, "--at", 1)
    assert {path.name for path in (target / "iter1").iterdir()} == {"generations", "scored"}
    assert os.path.samefile(
        source / "iter0/policy/config.json", target / "iter0/policy/config.json"
    )
    succeed("run", target / "config.yaml")
    assert weights(target) == weights(source)
    manifest = json.loads((target / "manifest.json").read_text())
    assert manifest["branched_from"] == {"run": str(source), "at": 1}


def test_another_schedule_from_iteration_k_leaves_the_source_as_it_was(source, tmp_path):
    before, target = weights(source), tmp_path / "other"
    branch(source, target, at=1, overrides=["beta=[0.5, 5.0]"])
    succeed("run", target / "config.yaml")
    after = weights(target)
    assert after["iter0/policy/model.safetensors"] == before["iter0/policy/model.safetensors"]
    assert after["iter1/policy/model.safetensors"] != before["iter1/policy/model.safetensors"]
    assert weights(source) == before


def test_at_0_self_play_may_change_and_patience_ends_it(source, tmp_path):
    numbers = [
        json.loads((source / place / "evaluation.json").read_text())["real_nll_per_token"]
        for place in ("initial", "iter0")
    ]
    worse = "max" if numbers[1] < numbers[0] else "min"  # so that p_1 is no better than p_0
    target = tmp_path / "short"
    overrides = ["selection.patience=1", f"selection.goal={worse}", "iterations=2"]
    branch(source, target, at=0, overrides=overrides)
    succeed("run", target / "config.yaml")
    assert (target / "iter0" / "policy").is_dir()
    assert not (target / "iter1").exists()
    best = json.loads((target / "best.json").read_text())
    assert best["stopped_early"]
    assert best["best"]["name"] == "p_0"
    out = succeed("run", target / "config.yaml")  # nothing left to do
    assert not (target / "iter1").exists()
    assert "stopped after p_1" in out
    assert {stage.state for stage in read_status(target).stages} == {"done"}
    branch(source, tmp_path / "beta", at=0, overrides=["beta=3.0", "loss_type=hinge"])
