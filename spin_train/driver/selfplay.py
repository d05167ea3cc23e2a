"""The driver: which stages a run has, what is done, what is next, and who does it."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import FrameType

from spin_train.config.changes import changed_keys, is_of_training
from spin_train.config.files import load_config
from spin_train.config.schema import Config
from spin_train.config.yaml12 import yaml_text
from spin_train.driver.launch import launch_workers
from spin_train.driver.preflight import _refuse_unknown_arguments
from spin_train.errors import DivergedError, StoppedError, UserError
from spin_train.model.adapters import require_adapters
from spin_train.run.directory import RunDirectory, remove_partial
from spin_train.run.graph import plan
from spin_train.run.manifest import Manifest
from spin_train.run.policies import write_results
from spin_train.run.selection import iterations_wanted, write_best
from spin_train.stages.benchmark import require_benchmarks
from spin_train.system.files import read_json, write_atomically
from spin_train.system.locks import FileLock
from spin_train.system.processes import build_communication_op, require_shared_memory

__all__ = ["WorkerError", "run"]

_GLANCE_SECONDS = 0.5  # `spin-train status` touches the lock for an instant
_ORPHAN_SECONDS = 30.0
_STOP_SECONDS = 300.0
_POLL_SECONDS = 0.1
_FULL_BYTES = 2**20


class WorkerError(Exception):
    """A fault in a worker; its traceback is in the log."""


Watcher = Callable[[str, int, int, str], None]


def run(config: Config, *, restart_iteration: bool = False, watch: Watcher | None = None) -> None:
    """Start a run, or go on with it from what is complete.

    Parameters
    ----------
    config : Config
        What to do.
    restart_iteration : bool, default False
        Forget the checkpoints of training stages that are not complete.
    watch : callable, optional
        Called with stage, done, total and a note while the workers work.

    Raises
    ------
    UserError
        If something the user can mend stands in the way.
    StoppedError
        If SIGTERM or SIGINT came; its argument is the signal's number.
    WorkerError
        If a worker failed through no fault of the user's.
    """
    _refuse_unknown_arguments(config)
    if config.adapter:
        require_adapters(config.adapter)
    require_benchmarks(config)
    directory = RunDirectory(config.output_dir)
    try:
        directory.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output_dir {directory.root} cannot be made: {error}") from None
    lock = FileLock(directory.lock)
    if not lock.acquire(wait_s=_GLANCE_SECONDS):
        raise UserError(f"another run is working in {directory.root}; wait for it, or stop it")
    try:
        if not FileLock(directory.worker_lock).acquire(wait_s=_ORPHAN_SECONDS):
            raise UserError(f"workers of an earlier run still work in {directory.root}; end them")
        remove_partial(directory.root)
        _adopt_config(config, directory)
        _record_versions(directory)
        if restart_iteration:
            _forget_checkpoints(config, directory)
        manifest = Manifest(directory)
        if not _all_complete(manifest, config):
            build_communication_op()
            require_shared_memory(config.ranks)
            _work(config, directory, watch)
        write_results(config)
        write_best(config)
    finally:
        lock.release()


def _all_complete(manifest: Manifest, config: Config) -> bool:
    """Say whether nothing is left to do; refuse to redo what later stages were made from."""
    stages = [stage for stage in plan(config) if stage.kind not in ("evaluate", "benchmark")]
    complete = [manifest.is_complete(stage.name) for stage in stages]
    first = complete.index(False) if False in complete else len(stages)
    if any(complete[first:]):
        raise UserError(
            f"files of {stages[first].name} are gone, but later stages were made from them: "
            "restore them, or start in a new output_dir"
        )
    wanted = iterations_wanted(config)
    return all(
        manifest.is_complete(stage.name) for stage in plan(config) if stage.iteration < wanted
    )


def _adopt_config(config: Config, directory: RunDirectory) -> None:
    # Until a stage is complete nothing rests on the old configuration, be it a mistake.
    if directory.config.is_file() and Manifest(directory).content["stages"]:
        changes = changed_keys(load_config(directory.config), config)
        if not _has_trained(directory):
            changes = [change for change in changes if not is_of_training(change.partition(":")[0])]
        if changes:
            raise UserError(
                f"{directory.root} was begun with another configuration ({'; '.join(changes)}): "
                "give the old values, or a new output_dir"
            )
    with write_atomically(directory.config) as partial:
        text = yaml_text(config.model_dump())
        partial.write_text(text, encoding="utf-8")


def _has_trained(directory: RunDirectory) -> bool:
    """Say whether any training stage is complete, or has got as far as a checkpoint."""
    stages = Manifest(directory).content["stages"]
    return any(name.endswith("/train") for name in stages) or any(
        directory.root.rglob("checkpoints/*/complete.json")
    )


def _record_versions(directory: RunDirectory) -> None:
    manifest = Manifest(directory)
    packages = ("spin-toolkit", "torch", "transformers", "deepspeed", "accelerate", "numpy")
    manifest.content["versions"] = {package: version(package) for package in packages}
    manifest.save()


def _forget_checkpoints(config: Config, directory: RunDirectory) -> None:
    manifest = Manifest(directory)
    for stage in plan(config):
        if stage.kind == "train" and not manifest.is_complete(stage.name):
            folder = directory.root / stage.name.rpartition("/")[0] / "checkpoints"
            shutil.rmtree(folder, ignore_errors=True)


def _work(config: Config, directory: RunDirectory, watch: Watcher | None) -> None:
    for leftover in (directory.stop_request, directory.progress):
        leftover.unlink(missing_ok=True)
    shutil.rmtree(directory.worker_errors, ignore_errors=True)
    directory.logs.mkdir(exist_ok=True)
    log_path = directory.logs / time.strftime("%Y%m%d-%H%M%S.log")
    with log_path.open("a", encoding="utf-8") as log, _stop_signals() as received:
        launcher = launch_workers(directory.root.resolve(), ranks=config.ranks, log=log)
        try:
            _wait(launcher, directory, received, watch)
        finally:
            _end(launcher)
    if received:
        raise StoppedError(received[0])
    if launcher.returncode != 0:
        _raise_worker_error(launcher.returncode, directory, log_path)


def _wait(
    launcher: "subprocess.Popen[str]",
    directory: RunDirectory,
    received: list[int],
    watch: Watcher | None,
) -> None:
    deadline = None
    shown: set[str] = set()
    while launcher.poll() is None:
        if received and deadline is None:
            directory.stop_request.touch()
            deadline = time.monotonic() + _STOP_SECONDS
        # A second signal, or workers that do not get to a place to stop at.
        if len(received) > 1 or (deadline is not None and time.monotonic() > deadline):
            return
        if watch is not None:
            _show(directory, watch, shown)
        time.sleep(_POLL_SECONDS)
    if watch is not None:
        _show(directory, watch, shown)


def _show(directory: RunDirectory, watch: Watcher, shown: set[str]) -> None:
    try:
        word = read_json(directory.progress)
    except FileNotFoundError:
        return
    *over, current = word["stages"]
    for stage in over:
        if stage not in shown:
            watch(stage, 1, 1, "")
    shown.update(over)
    watch(current, word["done"], word["total"], word["note"])


def _end(launcher: "subprocess.Popen[str]") -> None:
    """Leave no worker behind: they share the launcher's session, and so its process group."""
    with suppress(ProcessLookupError):
        os.killpg(launcher.pid, signal.SIGKILL)
    launcher.wait()


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT instead of dying of them."""
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise_worker_error(code: int, directory: RunDirectory, log_path: Path) -> None:
    errors = sorted(directory.worker_errors.glob("*.json"))
    words = [read_json(path) for path in errors]
    mendable = [word for word in words if word["code"] == 2]
    if mendable:
        kind = DivergedError if mendable[0]["diverged"] else UserError
        raise kind(mendable[0]["line"])
    if words:
        raise WorkerError(f"{words[0]['line']} (log: {log_path})")
    if shutil.disk_usage(directory.root).free < _FULL_BYTES:  # no room for a word either
        raise UserError(
            f"the disk of {directory.root} is full: make room, then run the same command again"
        )
    raise WorkerError(
        f"the workers ended with code {code} and no word; killed, or out of memory? "
        f"The same command goes on from what is complete (log: {log_path})"
    )
