"""How far a run is, told from files that stand for each moment of its life."""

import fcntl
import json
import shutil
import time

import pytest

from spin_train.config.files import load_config
from spin_train.display import speed_table, status_table
from spin_train.errors import UserError
from spin_train.run.graph import stages_of
from spin_train.run.status import read_status
from spin_train.run.tables import duration
from spin_train.system.owner import Owner, node_name
from spin_train.system.progress import Progress
from tests.train.runs import make_config


def make_run(folder, *, took, current=None, **changes):
    """A run directory with stages that took so many seconds, and one that is begun."""
    config = make_config(folder, **changes)
    root = folder / "run"
    root.mkdir()
    (root / "logs").mkdir()
    shutil.copy(config, root / "config.yaml")
    stages = {
        name: {"finished": "2026-01-01T00:00:00+0000", "seconds": seconds, "files": {}}
        for name, seconds in took.items()
    }
    (root / "manifest.json").write_text(json.dumps({"stages": stages}))
    if current:
        stage, done, total, elapsed, before = current
        now = time.time()
        word = {"stages": [*took, stage], "done": done, "total": total, "note": ""}
        word |= {"started": now - elapsed - 5, "since": [now - elapsed, before], "written": now}
        (root / ".progress.json").write_text(json.dumps(word))
    return root


def by_name(status):
    return {stage.name: stage for stage in status.stages}


FIRST = {
    "data/prepare": 1.0,
    "sft/train": 100.0,
    "initial/evaluate": 5.0,
    "iter0/generate": 50.0,
    "iter0/score": 20.0,
}


def test_a_stage_in_work_tells_its_time_left_by_its_own_pace(tmp_path):
    """30 of 100 steps, resumed at step 10, in 40 seconds: 70 more at 2 seconds each."""
    root = make_run(tmp_path, took=FIRST, current=("iter0/train", 30, 100, 40.0, 10))
    stages = by_name(read_status(root))
    train = stages["iter0/train"]
    assert (train.state, train.done, train.total) == ("stopped", 30, 100)
    assert train.eta_seconds == pytest.approx(140.0, abs=0.5)
    assert train.seconds == pytest.approx(45.0, abs=0.5)


def test_waiting_stages_take_what_the_last_of_their_kind_took(tmp_path):
    took = FIRST | {"iter0/train": 200.0, "iter0/evaluate": 7.0}
    root = make_run(tmp_path, took=took, epochs=[2, 3], mixing=1)
    stages = by_name(read_status(root))
    assert stages["iter1/generate"].eta_seconds == 50.0
    # Mixing gives the second iteration twice the pairs, and it has half as many epochs again.
    assert stages["iter1/score"].eta_seconds == 40.0
    assert stages["iter1/train"].eta_seconds == 200.0 * 2 * 3 / 2
    assert stages["iter1/evaluate"].eta_seconds == 7.0
    # The last policy samples only the held-out prompts, a tenth of all.
    (root / "data").mkdir()
    (root / "data" / "summary.json").write_text('{"train": 90, "held_out": 10}')
    assert by_name(read_status(root))["iter1/sample"].eta_seconds == 5.0
    assert read_status(root).eta_seconds == 50.0 + 40.0 + 600.0 + 7.0 + 5.0


def test_more_samples_than_mixing_adds_are_not_waited_for(tmp_path):
    took = FIRST | {"iter0/train": 200.0, "iter0/evaluate": 7.0}
    stages = by_name(read_status(make_run(tmp_path, took=took, iterations=4, mixing=1)))
    assert [stages[f"iter{k}/score"].eta_seconds for k in (1, 2, 3)] == [40.0] * 3
    assert [stages[f"iter{k}/train"].eta_seconds for k in (1, 2, 3)] == [400.0] * 3


def test_the_first_iteration_takes_what_sft_took_an_epoch(tmp_path):
    """100 seconds for the two epochs of SFT."""
    stages = by_name(read_status(make_run(tmp_path, took=FIRST, epochs=3)))
    assert stages["iter0/train"].eta_seconds == 150.0


def test_a_control_takes_what_controls_took(tmp_path):
    took = FIRST | {"iter0/train": 200.0, "iter0/evaluate": 7.0}
    took |= {"control/iter0/train": 90.0, "control/iter0/evaluate": 3.0}
    stages = by_name(read_status(make_run(tmp_path, took=took, control=True)))
    assert stages["iter1/train"].eta_seconds == 200.0
    assert stages["control/iter1/train"].eta_seconds == 90.0
    assert stages["iter1/evaluate"].eta_seconds == 7.0
    assert stages["control/iter1/evaluate"].eta_seconds == 3.0


