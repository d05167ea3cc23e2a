"""`spin-train status` of a run while it works, after a kill, and when it is done."""

import json

import pytest

from tests.train.runs import make_config, run, start, succeed

pytestmark = pytest.mark.process


def test_status_of_a_run_in_work_dead_and_done(tmp_path):
    config = make_config(tmp_path, sft=None, iterations=1, epochs=6, width=128)
    root = tmp_path / "run"

    def told():
        return json.loads(succeed("status", root, "--json"))

    process = start("run", config)
    while process.poll() is None:
        if (root / "iter0" / "metrics.jsonl").exists():
            break
    alive = told()
    assert alive["working"]
    (train,) = [stage for stage in alive["stages"] if stage["name"] == "iter0/train"]
    assert (train["state"], train["total"]) == ("running", 42)
    assert alive["loss_at"].startswith("iter0/train step")
    process.kill()
    process.communicate()
    dead = told()
    assert not dead["working"]
    assert [stage["state"] for stage in dead["stages"]][-2:] == ["stopped", "waiting"]
    succeed("run", config)
    out = succeed("status", root)
    assert "no process is working on it" in out
    assert "waiting" not in out
    assert "last loss" in out


def test_a_directory_that_is_no_run_is_one_line(tmp_path):
    code, out, err = run("status", tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith("spin-train: no run at")
