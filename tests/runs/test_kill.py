"""Killed at any moment, the same command ends with the bits of the uninterrupted run."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from spin_train.config.files import load_config
from spin_train.run.graph import stages_of
from tests.train.runs import logs_of, make_config, metrics, run, start, succeed, weights

pytestmark = pytest.mark.process

SETTINGS = {
    "width": 256,  # slow enough for stages and saves to be caught
    "rows": 100,
    "ranks": 2,
    "zero_stage": 2,
    "control": True,
    "sft": {"epochs": 3, "learning_rate": 3e-3},
    "epochs": 3,
}
# Where the kill falls: a stage, or the writing of a checkpoint in one.
MOMENTS = {
    "driver": ["sft/train", "iter0/generate", "iter0/score", "save", "iter1/train"],
    "launcher": ["iter0/score", "iter0/train", "save"],
    "rank": ["sft/train", "iter0/generate", "save", "control/iter0/train"],
}


def processes_of(folder):
    """Process ids that work on a run folder: (launcher, ranks)."""
    launchers, ranks = [], []
    for process in Path("/proc").iterdir():
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in command and b"spin_train.driver.worker" in command:
            (launchers if b"launcher" in command else ranks).append(int(process.name))
    return launchers, ranks


def has_come(moment, folder, begun, order):
    """Whether the run begun at that time is in the stage, writes a checkpoint of iter0, or is past.

    A stage of milliseconds can be over between two looks: the kill then falls into a later one.
    """
    progress, saves = folder / ".progress.json", folder / "iter0" / "checkpoints"
    try:
        if progress.stat().st_mtime <= begun:
            return False
        now = order.index(json.loads(progress.read_text())["stages"][-1])
        saving = any(
            save.stat().st_mtime > begun and not (save / "complete.json").exists()
            for save in saves.glob("checkpoint-*")
        )
    except FileNotFoundError:
        return False
    if moment == "save":
        return saving or now > order.index("iter0/train")
    return now >= order.index(moment)


def wait_until(condition, process, timeout=120):
    deadline = time.monotonic() + timeout
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(0.001)


def kill(who, process, folder):
    launchers, ranks = processes_of(folder)
    victim = {"driver": [process.pid], "launcher": launchers, "rank": ranks}[who][-1]
    os.kill(victim, signal.SIGKILL)
    process.communicate(timeout=60)


def nobody_left(folder, timeout=10):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if not any(processes_of(folder)):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    succeed("run", make_config(folder, **SETTINGS))
    return folder


def fresh_copy(uninterrupted, folder):
    """The same run, not yet begun; paths of inputs are the same, so the config is."""
    config = make_config(uninterrupted, **SETTINGS, output_dir=str(folder / "run"))
    copy = folder / "config.yaml"
    copy.write_text(config.read_text())
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("who", MOMENTS)
def test_kills_in_the_stages_and_in_a_save_change_no_bit(uninterrupted, tmp_path, who):
    """One run, killed again and again at moments that a clock chooses within each stage."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    clock = random.Random(seed)
    config = fresh_copy(uninterrupted, tmp_path)
    folder = tmp_path / "run"
    order = [stage.name for stage in stages_of(load_config(config))]
    for moment in MOMENTS[who]:
        begun = time.time()
        process = start("run", config)
        wait_until(lambda: has_come(moment, folder, begun, order), process)  # noqa: B023
        time.sleep(0 if moment == "save" else clock.uniform(0, 0.2))
        assert process.poll() is None, f"the run was over before it was seen in {moment}"
        kill(who, process, folder)
        assert process.returncode != 0
        assert nobody_left(folder), "a worker outlived its driver"
    code, _, err = run("run", config)
    assert code == 0, err + logs_of(("run", config))
    assert weights(folder) == weights(uninterrupted / "run")
    assert metrics(folder) == metrics(uninterrupted / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("zero_stage", "ranks", "dtype", "whom"),
    [(0, 1, "bfloat16", "driver"), (1, 2, "bfloat16", "all"), (3, 2, "float32", "driver")],
)
def test_sigterm_saves_and_resuming_changes_no_bit(tmp_path, zero_stage, ranks, dtype, whom):
    # Saved between two lines of the metrics: what was summed since the last one goes on too.
    training = {"dtype": dtype, "save_steps": 3, "logging_steps": 4}
    settings = {"zero_stage": zero_stage, "ranks": ranks, "training": training}
    settings |= {"epochs": 6, "sft": None, "iterations": 1}
    whole = make_config(tmp_path / "whole", **settings)
    succeed("run", whole)
    stopped = make_config(tmp_path / "stopped", **settings)
    folder = tmp_path / "stopped" / "run"
    process = start("run", stopped)
    checkpoints = folder / "iter0" / "checkpoints"
    wait_until(lambda: any(checkpoints.glob("*/complete.json")), process)
    if whom == "all":  # as batch systems do
        launchers, workers = processes_of(folder)
        for victim in launchers + workers:
            os.kill(victim, signal.SIGTERM)
        time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert err.strip().splitlines()[-1].startswith("spin-train: stopped")
    assert any(checkpoints.glob("*/complete.json"))
    assert not (folder / "iter0" / "policy").exists()
    succeed("run", stopped)
    assert weights(folder) == weights(tmp_path / "whole" / "run")
    assert metrics(folder) == metrics(tmp_path / "whole" / "run")