def test_time_left_runs_on_between_two_words_of_a_run_in_work(tmp_path):
    root = make_run(tmp_path, took=FIRST, current=("iter0/train", 30, 100, 40.0, 10))
    word = json.loads((root / ".progress.json").read_text())
    moments = {"started": word["started"] - 60, "written": word["written"] - 60}
    moments["since"] = [word["since"][0] - 60, word["since"][1]]
    (root / ".progress.json").write_text(json.dumps(word | moments))
    with (root / ".lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        train = by_name(read_status(root))["iter0/train"]
    assert train.eta_seconds == pytest.approx(140.0 - 60.0, abs=0.5)
    assert train.seconds == pytest.approx(45.0 + 60.0, abs=0.5)


def test_iterations_that_patience_ends_are_not_waited_for(tmp_path):
    took = FIRST | {"iter0/train": 200.0, "iter0/evaluate": 7.0}
    root = make_run(tmp_path, took=took, selection={"patience": 1})
    for place, value in (("initial", 1.0), ("iter0", 2.0)):
        (root / place).mkdir()
        numbers = json.dumps({"real_nll_per_token": value})
        (root / place / "evaluation.json").write_text(numbers)
    status = read_status(root)
    assert {stage.state for stage in status.stages} == {"done"}
    assert "iter1/generate" not in by_name(status)


def test_later_stages_take_what_the_one_in_work_is_going_to(tmp_path):
    took = {name: FIRST[name] for name in ("data/prepare", "initial/evaluate")}
    current = ("iter0/generate", 10, 40, 20.0, 0)  # 2 s a shard, 60 s left, 85 s in all
    stages = by_name(read_status(make_run(tmp_path, took=took, current=current, sft=None)))
    assert stages["iter0/generate"].eta_seconds == pytest.approx(60.0, abs=0.5)
    assert stages["iter1/generate"].eta_seconds == pytest.approx(85.0, abs=0.5)


def test_later_stages_take_what_one_that_is_over_took_before_what_one_in_work_will(tmp_path):
    current = ("iter1/generate", 10, 40, 20.0, 0)  # 85 s in all
    took = FIRST | {"iter0/train": 200.0, "iter0/evaluate": 7.0}
    stages = by_name(read_status(make_run(tmp_path, took=took, current=current, iterations=3)))
    assert stages["iter2/generate"].eta_seconds == 50.0


def test_a_stage_that_has_no_pace_yet_takes_what_the_last_of_its_kind_took(tmp_path):
    took = FIRST | {"iter0/train": 200.0, "iter0/evaluate": 7.0}
    root = make_run(tmp_path, took=took, current=("iter1/generate", 0, 1, 0.0, 0))
    stage = by_name(read_status(root))["iter1/generate"]
    assert (stage.state, stage.done, stage.total) == ("stopped", None, None)
    assert stage.eta_seconds == 50.0


def test_what_nothing_tells_is_not_invented(tmp_path):
    status = read_status(make_run(tmp_path, took={"data/prepare": 1.0}))
    assert by_name(status)["iter0/generate"].eta_seconds is None
    assert status.eta_seconds is None


def test_a_finished_run_has_nothing_left(tmp_path):
    stages = [stage.name for stage in stages_of(load_config(make_config(tmp_path)))]
    status = read_status(make_run(tmp_path, took=dict.fromkeys(stages, 1.0)))
    assert {stage.state for stage in status.stages} == {"done"}
    assert status.eta_seconds == 0
    assert not status.working


def test_a_run_is_worked_on_as_long_as_its_lock_is_held(tmp_path):
    root = make_run(tmp_path, took=FIRST, current=("iter0/train", 1, 9, 1.0, 0))
    (root / ".lock").touch()
    with (root / ".lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status = read_status(root)
        assert status.working
        assert by_name(status)["iter0/train"].state == "running"
    assert not read_status(root).working


def test_a_run_of_another_node_is_worked_on_as_long_as_that_node_says_so(tmp_path):
    root = make_run(tmp_path, took=FIRST)
    assert not read_status(root).working
    with Owner(root / ".owner.json", "node3"):
        assert read_status(root).working
    assert not read_status(root).working
    with Owner(root / ".owner.json", node_name()):  # a kill leaves it; here the lock tells
        assert not read_status(root).working


def test_a_connection_that_broke_is_not_told_before_its_cause(tmp_path):
    root = make_run(tmp_path, took=FIRST)
    (root / ".errors").mkdir()
    for number, line in enumerate(("RuntimeError: Connection closed by peer", "ValueError: x")):
        told = json.dumps({"code": 1, "line": line, "diverged": False})
        (root / ".errors" / f"{number}-{number}-1.json").write_text(told)
    assert read_status(root).error == "ValueError: x"


def test_a_stage_whose_files_are_gone_waits_to_be_done_again(tmp_path):
    root = make_run(tmp_path, took=FIRST)
    manifest = json.loads((root / "manifest.json").read_text())
    gone = {"initial/evaluation.json": {"bytes": 1, "sha256": ""}}
    manifest["stages"]["initial/evaluate"]["files"] = gone
    (root / "manifest.json").write_text(json.dumps(manifest))
    assert by_name(read_status(root))["initial/evaluate"].state == "waiting"


def test_a_stage_whose_file_has_another_size_is_not_said_to_be_done_again(tmp_path):
    root = make_run(tmp_path, took=FIRST)
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["stages"]["initial/evaluate"]["files"] = {"config.yaml": {"bytes": 1, "sha256": ""}}
    (root / "manifest.json").write_text(json.dumps(manifest))
    assert by_name(read_status(root))["initial/evaluate"].state == "done"


def test_the_last_loss_is_that_of_the_last_stage_that_logged_one(tmp_path):
    root = make_run(tmp_path, took=FIRST)
    for place, rows in (
        ("sft", [{"step": 7, "loss": 3.0}]),
        ("iter0", [{"step": 1, "loss": 0.7}, {"step": 2, "grad_norm": 1.0}]),
        ("iter1", [{"step": 1, "grad_norm": 1.0}]),
    ):
        (root / place).mkdir()
        (root / place / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    status = read_status(root)
    assert (status.loss, status.loss_at) == (0.7, "iter0/train step 1")


def test_the_log_is_that_of_the_last_start(tmp_path):
    root = make_run(tmp_path, took=FIRST)
    for name in ("20260102-000000", "20260101-000000"):
        (root / "logs" / f"{name}.log").touch()
    assert read_status(root).log == str(root / "logs" / "20260102-000000.log")


def test_last_loss_and_the_error_that_can_be_mended_are_told(tmp_path):
    root = make_run(tmp_path, took=FIRST)
    (root / "sft").mkdir()
    rows = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.5}]
    (root / "sft" / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / ".errors").mkdir()
    for number, (code, line) in enumerate([(1, "connection closed"), (2, "the disk is full")]):
        (root / ".errors" / f"{number}-{code}.json").write_text(
            json.dumps({"code": code, "line": line})
        )
    (root / "logs" / "20260101-000000.log").touch()
    status = read_status(root)
    assert (status.loss, status.loss_at) == (2.5, "sft/train step 2")
    assert status.error == "the disk is full"
    assert status.log == str(root / "logs" / "20260101-000000.log")


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no run at .*: it has no config\.yaml"):
        read_status(tmp_path)


def test_the_directory_of_a_demo_stands_for_the_run_in_it(tmp_path):
    make_run(tmp_path / "demo", took={})
    run = next(tmp_path.rglob("config.yaml")).parent
    run.rename(tmp_path / "run")
    assert read_status(tmp_path) == read_status(tmp_path / "run")


def test_nothing_in_the_run_is_changed(tmp_path):
    root = make_run(tmp_path, took=FIRST, current=("iter0/train", 1, 9, 1.0, 0))
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    read_status(root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_progress_notes_when_a_stage_began_and_where_its_count_did(tmp_path):
    progress = Progress(tmp_path / "progress.json", enabled=True)

    def word():
        return json.loads((tmp_path / "progress.json").read_text())

    progress.report("iter0/train", 0, 1)
    started = word()["started"]
    time.sleep(0.25)  # loading
    progress.report("iter0/train", 11, 40)  # resumed
    assert word()["started"] == started
    assert word()["since"][1] == 11
    assert word()["since"][0] >= started + 0.25
    time.sleep(0.25)
    progress.report("iter0/train", 12, 40)
    assert word()["since"][1] == 11
    assert word()["written"] >= word()["since"][0] + 0.25


def test_speed_and_memory_are_those_of_the_manifest_and_of_the_last_line_in_training(tmp_path):
    root = make_run(tmp_path, took=FIRST, current=("iter0/train", 30, 100, 40.0, 10))
    manifest = json.loads((root / "manifest.json").read_text())
    speed = {"tokens_per_second": 1234.5, "peak_memory": [2**30, 3 * 2**30]}
    manifest["stages"]["iter0/score"]["speed"] = speed | {"device_memory": [2**33, 2**34]}
    (root / "manifest.json").write_text(json.dumps(manifest))
    (root / "iter0").mkdir()
    (root / "iter0" / "speed.jsonl").write_text(json.dumps(speed) + "\n")
    status = read_status(root)
    found = by_name(status)
    assert found["iter0/score"].device_memory == 2**34  # of the fullest rank
    assert found["iter0/train"].peak_memory == 3 * 2**30
    assert found["iter0/generate"].peak_memory is None  # a run of before
    rows = list(zip(*(column.cells for column in speed_table(status).columns), strict=True))
    assert rows == [
        ("iter0/score", "1,234", "3.0 of 16.0 GiB"),
        ("iter0/train", "1,234", "3.0 GiB"),
    ]


def test_times_are_written_for_people(tmp_path):
    root = make_run(tmp_path, took=FIRST | {"iter0/score": 3725.0})
    table = status_table(read_status(root))
    assert "1:02:05" in list(table.columns[3].cells)
    assert duration(None) == ""
