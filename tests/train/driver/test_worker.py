"""The loop over stages, with stand-ins that only leave files."""

import itertools
import json
from types import SimpleNamespace

import pytest

import spin_train.system.ranks
from spin_train.driver import worker
from spin_train.errors import StoppedError, UserError
from spin_train.run.manifest import Manifest
from spin_train.run.run import Run
from spin_train.stages.table import STAGES
from spin_train.system import heap
from spin_train.system.files import write_json
from tests.train.lone import OneRank
from tests.train.runs import make_config


class Walking(OneRank):
    """Made and asked to stop as the walk does it."""

    def __init__(self, stop_request, board):
        self.board = board
        self._stop_request = stop_request

    def raise_if_stopping(self):
        if self._stop_request.exists():
            raise StoppedError


def do(work, stage):
    """Stand-in for every stage: p_0 is the best policy, and training leaves a checkpoint."""
    root, folder = work.run.root, work.run.folder(stage)
    with (root / "done").open("a") as file:
        file.write(f"{stage.name}\n")
    if stage.name == (root / "fails").read_text():
        raise RuntimeError(stage.name)
    if stage.kind == "train":
        (folder / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    if stage.kind == "evaluate":
        path = folder / "evaluation.json"
        write_json(path, {"real_nll_per_token": 2.0 + stage.iteration})
        return [path]
    path = folder / f"{stage.kind}.json"
    write_json(path, stage.name)
    return [path]


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A run directory with nothing in it but a configuration, and its walk."""
    monkeypatch.setattr(spin_train.system.ranks, "Ranks", Walking)
    for kind in STAGES:
        monkeypatch.setitem(STAGES, kind, do)
    monkeypatch.setattr(worker, "_quiet", lambda: None)

    def begin(*, fails="", **changes):
        make_config(tmp_path, output_dir=str(tmp_path), **changes)
        (tmp_path / "fails").write_text(fails)
        run = Run.open(tmp_path)
        return run.directory, [stage.name for stage in run.stages]

    return begin


def done(run):
    return (run.root / "done").read_text().split()


def test_before_the_first_stage_the_collector_is_kept_from_what_was_imported(begun, monkeypatch):
    run, _ = begun()
    started = []
    monkeypatch.setattr(worker.gc, "freeze", lambda: started.append((run.root / "done").exists()))
    worker._walk(run)
    assert started == [False]


def test_memory_is_given_back_after_every_stage(begun, monkeypatch):
    run, stages = begun()
    after = []
    monkeypatch.setattr(heap, "give_back", lambda: after.append(done(run)[-1]))
    worker._walk(run)
    assert after == stages


def test_every_stage_is_done_once_and_recorded_with_what_it_left(begun):
    run, stages = begun(control=True)
    worker._walk(run)
    assert done(run) == stages
    manifest = Manifest(run)
    assert list(manifest.content["stages"]) == stages
    assert all(manifest.is_complete(stage) for stage in stages)
    files = manifest.content["stages"]["control/iter1/train"]["files"]
    assert files.keys() == {"control/iter1/train.json"}
    worker._walk(run)
    assert done(run) == stages


def test_a_stage_that_fails_is_not_recorded_and_is_begun_with_by_the_next_walk(begun):
    run, stages = begun(fails="iter0/score")
    with pytest.raises(RuntimeError, match="iter0/score"):
        worker._walk(run)
    over = done(run)
    assert list(Manifest(run).content["stages"]) == over[:-1]
    (run.root / "fails").write_text("")
    worker._walk(run)
    assert done(run) == [*over, *stages[len(over) - 1 :]]


def test_a_stage_without_memory_is_named_with_the_key_to_lower(begun, monkeypatch):
    def too_much(work, stage):
        raise MemoryError

    run, _ = begun()
    monkeypatch.setitem(STAGES, "score", too_much)
    with pytest.raises(UserError, match=r"iter0/score: out of memory .*micro_batch_tokens"):
        worker._walk(run)


@pytest.mark.parametrize("patience", [1, 2])
def test_a_walk_ends_with_the_iteration_that_spends_the_patience(begun, patience):
    run, stages = begun(iterations=3, selection={"patience": patience})
    worker._walk(run)
    later = tuple(f"iter{k}" for k in range(patience, 3))
    assert done(run) == [stage for stage in stages if not stage.startswith(later)]
    best = json.loads((run.root / "best.json").read_text())
    assert (best["best"]["name"], best["stopped_early"]) == ("p_0", True)


def test_best_json_is_there_from_the_second_iteration_on(begun):
    run, _ = begun(fails="iter1/generate")
    with pytest.raises(RuntimeError):
        worker._walk(run)
    assert json.loads((run.root / "best.json").read_text())["values"] == {"p_0": 1.0, "p_1": 2.0}


def test_no_checkpoint_outlives_its_stage_be_it_by_a_kill(begun):
    run, _ = begun()
    worker._walk(run)
    assert list(run.root.rglob("checkpoint-*")) == []
    (run.iteration(0) / "checkpoints" / "checkpoint-5").mkdir()
    worker._walk(run)
    assert list(run.root.rglob("checkpoint-*")) == []


def test_a_request_to_stop_is_heard_before_the_next_stage(begun):
    run, _ = begun()
    run.stop_request.touch()
    with pytest.raises(StoppedError):
        worker._walk(run)
    assert not (run.root / "done").exists()


def test_the_seconds_of_a_stage_are_its_own(begun, monkeypatch):
    run, stages = begun()
    moments = itertools.count()
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    worker._walk(run)
    recorded = Manifest(run).content["stages"]
    assert [recorded[stage]["seconds"] for stage in stages] == [1] * len(stages)


def test_a_walk_ends_after_the_stage_that_it_is_told_and_goes_on_from_there(begun):
    run, stages = begun()
    run.until.write_text("iter0/generate")
    for _ in range(2):  # what is complete already ends there too
        worker._walk(run)
        assert done(run) == stages[: stages.index("iter0/generate") + 1]
    run.until.unlink()
    worker._walk(run)
    assert done(run) == stages
