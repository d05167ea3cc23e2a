"""Who works on a run, as a login node reads it."""

import json
import time

from spin_train.system import owner
from spin_train.system.owner import Owner, owner_of


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
    path.write_text("{")
    assert owner_of(path) is None


def test_it_says_so_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "_BEAT_SECONDS", 0.01)
    path = tmp_path / ".owner.json"
    with Owner(path, "node3"):
        first = json.loads(path.read_text())["time"]
        deadline = time.monotonic() + 10
        while json.loads(path.read_text())["time"] == first:
            assert time.monotonic() < deadline
