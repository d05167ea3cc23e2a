"""What a run refuses, each in one line."""

import json
import resource
import shutil
import signal

import pytest

from spin_train.config.files import load_config
from spin_train.driver import selfplay
from spin_train.errors import UserError
from spin_train.run.run import Run
from tests.train.runs import (
    SHORT,
    make_config,
    refused,
    run,
    start,
    succeed,
)

pytestmark = pytest.mark.process


def test_bad_rows_and_missing_files_are_one_line(tmp_path):
    config = make_config(tmp_path, **SHORT)
    rows = tmp_path / "rows.jsonl"
    good = rows.read_text()
    rows.write_text(good + '{"prompt": "abc"}\n')
    assert f"{rows}, line 61" in refused("run", config)
    rows.unlink()
    assert str(rows) in refused("run", config)
    rows.write_text(good)
    # Nothing was complete, so another configuration may take the directory over.
    line = refused("run", config, "training.batch_size=1000")
    assert "warm-up" in line
    assert "no config file" in refused("run", tmp_path / "missing.yaml")


def test_a_model_that_cannot_be_used_is_one_line(tmp_path):
    config = make_config(tmp_path, **SHORT)
    assert "template" in refused("run", config, "template=null")
    settings = tmp_path / "model" / "tokenizer_config.json"
    content = json.loads(settings.read_text())
    del content["eos_token"]
    settings.write_text(json.dumps(content))
    assert "end-of-text" in refused("run", config, f"output_dir={tmp_path}/no_eos")
    shutil.rmtree(tmp_path / "model")
    missing = refused("run", config, f"output_dir={tmp_path}/no_model")
    assert str(tmp_path / "model") in missing


def test_unknown_training_arguments_are_refused_before_anything_is_loaded(tmp_path):
    config = make_config(tmp_path, **SHORT, training={"adam_betta": 0.9})
    assert "training.adam_betta" in refused("run", config)
    assert not (tmp_path / "run").exists()


def test_an_optimiser_or_schedule_that_is_not_known_is_refused_at_once(tmp_path):
    config = load_config(make_config(tmp_path, **SHORT), ["training.optim=adamw_torc"])
    with pytest.raises(
        UserError, match=r"training.optim: .* no 'adamw_torc'; choose .* adamw_torch"
    ):
        selfplay.play(Run.of(config))
    config = load_config(make_config(tmp_path, **SHORT), ["training.lr_scheduler_type=cosinus"])
    with pytest.raises(UserError, match=r"lr_scheduler_type: .*cosine"):
        selfplay.play(Run.of(config))
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_zero_stage_is_refused_with_a_way_on(tmp_path):
    config = make_config(tmp_path, **SHORT, epochs=6)
    checkpoints = tmp_path / "run" / "iter0" / "checkpoints"
    process = start("run", config)
    while process.poll() is None and not any(checkpoints.glob("*/complete.json")):
        pass
    process.send_signal(signal.SIGTERM)
    process.communicate()
    line = refused("run", config, "zero_stage=1")
    assert "zero_stage=0, but this run has zero_stage=1" in line
    assert "--restart-iteration" in line
    code, _, err = run("run", config, "zero_stage=1", "--restart-iteration")
    assert code == 0, err
    assert (tmp_path / "run" / "iter0" / "policy").is_dir()


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path):
    limit = 60 * 1024  # bytes per file: enough for rows and logs, not for weights
    config = make_config(tmp_path, **SHORT, width=64)

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    line = refused("run", config, preexec_fn=small_files)
    assert "disk" in line or "limit" in line
    folder = tmp_path / "run"
    assert not (folder / "iter0" / "policy").exists()
    assert not list(folder.rglob("complete.json"))
    succeed("run", config)
    assert (folder / "iter0" / "policy").is_dir()


def test_a_second_run_in_the_same_directory_is_refused(tmp_path):
    config = make_config(tmp_path, **SHORT, epochs=20)
    first = start("run", config)
    while first.poll() is None and not (tmp_path / "run" / "manifest.json").exists():
        pass
    assert "another process" in refused("run", config)
    first.kill()
    first.communicate()
