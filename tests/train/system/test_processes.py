import os
import shutil
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from spin_train.config.files import parse_config
from spin_train.driver import local_workers, worker
from spin_train.driver.launch import worker_environment
from spin_train.errors import DivergedError, UserError
from spin_train.run.run import Run
from spin_train.system import processes, ranks
from spin_train.system.locks import FileLock
from spin_train.system.processes import DRIVER_VARIABLE, build_communication_op, cpu_only

HOLD = """
import pathlib, sys, time
from spin_train.system.processes import FileLock
lock = FileLock(pathlib.Path(sys.argv[1]))
assert lock.acquire(shared=sys.argv[2] == "shared")
print("held", flush=True)
time.sleep(60)
"""


def started(code, *arguments, **options):
    """A Python process, once it has said something."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stdout.readline(), "it died before it was ready"
    return process


@contextmanager
def holder(path, *, mode="exclusive"):
    process = started(HOLD, path, mode)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.process
def test_a_lock_keeps_a_second_process_out(tmp_path):
    with holder(tmp_path / "lock"):
        assert not FileLock(tmp_path / "lock").acquire()


@pytest.mark.process
def test_the_kernel_frees_the_lock_of_a_killed_process(tmp_path):
    with holder(tmp_path / "lock") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert FileLock(tmp_path / "lock").acquire()


@pytest.mark.process
def test_shared_holders_stand_beside_each_other_and_keep_an_exclusive_one_out(tmp_path):
    with holder(tmp_path / "lock", mode="shared"):
        shared, exclusive = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
        assert shared.acquire(shared=True)
        assert not exclusive.acquire()


def test_a_released_lock_is_free(tmp_path):
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()


@pytest.mark.process
def test_a_lock_that_is_waited_for_is_taken_when_it_gets_free(tmp_path):
    with holder(tmp_path / "lock") as process:
        lock = FileLock(tmp_path / "lock")
        assert not lock.acquire(wait_s=0.2)
        process.kill()
        assert lock.acquire(wait_s=10)


WORKER = """
import pathlib, sys, time
from spin_train.system.processes import FileLock, die_with_driver
die_with_driver()
lock = FileLock(pathlib.Path(sys.argv[1]))
assert lock.acquire()
print("working", flush=True)
time.sleep(60)
"""
LAUNCHER = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.run([sys.executable, "-c", sys.argv[1], sys.argv[2]])
"""
DRIVER = """
import os, subprocess, sys, time
from spin_train.system.processes import DRIVER_VARIABLE
environment = dict(os.environ) | {DRIVER_VARIABLE: str(os.getpid())}
worker, launcher, path, direct = sys.argv[1:]
code = [worker, path] if direct == "True" else [launcher, worker, path]
subprocess.Popen([sys.executable, "-c", *code], env=environment, start_new_session=True)
time.sleep(60)
"""
DEATH_SECONDS = 3.0


@pytest.mark.process
@pytest.mark.parametrize("direct", [True, False], ids=["its_child", "behind_a_launcher"])
def test_a_worker_dies_soon_after_its_driver_is_killed(tmp_path, direct):
    # Behind a launcher that lives on, so that only the worker's own watch can end it.
    driver = started(DRIVER, WORKER, LAUNCHER, tmp_path / "lock", direct)
    assert not FileLock(tmp_path / "lock").acquire()
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    assert FileLock(tmp_path / "lock").acquire(wait_s=DEATH_SECONDS)


