"""Who works on a run, as a login node reads it."""

import json
import threading
import time

import pytest

from spin_train.system import owner
from spin_train.system.owner import Owner, node_name, owner_of, working_elsewhere


def test_a_node_is_named_while_it_works_and_not_afterwards(tmp_path):
    path = tmp_path / ".owner.json"
    assert owner_of(path) is None
    with Owner(path, "node3"):
        assert owner_of(path) == "node3"
    assert owner_of(path) is None
    assert list(tmp_path.iterdir()) == []


def test_one_that_was_killed_is_forgotten_after_a_minute(tmp_path):
    path = tmp_path / ".owner.json"
    told = {"node": "node3", "pid": 1, "time": time.time() - 50}
    path.write_text(json.dumps(told))
    assert owner_of(path) == "node3"
    path.write_text(json.dumps(told | {"time": time.time() - 70}))
    assert owner_of(path) is None
    for damaged in ("{", "null", "[]", "{}", '{"node": "node3", "time": "now"}'):
        path.write_text(damaged)
        assert owner_of(path) is None
        assert working_elsewhere(path) is None


def test_it_says_so_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "_BEAT_SECONDS", 0.01)
    path = tmp_path / ".owner.json"
    with Owner(path, "node3"):
        first = json.loads(path.read_text())["time"]
        deadline = time.monotonic() + 10
        while json.loads(path.read_text())["time"] == first:
            assert time.monotonic() < deadline


@pytest.fixture
def in_a_hurry(monkeypatch):
    monkeypatch.setattr(owner, "_BEAT_SECONDS", 0.05)
    monkeypatch.setattr(owner, "_WATCHED_SECONDS", 1.5)


@pytest.mark.usefixtures("in_a_hurry")
def test_another_node_that_works_is_noticed_whatever_its_clock_says(tmp_path, monkeypatch):
    path = tmp_path / ".owner.json"
    assert working_elsewhere(path) is None
    year = 3e7
    monkeypatch.setattr(owner.time, "time", lambda: time.monotonic() - year)
    with Owner(path, "node3"):
        assert working_elsewhere(path) == "node3"
    assert working_elsewhere(path) is None


@pytest.mark.usefixtures("in_a_hurry")
def test_what_a_killed_node_left_does_not_keep_others_out(tmp_path):
    path = tmp_path / ".owner.json"
    path.write_text(json.dumps({"node": "node3", "pid": 1, "time": time.time()}))
    assert working_elsewhere(path) is None


@pytest.mark.usefixtures("in_a_hurry")
def test_a_node_that_ends_meanwhile_does_not_either(tmp_path):
    path = tmp_path / ".owner.json"
    path.write_text(json.dumps({"node": "node3", "pid": 1, "time": time.time()}))
    threading.Timer(0.2, path.unlink).start()
    assert working_elsewhere(path) is None
    assert not path.exists()


def test_of_this_node_the_lock_tells(tmp_path):
    path = tmp_path / ".owner.json"
    with Owner(path, node_name()):
        begun = time.monotonic()
        assert working_elsewhere(path) is None
        assert time.monotonic() - begun < 1


def test_a_heartbeat_that_cannot_be_written_ends_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "_BEAT_SECONDS", 0.01)
    path = tmp_path / "folder" / ".owner.json"
    path.parent.mkdir()
    with Owner(path, "node3") as beating:
        path.unlink()
        path.parent.rmdir()
        time.sleep(0.05)
        assert beating._thread.is_alive()
