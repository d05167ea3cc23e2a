"""A run while it works, after a kill, and when it is done: its status and its events."""

import json

import psutil
import pytest

from tests.runs.test_metrics import events_of
from tests.train.runs import make_config, run, start, succeed

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run killed in training and resumed: what status told of it alive, dead and done."""
    folder = tmp_path_factory.mktemp("killed")
    config = make_config(folder, sft=None, iterations=1, epochs=12, width=128)
    root, told = folder / "run", {}
    process, metrics = start("run", config), root / "iter0" / "metrics.jsonl"
    while process.poll() is None:
        if metrics.exists() and metrics.read_text().count("\n") >= 8:
            break
    # Nothing moves while it is asked: a fast machine would be done before the answer.
    for one in (driver := psutil.Process(process.pid), *driver.children(recursive=True)):
        one.suspend()
    told["alive"] = json.loads(succeed("status", root, "--json"))
    process.kill()
    process.communicate()
    told["dead"] = json.loads(succeed("status", root, "--json"))
    succeed("run", config)
    told["done"] = succeed("status", root)
    return root, told


def test_status_of_a_run_in_work_dead_and_done(killed):
    alive, dead, done = killed[1].values()
    assert alive["working"]
    (train,) = [stage for stage in alive["stages"] if stage["name"] == "iter0/train"]
    assert (train["state"], train["total"]) == ("running", 84)
    assert alive["loss_at"].startswith("iter0/train step")
    assert not dead["working"]
    states = {stage["name"]: stage["state"] for stage in dead["stages"][-3:]}
    assert states == {
        "iter0/train": "stopped",
        "iter0/evaluate": "waiting",
        "iter0/sample": "waiting",
    }
    assert "no process is working on it" in done
    assert "waiting" not in done
    assert "last logged: loss" in done


def test_a_killed_and_resumed_stage_has_every_step_once_in_tensorboard(killed):
    folder = killed[0] / "logs" / "tensorboard" / "iter0"
    assert len(list(folder.iterdir())) == 2
    steps = [event.step for event in events_of(folder).Scalars("train/loss")]
    assert steps == list(range(1, 85))


def test_a_directory_that_is_no_run_is_one_line(tmp_path):
    code, out, err = run("status", tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith("spin-train: no run at")
