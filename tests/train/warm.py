"""The command line in a process forked from one that has imported everything already.

Importing torch, transformers and DeepSpeed takes longer than most small runs: twice a run, and once
more per rank. A server (multiprocessing's `forkserver`) imports them once for all tests of a pytest
process; the command line is forked from it, and its workers from the command line. The rest is the
product's own: arguments, locks, signals, files. How processes really start is what others see:
`test_run.py`, `test_kill.py`, `test_demo.py` and `test_api.py` of `tests/runs/`, `test_launch.py`
of the driver, and the wheel's test.
"""

import gc
import multiprocessing
import os
import signal
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path

import pytest

from spin_train.system.processes import cpu_only

CALLERS_OWN = {"COLUMNS", "PYTEST_CURRENT_TEST", "PWD", "OLDPWD"}
"""Variables that nothing reads as it is imported; with others changed, a run starts cold."""

IMPORTED = [
    *("deepspeed", "peft", "transformers", "spin_train.cli", "spin_train.stages.rehearsal"),
    *("spin_train.driver.memory", "spin_train.driver.selfplay", "spin_train.driver.worker"),
    *("spin_train.stages.table", "spin_train.stages.work"),
]
AS_WORKERS = {
    "DS_ACCELERATOR": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "TOKENIZERS_PARALLELISM": "false",
}
"""What a worker without a device is given, and reads as it imports these."""

_CONTEXT = multiprocessing.get_context("forkserver")
_server: dict[str, str] = {}  # the environment of the tests when the server was started


def fits(environment: dict[str, str]) -> bool:
    """Say whether what the server has imported would be the same under this environment."""
    if not cpu_only():
        return False
    if not _server:
        _server.update(os.environ)
        _CONTEXT.set_forkserver_preload(IMPORTED)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in AS_WORKERS.items():
                patch.setenv(name, value)
            forkserver.ensure_running()
    names = (set(_server) | set(environment)) - CALLERS_OWN
    return all(_server.get(name) == environment.get(name) for name in names)


def run(
    arguments: list[str], *, environment: dict[str, str], timeout: float
) -> tuple[int, str, str]:
    """Run the command line; returns (exit code, standard output, standard error)."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("out", "err")]
        process = _CONTEXT.Process(
            target=_command_line, args=(arguments, environment, os.getcwd(), *outputs)
        )
        process.start()
        process.join(timeout)
        in_time = process.exitcode is not None
        if not in_time:
            process.kill()
            process.join()
        out, err = (path.read_text() if path.exists() else "" for path in outputs)
        assert in_time, f"spin-train {arguments} ran longer than {timeout} s\n{out}\n{err}"
        return process.exitcode, out, err


def _command_line(arguments, environment, folder, out, err):
    import spin_train.driver.local_workers
    from spin_train.cli import main

    gc.freeze()  # a collection need not go through all that was imported
    os.chdir(folder)
    _become(environment, out, err)
    spin_train.driver.local_workers.launch_workers = _launch_workers
    sys.argv = ["spin-train", *arguments]
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    else:
        code = 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _become(environment, out, err):
    """Take an environment and output files, as a new interpreter would."""
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, out), (2, err)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115


class _Launcher:
    """A forked launcher, as a `subprocess.Popen`: what the driver asks one."""

    def __init__(self, pid):
        self.pid = pid
        self.returncode = None

    def poll(self, options=os.WNOHANG):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self):
        return self.poll(0)


def _launch_workers(run_root, *, ranks, log):
    from spin_train.driver.launch import _begin_launcher, _free_port, worker_environment

    environment = worker_environment(ranks)
    environment |= {"WORLD_SIZE": str(ranks), "LOCAL_SIZE": str(ranks)}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return _Launcher(pid)
    os.setsid()
    _begin_launcher()
    _become(environment, log.name, log.name)
    if ranks == 1:
        _work(run_root, 0)
    workers = {}
    for rank in range(ranks):
        worker = os.fork()
        if worker == 0:
            _work(run_root, rank)
        workers[worker] = rank
    code = 0
    while workers:
        pid, status = os.wait()
        del workers[pid]
        if status and not code:  # as DeepSpeed's launcher: one failed, the others end
            code = 1
            for worker in workers:
                os.kill(worker, signal.SIGTERM)
    os._exit(code)


def _work(run_root, rank):
    from spin_train.driver import worker

    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    sys.argv = ["worker", str(run_root)]
    worker.main()
