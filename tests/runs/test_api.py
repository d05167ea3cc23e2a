"""A run from Python and in a notebook."""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import yaml

from spin_train.api import open_run, run
from spin_train.errors import StoppedError, UserError
from tests.train.runs import make_config, weights

pytestmark = pytest.mark.process


def content_of(folder, **changes):
    """The keys of a small run, and its rows."""
    content = yaml.safe_load(make_config(folder, iterations=1, **changes).read_text())
    lines = Path(content["data"].pop("path")).read_text().splitlines()
    return content, [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    content, rows = content_of(folder, control=True)
    return run(content, rows=rows, progress=False), content, rows


def test_rows_given_as_objects_train_what_the_same_file_does(played, tmp_path):
    from_file = make_config(tmp_path, iterations=1, control=True)
    run(from_file, progress=False)
    assert weights(played[0].root) == weights(tmp_path / "run")


def test_an_opened_run_is_the_run_that_was_played(played):
    opened = open_run(played[0].root)
    assert opened.evaluations == played[0].evaluations
    assert list(opened.policies) == ["p_0", "p_1", "control 1"]
    assert opened.policies["p_1"].numbers == opened.evaluations["p_1"]


def test_metrics_have_a_row_per_logged_line(played):
    frame = played[0].metrics()
    assert list(frame.stage.unique()) == ["sft/train", "iter0/train", "control/iter0/train"]
    lines = (played[0].root / "iter0/metrics.jsonl").read_text().splitlines()
    losses = [row["loss"] for row in map(json.loads, lines) if "loss" in row]
    spin = frame[(frame.iteration == 0) & ~frame.control]
    assert spin.loss.dropna().tolist() == losses


def test_samples_have_the_text_of_each_response(played):
    run, _, rows = played
    frame = run.samples(0)
    assert set(frame.role) == {"real", "generated"}
    real = frame[frame.role == "real"]
    expected = {(row["prompt"], row["response"]) for row in rows}
    shown = {
        (prompt.replace(" ", "").removesuffix(">"), response.replace(" ", ""))
        for prompt, response in zip(real.prompt, real.response, strict=True)
    }
    assert shown <= expected
    assert len(real) == len(rows)
    assert frame.opponent_logps.notna().all()
    with pytest.raises(UserError, match="not been sampled yet"):
        run.samples(1)


def test_other_rows_are_refused_once_something_rests_on_the_first(played):
    run_, content, rows = played
    with pytest.raises(UserError, match="started with other rows"):
        run(content, rows=rows[:-1], progress=False)
    assert run(content, rows=rows, progress=False).evaluations == run_.evaluations


def interrupt_once_there(path):
    """Send this process what an interrupted cell gets, as soon as a file is there."""
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


def test_a_moved_run_goes_on_with_the_same_rows(played, tmp_path):
    run_, content, rows = played
    shutil.copytree(run_.root, tmp_path / "moved")
    moved = run(content, [f"output_dir={tmp_path / 'moved'}"], rows=rows, progress=False)
    assert moved.evaluations == run_.evaluations
    assert len(moved.samples(0)) == len(run_.samples(0))


def test_samples_of_shards_that_are_not_scored_yet_are_shown_too(played, tmp_path):
    shutil.copytree(played[0].root, tmp_path / "run")
    (tmp_path / "run/iter0/scored/train-00000.parquet").unlink()
    frame = open_run(tmp_path / "run").samples(0)
    whole = played[0].samples(0)
    assert set(frame.prompt_id) == set(whole.prompt_id)
    assert 0 < frame.opponent_logps.isna().sum() < len(frame)


def test_an_interrupt_saves_and_stops_and_the_same_call_goes_on(played, tmp_path):
    content, rows = content_of(tmp_path, control=True)
    sampled = tmp_path / "run" / "iter0" / "generations" / "settings.json"
    thread = threading.Thread(target=interrupt_once_there, args=(sampled,))
    thread.start()
    with pytest.raises(StoppedError):
        run(content, rows=rows, progress=False)
    thread.join()
    assert not (tmp_path / "run" / "iter0" / "policy").exists()
    run(content, rows=rows, progress=False)
    assert weights(tmp_path / "run") == weights(played[0].root)


def test_bars_show_in_a_notebook(tmp_path):
    import nbformat  # takes seconds to import
    from nbclient import NotebookClient

    cell = (
        "from spin_train.display import watching\n"
        "with watching() as watch:\n"
        "    watch('iter0/train', 1, 2, 'loss 0.5')"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    done = NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = json.dumps(done)
    assert "iter0/train" in shown
    assert "spin-train: iter0/train" not in shown  # the plain lines of a pipe
    assert "support" not in shown  # rich's request for ipywidgets