@pytest.mark.process
@pytest.mark.parametrize("sender", ["launcher", "stranger"])
def test_sigterm_ends_a_worker_if_it_comes_from_the_launcher(tmp_path, sender):
    ending = f"""
import os, signal, subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], stdout=subprocess.PIPE)
worker.stdout.readline()
os.kill(worker.pid, signal.SIGTERM) if {sender == "launcher"} else subprocess.run(
    ["kill", "-TERM", str(worker.pid)]
)
try:
    print(worker.wait({DEATH_SECONDS}), flush=True)
except subprocess.TimeoutExpired:
    print("lives", flush=True)
    worker.kill()
"""
    environment = dict(os.environ) | {DRIVER_VARIABLE: str(os.getpid())}
    command = [sys.executable, "-c", ending, WORKER, str(tmp_path / "lock")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == (str(128 + signal.SIGTERM) if sender == "launcher" else "lives")


@pytest.mark.process
def test_a_worker_dies_with_its_launcher_while_the_driver_lives(tmp_path):
    environment = dict(os.environ) | {DRIVER_VARIABLE: str(os.getpid())}
    launcher = started(LAUNCHER, WORKER, tmp_path / "lock", env=environment)
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    launcher.stdout.close()
    assert FileLock(tmp_path / "lock").acquire(wait_s=DEATH_SECONDS)


@pytest.mark.parametrize(("ranks", "threads"), [(1, 8), (2, 4), (3, 2), (16, 1)])
def test_the_ranks_share_the_cores(monkeypatch, ranks, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert worker_environment(ranks)["OMP_NUM_THREADS"] == str(threads)


def test_threads_that_the_user_chose_stay(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert worker_environment(2)["OMP_NUM_THREADS"] == "5"


def test_workers_know_their_driver():
    assert worker_environment(1)[DRIVER_VARIABLE] == str(os.getpid())


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_devices_are_no_devices(monkeypatch, hidden):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert cpu_only()
    assert worker_environment(1)["DS_ACCELERATOR"] == "cpu"


def test_a_missing_compiler_is_refused_with_its_package(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"install g\+\+"):
        build_communication_op()
    assert list(tmp_path.rglob("built")) == []


COMPILER = """#!/bin/sh
case "$1" in --version | -dump*) exec g++ "$@" ;; esac
echo "shm.cpp:3:1: error: expected unqualified-id" >&2
exit 1
"""


@pytest.mark.process
def test_a_compilation_that_fails_is_told_by_the_compilers_own_line(monkeypatch, tmp_path):
    compiler = tmp_path / "compiler"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(UserError, match=r"does not compile: shm\.cpp:3:1: error: .*-id$"):
        build_communication_op()
    assert list(tmp_path.rglob("built")) == []


def test_a_lock_that_a_killed_compilation_left_is_not_waited_for(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    left = processes.extensions_folder() / "deepspeed_shm_comm" / "lock"
    seen = []

    def compile_it(cache, lock):
        seen.append(left.exists())

    monkeypatch.setattr(processes, "_compile_communication_op", compile_it)
    left.parent.mkdir(parents=True)
    left.touch()  # a moment ago
    build_communication_op()
    assert seen == [False]
    left.touch()  # by a rank of another run, which loads what is built
    build_communication_op()
    assert seen == [False]
    assert left.exists()


@pytest.mark.process
def test_a_compilation_whose_driver_died_is_waited_for(monkeypatch, tmp_path):
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire()
    children = []

    def run(command, *, pass_fds=(), **_):
        children.append(subprocess.Popen(["sleep", "30"], pass_fds=pass_fds))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(processes.subprocess, "run", run)
    processes._compile_communication_op(tmp_path, lock)
    try:
        lock.release()
        assert not FileLock(tmp_path / "lock").acquire()
    finally:
        children[0].kill()
        children[0].wait()
    assert FileLock(tmp_path / "lock").acquire(wait_s=5)


def test_the_driver_tells_a_diverged_run_from_other_errors(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "_leave", lambda code: None)
    content = {"model": "m", "data": {"path": "d"}, "output_dir": str(tmp_path)}
    run = Run.of(parse_config(content))
    directory = run.directory
    worker._fail(directory, 2, "the loss is nan", diverged=True)
    with pytest.raises(DivergedError, match="the loss is nan"):
        local_workers._raise_worker_error(1, run, tmp_path / "log")
    shutil.rmtree(directory.worker_errors)
    worker._fail(directory, 2, "no such file")
    with pytest.raises(UserError) as caught:
        local_workers._raise_worker_error(1, run, tmp_path / "log")
    assert not isinstance(caught.value, DivergedError)


def test_too_little_shared_memory_is_refused_before_any_rank_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(processes, "_SHARED_MEMORY", tmp_path)
    room = 2 * processes._BUFFER_BYTES
    monkeypatch.setattr(processes.shutil, "disk_usage", lambda _: SimpleNamespace(free=room))
    processes.require_shared_memory(2)
    with pytest.raises(UserError, match=r"has 144 MiB free, but 3 ranks need .*--shm-size"):
        processes.require_shared_memory(3)


def test_shared_memory_of_another_user_is_refused_before_any_rank_starts(tmp_path, monkeypatch):
    """DeepSpeed says that a buffer failed, and then waits for it without end."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(processes, "_SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(processes.os, "access", lambda path, mode: path != tmp_path)  # root may
    with pytest.raises(UserError, match=r"cannot be written by this user, .*mount -t tmpfs"):
        processes.require_shared_memory(1)


def test_more_ranks_than_devices_are_refused_with_both_numbers(monkeypatch):
    monkeypatch.setattr(ranks.torch.cuda, "device_count", lambda: 2)
    ranks._require_device(1)
    with pytest.raises(UserError, match=r"local rank 2 has no device .* shows 2; start 2 ranks"):
        ranks._require_device(2)
