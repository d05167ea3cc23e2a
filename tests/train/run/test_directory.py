import json
import os
import signal
import subprocess
import sys

import pytest

from spin_train.errors import UserError
from spin_train.run.directory import RunDirectory
from spin_train.run.manifest import Manifest
from spin_train.system.files import PARTIAL, write_atomically, write_directory, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_there_when_its_block_ends(tmp_path):
    path = tmp_path / "new" / "file"
    with write_atomically(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert names(path.parent) == ["file"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail():
        with write_atomically(path) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_directory_replaces_the_old_one_as_a_whole(tmp_path):
    path = tmp_path / "policy"
    path.mkdir()
    (path / "stale").touch()
    with write_directory(path) as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "fresh").touch()
    assert names(path) == ["sub"]
    assert names(tmp_path) == ["policy"]


def test_a_failed_directory_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "policy"
    path.mkdir()
    (path / "old").touch()

    def fail():
        with write_directory(path) as partial:
            (partial / "half").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(path) == ["old"]
    assert names(tmp_path) == ["policy"]


def test_what_a_killed_writer_left_does_not_get_into_the_directory(tmp_path):
    path = tmp_path / "policy"
    leftover = tmp_path / f"policy{PARTIAL}"
    leftover.mkdir()
    (leftover / "half").touch()
    with write_directory(path) as partial:
        (partial / "fresh").touch()
    assert names(path) == ["fresh"]


KILLED = """
import os, pathlib, signal, sys
from spin_train.system.files import write_atomically, write_directory
path = pathlib.Path(sys.argv[2])
if sys.argv[1] == "file":
    with write_atomically(path) as partial:
        partial.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
with write_directory(path) as partial:
    (partial / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.process
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_writer_killed_half_way_leaves_nothing_under_the_name(tmp_path, kind):
    path = tmp_path / "artefact.parquet"
    killed = subprocess.run([sys.executable, "-c", KILLED, kind, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not path.exists()
    assert list(tmp_path.glob("*.parquet")) == []  # nor anything that a reader would pick up


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path)
    run.train_rows.parent.mkdir()
    run.train_rows.write_bytes(b"12345")
    Manifest(run).complete("data/prepare", [run.train_rows], seconds=1.5)
    return run


def test_a_stage_is_complete_once_recorded_also_for_a_later_process(run):
    assert Manifest(run).is_complete("data/prepare")
    assert not Manifest(run).is_complete("sft/train")


def test_the_manifest_names_files_relative_to_the_run(run):
    # So that a run directory can be moved. The digest is that of: printf 12345 | sha256sum
    content = json.loads(run.manifest_file.read_text())
    digest = "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"
    expected = {"data/train.parquet": {"bytes": 5, "sha256": digest}}
    assert content["stages"]["data/prepare"]["files"] == expected


def test_a_stage_whose_file_is_gone_is_done_again(run):
    run.train_rows.unlink()
    assert not Manifest(run).is_complete("data/prepare")


def test_a_file_of_another_size_is_refused_by_name(run):
    run.train_rows.write_bytes(b"1234")
    with pytest.raises(UserError, match=r"train\.parquet has 4 bytes, but 5 when data/prepare"):
        Manifest(run).is_complete("data/prepare")


def test_json_ends_with_a_newline_and_keeps_the_order_of_keys(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [2]})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": 1,\n  "a": [\n    2\n  ]\n}\n'


@pytest.mark.process
def test_two_processes_may_write_the_same_file(tmp_path):
    path = tmp_path / "file"
    with write_atomically(path) as partial:
        partial.write_text("ours")
        code = "import pathlib,sys; from spin_train.system.files import write_json;"
        code += "write_json(pathlib.Path(sys.argv[1]), 'theirs')"
        subprocess.run([sys.executable, "-c", code, str(path)], check=True, env=dict(os.environ))
        assert json.loads(path.read_text()) == "theirs"
    assert path.read_text() == "ours"
