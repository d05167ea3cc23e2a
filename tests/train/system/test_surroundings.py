"""Launching is safe from surroundings: each works, or is refused in one line."""

import io
import os
import socket
import sys
import tempfile
import threading

import pytest

from spin_train import display
from spin_train.driver import local_workers
from spin_train.driver.launch import worker_environment
from spin_train.errors import UserError
from spin_train.system import surroundings


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """A user without an entry in passwd and without HOME, as `docker run --user 12345` has it."""

    def missing(uid):
        raise KeyError(uid)

    monkeypatch.setattr(surroundings.pwd, "getpwuid", missing)
    for name in ("HOME", "USER", "LOGNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_user_without_name_and_home_gets_both(nobody):
    variables = surroundings.home_variables()
    uid = os.getuid()
    assert variables["USER"] == variables["LOGNAME"] == f"uid{uid}"
    assert variables["HOME"] == f"{nobody}/spin_train-{uid}"
    assert os.stat(variables["HOME"]).st_mode & 0o077 == 0
    assert surroundings.caches().is_relative_to(nobody)
    assert worker_environment(1)["HOME"] == variables["HOME"]


def test_a_home_that_another_user_could_fill_is_refused(nobody):
    (nobody / f"spin_train-{os.getuid()}").mkdir(mode=0o777)
    (nobody / f"spin_train-{os.getuid()}").chmod(0o777)
    with pytest.raises(UserError, match="set HOME"):
        surroundings.home_variables()


def test_a_home_that_cannot_be_written_keeps_the_cache_of_the_hub(monkeypatch, tmp_path):
    home = tmp_path / "home"
    (home / ".cache" / "huggingface").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(home))
    monkeypatch.delenv("HF_HOME", raising=False)
    variables = surroundings.home_variables()
    assert variables["HOME"].startswith(f"{tmp_path}/spin_train-")
    assert variables["HF_HOME"] == f"{home}/.cache/huggingface"


def test_a_usual_home_changes_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert surroundings.home_variables() == {}


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"])
def test_one_of_several_mpi_processes_is_refused_and_one_alone_is_not(name):
    surroundings.refuse_other_launchers({name: "1"})
    surroundings.refuse_other_launchers({name: "4", "SLURM_STEP_ID": "0"})
    surroundings.refuse_other_launchers({"WORLD_SIZE": "4"})  # left over: the workers get their own
    with pytest.raises(UserError, match=f"{name}=4"):
        surroundings.refuse_other_launchers({name: "4"})
    with pytest.raises(UserError, match="set ranks"):
        surroundings.refuse_other_launchers({"WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"})


def test_workers_see_no_other_launcher(monkeypatch):
    left = {
        "OMPI_COMM_WORLD_SIZE": "1",
        "PMI_RANK": "0",
        "PMIX_ID": "x",
        "MV2_COMM_WORLD_RANK": "0",
        "RANK": "3",
        "WORLD_SIZE": "8",
        "MASTER_ADDR": "gone",
        "ACCELERATE_MIXED_PRECISION": "fp16",
        "TORCHELASTIC_RUN_ID": "x",
    }
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    assert left.keys() & worker_environment(2).keys() == set()


def test_an_interface_of_another_machine_is_left_out(monkeypatch):
    here = socket.if_nameindex()[0][1]
    kept, lines = surroundings.without_missing_interfaces(
        {"GLOO_SOCKET_IFNAME": "eth99", "NCCL_SOCKET_IFNAME": f"ib,{here[:1]}", "A": "b"}
    )
    assert kept == {"NCCL_SOCKET_IFNAME": f"ib,{here[:1]}", "A": "b"}
    assert "GLOO_SOCKET_IFNAME=eth99" in lines[0]
    usual = {"GLOO_SOCKET_IFNAME": here, "NCCL_SOCKET_IFNAME": "^docker"}
    assert surroundings.without_missing_interfaces(usual) == (usual, [])
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth99")
    assert "GLOO_SOCKET_IFNAME" not in worker_environment(1)


def test_numbers_of_threads_that_are_none_are_left_out(monkeypatch):
    """TrainingArguments would refuse them, after the data is prepared, in words of its own."""
    given = {"OMP_NUM_THREADS": "abc", "MKL_NUM_THREADS": "2,1", "A": "b"}
    kept, lines = surroundings.without_odd_threads(given)
    assert kept == {"MKL_NUM_THREADS": "2", "A": "b"}
    assert lines == ["OMP_NUM_THREADS=abc is left out: it is not a number of threads"]
    monkeypatch.setenv("OMP_NUM_THREADS", "0")
    assert int(worker_environment(1)["OMP_NUM_THREADS"]) > 0


def test_workers_import_nothing_from_the_working_directory(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}lib{os.pathsep}")
    environment = worker_environment(1)
    path = environment["PYTHONPATH"].split(os.pathsep)
    assert environment["PYTHONSAFEPATH"] == "1"
    assert path[-1] == os.path.abspath("lib")  # as given, from wherever; empty entries are the cwd
    assert "" not in path
    assert environment["PATH"].split(os.pathsep)[0] == os.path.dirname(sys.executable)


def test_the_root_of_the_package_is_on_the_path_only_if_it_is_found_by_nothing_else(monkeypatch):
    root = str(surroundings._PACKAGE_ROOT)
    alone = surroundings.interpreter_variables({"PYTHONPATH": root})
    assert alone["PYTHONPATH"] == root
    monkeypatch.setattr(surroundings.PathFinder, "find_spec", lambda *_: None)
    monkeypatch.setattr(surroundings, "distribution", _not_installed)
    assert surroundings.interpreter_variables({})["PYTHONPATH"] == root


def _not_installed(name):
    raise surroundings.PackageNotFoundError(name)


def test_no_place_for_temporary_files_is_refused(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    with pytest.raises(UserError, match="set TMPDIR"):
        surroundings.require_temporary_files()


def test_a_terminal_without_a_character_gets_it_escaped(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", None)
    surroundings.open_streams()
    sys.stdout.write("é…\n")
    sys.stderr.write("nothing")
    stream.flush()
    assert stream.buffer.getvalue() == b"\\xe9\\u2026\n"


def test_a_reader_that_has_gone_does_not_stop_a_run(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with display.watching() as watch:
            watch("prepare", 0, 1, "")
            watch("iter0/generate", 0, 1, "")


def test_a_run_may_be_played_outside_the_main_thread():
    entered = []

    def enter():
        with local_workers.stop_signals() as received:
            entered.append(received)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [[]]
