"""The driver: starts or resumes a run, and waits for its workers."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import FrameType

from spin_train.config.changes import refused_on_resuming
from spin_train.config.files import load_config
from spin_train.config.yaml12 import yaml_text
from spin_train.driver.inputs import require_inputs, warn_of_crowding
from spin_train.driver.launch import launch_workers
from spin_train.driver.memory import refuse_killed_workers
from spin_train.driver.preflight import refuse_early
from spin_train.errors import (
    DivergedError,
    StoppedError,
    UserError,
    WorkerError,
    is_consequence,
)
from spin_train.run.cards import write_cards
from spin_train.run.directory import RunDirectory, remove_partial
from spin_train.run.graph import JUDGING
from spin_train.run.manifest import Manifest
from spin_train.run.resting import resting_note
from spin_train.run.run import Run
from spin_train.system.files import read_object, write_atomically
from spin_train.system.locks import FileLock
from spin_train.system.ownership import claim
from spin_train.system.processes import build_communication_op, require_shared_memory

__all__ = ["Watcher", "begin_log", "end", "play", "show", "stop_signals", "tell"]

_LOG = logging.getLogger(__name__)

_GLANCE_SECONDS = 0.5  # `spin-train status` touches the lock for an instant
_ORPHAN_SECONDS = 30.0
_STOP_SECONDS = 300.0
_POLL_SECONDS = 0.1
_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # Slurm warns with the last
_FULL_BYTES = 2**20


Watcher = Callable[[str, int, int, str], None]
Work = Callable[[Run, Watcher | None], None]


def play(
    run: Run,
    *,
    restart_iteration: bool = False,
    watch: Watcher | None = None,
    before: Callable[[], None] | None = None,
    work: Work | None = None,
    until: str | None = None,
) -> None:
    """Start a run, or resume it from what is complete.

    Parameters
    ----------
    run : Run
        The run and its directory.
    restart_iteration : bool, default False
        Forget the checkpoints of training stages that are not complete.
    watch : callable, optional
        Called with stage, done, total and a note while the workers work.
    before : callable, optional
        Called once the run is locked, before anything else is written.
    work : callable, optional
        Called with the run and `watch` to start workers and wait for them, in place of those of
        this machine alone.
    until : str, optional
        Name of the last stage to do, such as ``iter0/generate``.

    Raises
    ------
    UserError
        If the run cannot start or continue because of something that the user can fix.
    StoppedError
        If SIGTERM, SIGINT or SIGUSR1 came; its argument is the signal's number.
    WorkerError
        If a worker failed through no fault of the user's.
    """
    refuse_early(run.config, launched=work is not None)
    directory = run.directory
    _require_stage(run, until)
    claim(run.root)
    lock = FileLock(directory.lock)
    if not lock.acquire(wait_s=_GLANCE_SECONDS):
        raise UserError(f"another process is working on {run.root}; wait for it, or stop it")
    try:
        if not FileLock(directory.worker_lock).acquire(wait_s=_ORPHAN_SECONDS):
            raise UserError(
                f"workers of an earlier start are still working in {run.root}; stop them"
            )
        remove_partial(run.root)
        run.manifest().save()  # from here on the directory is ours
        if before is not None:
            before()
        _adopt_config(run)
        _record_versions(run)
        _say_where_it_rests(run)
        if restart_iteration:
            _forget_checkpoints(run)
        if not _all_complete(run, until):
            if not run.manifest().is_complete("data/prepare"):
                require_inputs(run.config)
            build_communication_op()
            _write_until(directory, until)
            (work or _work)(run, watch)
        run.write_results()
        run.write_best()
        write_cards(run)
    finally:
        lock.release()


def _require_stage(run: Run, until: str | None) -> None:
    names = [stage.name for stage in run.stages]
    if until is not None and until not in names:
        raise UserError(f"--until {until}: this run has the stages {', '.join(names)}")


def _write_until(directory: RunDirectory, until: str | None) -> None:
    """Tell the workers in a file which stage is to be the last one."""
    directory.until.unlink(missing_ok=True)
    if until is not None:
        directory.until.write_text(until, encoding="utf-8")


def _all_complete(run: Run, until: str | None) -> bool:
    """Say whether nothing is left to do; refuse to redo what later stages were made from."""
    manifest = run.manifest()
    stages = [stage for stage in run.stages if stage.kind not in JUDGING]
    complete = [manifest.is_complete(stage.name) for stage in stages]
    first = complete.index(False) if False in complete else len(stages)
    if any(complete[first:]):
        raise UserError(
            f"files of {stages[first].name} are missing, but later stages were built from them: "
            "restore them, or start in a new output_dir"
        )
    wanted = [stage for stage in run.stages if stage.iteration < run.iterations_wanted]
    names = [stage.name for stage in wanted]
    if until in names:
        names = names[: names.index(until) + 1]
    return all(map(manifest.is_complete, names))


def _adopt_config(run: Run) -> None:
    """Save the configuration, unless existing results depend on a different one."""
    saved = run.directory.config_file
    # Until a stage is complete nothing rests on the old configuration, even if it was a mistake.
    if saved.is_file() and run.manifest().content["stages"]:
        changes = refused_on_resuming(load_config(saved), run.config, has_trained=_has_trained(run))
        if changes:
            raise UserError(
                f"{run.root} was started with another configuration ({'; '.join(changes)}): "
                "use the old values, or choose a new output_dir"
            )
    with write_atomically(saved) as partial:
        text = yaml_text(run.config.model_dump())
        partial.write_text(text, encoding="utf-8")


def _has_trained(run: Run) -> bool:
    """Say whether any training stage is complete, or has got as far as a checkpoint."""
    return any(name.endswith("/train") for name in run.manifest().content["stages"]) or any(
        run.root.rglob("checkpoints/*/complete.json")
    )


def _record_versions(run: Run) -> None:
    manifest = run.manifest()
    packages = ("spin-toolkit", "torch", "transformers", "deepspeed", "accelerate", "numpy")
    manifest.content["versions"] = {package: version(package) for package in packages}
    manifest.save()


def _say_where_it_rests(run: Run) -> None:
    """Tell the user, and the manifest, what another sampling temperature than 1 leads to."""
    note = resting_note(run.config)
    manifest = run.manifest()
    if note is None:
        if manifest.content.pop("resting", None) is not None:
            manifest.save()
        return
    manifest.content["resting"] = note
    manifest.save()
    print(f"spin-train: {note}", file=sys.stderr, flush=True)  # noqa: T201


def _forget_checkpoints(run: Run) -> None:
    manifest = run.manifest()
    for stage in run.stages:
        if stage.kind == "train" and not manifest.is_complete(stage.name):
            shutil.rmtree(run.folder(stage) / "checkpoints", ignore_errors=True)


def begin_log(directory: RunDirectory) -> Path:
    """Remove what an earlier start told, and name the file for what workers write in this one."""
    for leftover in (directory.stop_request, directory.progress):
        leftover.unlink(missing_ok=True)
    shutil.rmtree(directory.worker_errors, ignore_errors=True)
    directory.logs.mkdir(exist_ok=True)
    return directory.logs / time.strftime("%Y%m%d-%H%M%S.log")


def _work(run: Run, watch: Watcher | None) -> None:
    """Start the workers, and wait until they have ended or were told to stop."""
    directory, ranks = run.directory, run.config.ranks or 1
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
    told = False
    shown: set[str] = set()
    while launcher.poll() is None:
        if received and deadline is None:
            directory.stop_request.touch()
            deadline = time.monotonic() + _STOP_SECONDS
        # After a second signal, or if the workers do not reach a place to stop.
        if len(received) > 1 or (deadline is not None and time.monotonic() > deadline):
            return
        if watch is not None:
            show(directory, watch, shown)
        told = told or tell(directory)
        time.sleep(_POLL_SECONDS)
    if watch is not None:
        show(directory, watch, shown)
    if not told:
        tell(directory)


def tell(directory: RunDirectory) -> bool:
    """Name what was left out of the data, once they are prepared; say whether they are."""
    if not Manifest(directory).is_complete("prepare"):
        return False
    for note in read_object(directory.data_summary).get("notes", []):
        _LOG.warning("data: %s", note)
    return True


def show(directory: RunDirectory, watch: Watcher, shown: set[str]) -> None:
    """Pass on the progress that rank 0 has written; `shown` holds the stages that were shown."""
    try:
        report = read_object(directory.progress)
    except FileNotFoundError:
        return
    *over, current = report["stages"]
    for stage in over:
        if stage not in shown:
            watch(stage, 1, 1, "")
    shown.update(over)
    watch(current, report["done"], report["total"], report["note"])


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
