"""How workers are started: one directly, several by DeepSpeed's launcher."""

import subprocess

import pytest

from spin_train.driver import launch
from spin_train.errors import UserError


@pytest.fixture
def started(monkeypatch):
    """Start workers without starting anything: the command and its options come back."""

    def start(ranks, devices=None):
        if devices is None:
            monkeypatch.setattr(launch, "cpu_only", lambda: True)
        else:
            monkeypatch.setattr(launch, "cpu_only", lambda: False)
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
        monkeypatch.setattr(subprocess, "Popen", lambda command, **options: (command, options))
        return launch.launch_workers("runs/x", ranks=ranks, log=None)

    return start


def test_one_rank_is_told_that_it_is_alone(started):
    command, options = started(1)
    assert command[1:] == ["-P", "-u", "-m", "spin_train.driver.worker", "runs/x"]
    told = {name: options["env"][name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    assert told == {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    assert options["env"]["MASTER_ADDR"] == "127.0.0.1"
    assert int(options["env"]["MASTER_PORT"]) > 0
    assert options["start_new_session"]  # Ctrl-C reaches the driver alone


def test_several_ranks_are_started_by_deepspeed(started):
    command, options = started(2)
    assert command[1:4] == ["-P", "-m", "deepspeed.launcher.launch"]
    assert command[-2:] == ["spin_train.driver.worker", "runs/x"]
    assert "RANK" not in options["env"]


def test_one_rank_sees_the_first_of_the_devices_that_the_user_shows(started):
    _, options = started(1, devices="2,3")
    assert options["env"]["CUDA_VISIBLE_DEVICES"] == "2"


def test_fewer_devices_than_ranks_are_refused(started):
    with pytest.raises(UserError, match="names 1 devices"):
        started(2, devices="2")
