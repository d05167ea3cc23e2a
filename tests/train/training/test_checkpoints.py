import json
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl, TrainerState

from spin_train.errors import UserError
from spin_train.system.progress import Progress
from spin_train.system.speed import Speed
from spin_train.training.checkpoints import (
    COPIES,
    RunCallback,
    latest_complete,
    ranks_of,
    remove_checkpoints,
)
from spin_train.training.speed import SpeedLines
from tests.train.lone import OneRank

FILES = {"trainer_state.json": "{}", "rng_state_0.pth": "0", "global_step/optim_states.pt": "123"}


def make_checkpoint(folder, step, *, zero_stage=2, ranks=1, marked=True):
    checkpoint = folder / f"checkpoint-{step}"
    for name, content in FILES.items():
        path = checkpoint / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    if marked:
        marker = {
            "step": step,
            "zero_stage": zero_stage,
            "ranks": ranks,
            "files": {name: len(content) for name, content in FILES.items()},
        }
        (checkpoint / "complete.json").write_text(json.dumps(marker))
    return checkpoint


def latest(folder):
    return latest_complete(folder, zero_stage=2)


def test_the_highest_step_is_taken_by_number(tmp_path):
    for step in (9, 10, 2):
        make_checkpoint(tmp_path, step)
    assert latest(tmp_path) == tmp_path / "checkpoint-10"


def test_there_may_be_no_checkpoint(tmp_path):
    assert latest(tmp_path / "missing") is None


def test_a_checkpoint_without_marker_does_not_count(tmp_path):
    make_checkpoint(tmp_path, 5)
    make_checkpoint(tmp_path, 10, marked=False)
    assert latest(tmp_path) == tmp_path / "checkpoint-5"


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_checkpoint_without_one_of_its_files_does_not_count(tmp_path, name):
    make_checkpoint(tmp_path, 5)
    (make_checkpoint(tmp_path, 10) / name).unlink()
    assert latest(tmp_path) == tmp_path / "checkpoint-5"


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_checkpoint_with_a_cut_file_does_not_count(tmp_path, name):
    make_checkpoint(tmp_path, 5)
    (make_checkpoint(tmp_path, 10) / name).write_text("")
    assert latest(tmp_path) == tmp_path / "checkpoint-5"


def test_a_checkpoint_with_half_a_marker_does_not_count(tmp_path):
    marker = make_checkpoint(tmp_path, 10) / "complete.json"
    marker.write_text(marker.read_text()[:20])
    assert latest(tmp_path) is None


def test_a_checkpoint_of_another_zero_stage_is_refused_with_both_ways_on(tmp_path):
    make_checkpoint(tmp_path, 5, zero_stage=3)
    says = (
        "checkpoint-5 was written with zero_stage=3, but this run has zero_stage=2: use the former "
        "value, or add --restart-iteration"
    )
    with pytest.raises(UserError, match=says):
        latest(tmp_path)


def test_a_checkpoint_knows_how_many_ranks_wrote_it(tmp_path):
    assert ranks_of(make_checkpoint(tmp_path, 5, ranks=3)) == 3
    assert latest(tmp_path) is not None


def test_removing_checkpoints_leaves_the_one_to_keep_and_what_is_none(tmp_path):
    kept = make_checkpoint(tmp_path, 5)
    make_checkpoint(tmp_path, 10)
    make_checkpoint(tmp_path, 15, marked=False)
    (tmp_path / "runs").mkdir()
    (tmp_path / COPIES / "checkpoint-5").mkdir(parents=True)
    remove_checkpoints(tmp_path, keep=kept)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-5", "runs"]
    remove_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


class Stopping(OneRank):
    """With a driver that may ask to stop."""

    device = torch.device("cpu")

    def __init__(self, *, stopping=False):
        self._stopping = stopping

    def stop_requested(self):
        return self._stopping


class EveryStepHasTen:
    """Stands for `MicroBatches`: ten tokens per step."""

    def tokens_of(self, start, stop):
        return 10 * (stop - start)


def callback(folder, ranks):
    progress = Progress(folder / ".progress.json", enabled=False)
    speed = SpeedLines(folder / "speed.jsonl", EveryStepHasTen(), Speed())
    return RunCallback(ranks, progress, speed, stage="iter0/train", folder=folder, zero_stage=2)


def arguments(folder):
    return SimpleNamespace(output_dir=str(folder / "checkpoints"))


def test_a_saved_checkpoint_is_marked_complete_and_older_ones_go(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    make_checkpoint(checkpoints, 5)
    saved = make_checkpoint(checkpoints, 10, marked=False)
    state = TrainerState(global_step=10)
    callback(tmp_path, Stopping()).on_save(arguments(tmp_path), state, TrainerControl())
    assert latest(checkpoints) == saved
    assert list(checkpoints.iterdir()) == [saved]
    marker = json.loads((saved / "complete.json").read_text())
    assert set(marker["files"]) == {*FILES, "metric_sums_0.json"}


def test_a_view_of_another_node_that_lags_behind_makes_no_file_smaller(tmp_path):
    saved = make_checkpoint(tmp_path / "checkpoints", 10, marked=False)
    ranks = Stopping()
    ranks.board = "of several nodes"
    first = next(iter(FILES))
    late = {first: 1, "of_rank_1.pt": 7}  # sees less of what others wrote, and its own file
    ranks.gather = lambda mine: [mine, late]
    state = TrainerState(global_step=10)
    callback(tmp_path, ranks).on_save(arguments(tmp_path), state, TrainerControl())
    files = json.loads((saved / "complete.json").read_text())["files"]
    assert files.keys() == {*FILES, "metric_sums_0.json", "of_rank_1.pt"}
    assert files["of_rank_1.pt"] == 7
    assert files[first] == (saved / first).stat().st_size > 1


def test_a_copy_for_other_ranks_goes_with_the_first_step(tmp_path):
    copy = tmp_path / "checkpoints" / COPIES
    (copy / "checkpoint-5").mkdir(parents=True)
    kept = make_checkpoint(tmp_path / "checkpoints", 5)
    state = TrainerState(global_step=6, max_steps=9)
    callback(tmp_path, Stopping()).on_step_end(arguments(tmp_path), state, TrainerControl())
    assert (copy.exists(), kept.exists()) == (False, True)


@pytest.mark.parametrize("stopping", [False, True])
def test_a_run_asked_to_stop_saves_after_the_step_and_stops(tmp_path, stopping):
    control = TrainerControl()
    watcher = callback(tmp_path, Stopping(stopping=stopping))
    watcher.on_step_end(arguments(tmp_path), TrainerState(global_step=3, max_steps=9), control)
    assert (control.should_save, control.should_training_stop) == (stopping, stopping)
    assert watcher.stopped == stopping


def test_metrics_are_the_lines_logged_so_far_and_nothing_twice(tmp_path):
    watcher = callback(tmp_path, Stopping())
    lines = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    for count in (1, 2, 2):
        state = TrainerState(log_history=lines[:count])
        watcher.on_log(arguments(tmp_path), state, TrainerControl(), logs=lines[count - 1])
    written = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == lines


def test_on_one_machine_only_the_first_rank_looks_at_the_files(tmp_path):
    """Another one met what the first writes next, gone before it was measured."""

    class SecondRank(OneRank):
        is_first = False

    (tmp_path / "part").write_text("x")
    assert callback(tmp_path, Stopping())._files_of(tmp_path) == {"part": 1}
    assert callback(tmp_path, SecondRank())._files_of(tmp_path) == {}
