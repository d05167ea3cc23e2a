"""The workers of one machine: started together, waited for, and what ended them."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from spin_train.driver.inputs import warn_of_crowding
from spin_train.driver.launch import launch_workers
from spin_train.driver.memory import refuse_killed_workers
from spin_train.driver.watching import Watcher, Window
from spin_train.errors import (
    DivergedError,
    StoppedError,
    UserError,
    WorkerError,
    is_consequence,
)
from spin_train.run.directory import RunDirectory
from spin_train.run.run import Run
from spin_train.system.files import read_object
from spin_train.system.processes import require_shared_memory

__all__ = ["POLL_SECONDS", "STOP_SECONDS", "begin_log", "end", "stop_signals", "work_locally"]

STOP_SECONDS = 300.0
"""For workers to reach a place where they can stop."""
POLL_SECONDS = 0.1
"""Between two looks at the workers."""
_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # Slurm warns with the last
_FULL_BYTES = 2**20


def begin_log(directory: RunDirectory) -> Path:
    """Remove what an earlier start told, and name the file for what workers write in this one."""
    for leftover in (directory.stop_request, directory.progress):
        leftover.unlink(missing_ok=True)
    shutil.rmtree(directory.worker_errors, ignore_errors=True)
    directory.logs.mkdir(exist_ok=True)
    return directory.logs / time.strftime("%Y%m%d-%H%M%S.log")


def work_locally(run: Run, watch: Watcher | None, *, ranks: int | None = None) -> None:
    """Start the workers, and wait until they have ended or were told to stop."""
    directory, ranks = run.directory, ranks or run.config.ranks or 1
    warn_of_crowding(ranks)
    require_shared_memory(ranks)
    log_path = begin_log(directory)
    with log_path.open("a", encoding="utf-8") as log, stop_signals() as received:
        launcher = launch_workers(run.root.resolve(), ranks=ranks, log=log)
        try:
            _wait(launcher, directory, received, watch)
        finally:
            end(launcher)
    if received:
        raise StoppedError(received[0])
    if launcher.returncode != 0:
        _raise_worker_error(launcher.returncode, run, log_path)


def _wait(
    launcher: "subprocess.Popen[str]",
    directory: RunDirectory,
    received: list[int],
    watch: Watcher | None,
) -> None:
    deadline = None
    window = Window(directory, watch)
    while launcher.poll() is None:
        if received and deadline is None:
            directory.stop_request.touch()
            deadline = time.monotonic() + STOP_SECONDS
        # After a second signal, or if the workers do not reach a place to stop.
        if len(received) > 1 or (deadline is not None and time.monotonic() > deadline):
            return
        window.look()
        time.sleep(POLL_SECONDS)
    window.look()


def end(launcher: "subprocess.Popen[str]") -> None:
    """Leave no worker behind: they share the launcher's session, and so its process group."""
    with suppress(ProcessLookupError):
        os.killpg(launcher.pid, signal.SIGKILL)
    launcher.wait()


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGTERM, SIGINT and SIGUSR1 instead of dying of them.

    Python gives signals to the main thread alone. A run in another one leaves them as they are:
    its workers end with the process.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in _STOPPING}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise_worker_error(code: int, run: Run, log_path: Path) -> None:
    directory = run.directory
    errors = sorted(directory.worker_errors.glob("*.json"))
    reports = sorted(map(read_object, errors), key=lambda report: is_consequence(report["line"]))
    fixable = [report for report in reports if report["code"] == 2]
    if fixable:
        kind = DivergedError if fixable[0]["diverged"] else UserError
        raise kind(fixable[0]["line"])
    if reports:
        raise WorkerError(f"{reports[0]['line']} (log: {log_path})")
    if shutil.disk_usage(directory.root).free < _FULL_BYTES:  # no room for a message either
        raise UserError(
            f"the disk of {directory.root} is full: free space, then run the same command again"
        )
    refuse_killed_workers(code, directory, run.config)
    raise WorkerError(
        f"the workers ended with code {code} and no message. "
        f"Run the same command again to resume (log: {log_path})"
    )
