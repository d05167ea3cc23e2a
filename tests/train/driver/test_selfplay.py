import pytest

from spin_train.config.files import parse_config
from spin_train.driver import selfplay
from spin_train.errors import UserError
from spin_train.run.manifest import Manifest
from spin_train.run.run import Run
from spin_train.system import owner

LOCKS = {".lock", ".owner.json", ".workers.lock"}


@pytest.fixture
def begun(tmp_path):
    """A run whose data are prepared, and that is p_0 as it is."""
    content = {"model": "m", "data": {"path": "d.jsonl"}, "output_dir": str(tmp_path)}
    run = Run.of(parse_config(content))
    Manifest(run.directory).complete("data/prepare", [], seconds=1.0)
    return run


def test_a_stage_that_the_run_does_not_have_is_refused_with_those_that_it_has(begun):
    selfplay._require_stage(begun, "iter0/score")
    selfplay._require_stage(begun, None)
    with pytest.raises(UserError, match=r"--until score: .* data/prepare, .* iter0/score"):
        selfplay._require_stage(begun, "score")


def test_a_run_is_over_with_the_last_stage_that_is_asked_for(begun):
    assert selfplay._all_complete(begun, "data/prepare")
    assert not selfplay._all_complete(begun, "iter0/generate")
    assert not selfplay._all_complete(begun, None)


def test_workers_are_told_of_the_last_stage_of_this_start_alone(begun):
    until = begun.directory.until
    selfplay._write_until(begun.directory, "iter0/score")
    assert until.read_text() == "iter0/score"
    selfplay._write_until(begun.directory, None)
    assert not until.exists()


def test_a_second_start_from_another_node_is_refused_while_the_first_works(tmp_path, monkeypatch):
    monkeypatch.setattr(selfplay, "refuse_early", lambda *_, **__: None)
    monkeypatch.setattr(owner, "_BEAT_SECONDS", 0.05)
    monkeypatch.setattr(owner, "_WATCHED_SECONDS", 1.5)
    content = {"model": "m", "data": {"path": "d.jsonl"}, "output_dir": str(tmp_path)}
    run = Run.of(parse_config(content))
    with (
        owner.Owner(run.directory.owner, "node3"),
        pytest.raises(UserError, match=r"^node3 is working on .*; wait for it, or stop it there$"),
    ):
        selfplay.play(run)
    assert {path.name for path in tmp_path.rglob("*")} <= LOCKS  # nothing was begun
