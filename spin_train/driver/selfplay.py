"""The driver: starts or resumes a run, and waits for its workers."""

import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version

from spin_train.config.changes import refused_on_resuming
from spin_train.config.files import load_config
from spin_train.config.yaml12 import yaml_text
from spin_train.driver.inputs import require_inputs
from spin_train.driver.local_workers import work_locally
from spin_train.driver.preflight import refuse_early
from spin_train.driver.watching import Watcher
from spin_train.errors import (
    UserError,
)
from spin_train.run.cards import write_cards
from spin_train.run.directory import RunDirectory, remove_partial
from spin_train.run.graph import JUDGING, PREPARE
from spin_train.run.keeping import require_needs, tidy
from spin_train.run.resting import resting_note
from spin_train.run.run import Run
from spin_train.system.files import write_atomically
from spin_train.system.locks import FileLock
from spin_train.system.owner import Owner, node_name, working_elsewhere
from spin_train.system.ownership import claim
from spin_train.system.processes import build_communication_op

__all__ = ["play"]

_GLANCE_SECONDS = 0.5  # `spin-train status` touches the lock for an instant
_ORPHAN_SECONDS = 30.0

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
        # Where a file system does not show the locks of another node, its heartbeat shows it.
        if other := working_elsewhere(directory.owner):
            raise UserError(f"{other} is working on {run.root}; wait for it, or stop it there")
        with Owner(directory.owner, node_name()):
            _play(run, restart_iteration, watch, before, work or work_locally, until)
    finally:
        lock.release()


def _play(
    run: Run,
    restart_iteration: bool,
    watch: Watcher | None,
    before: Callable[[], None] | None,
    work: Work,
    until: str | None,
) -> None:
    """Do what `play` does, in a directory that is ours alone."""
    directory = run.directory
    remove_partial(run.root)
    run.manifest().save()  # from here on the directory is ours
    if before is not None:
        before()
    _adopt_config(run, until)
    _record_versions(run)
    _say_where_it_rests(run)
    if restart_iteration:
        _forget_checkpoints(run)
    complete = _all_complete(run, until)
    tidy(run, run.manifest())  # also what a kill has cut short
    if not complete:
        if not run.manifest().is_complete(PREPARE):
            require_inputs(run.config)
        build_communication_op()
        _write_until(directory, until)
        work(run, watch)
    run.write_results()
    tidy(run, run.manifest())
    run.write_best()
    write_cards(run)


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
    return all(map(manifest.is_complete, _names_until(run, until)))


def _names_until(run: Run, until: str | None) -> list[str]:
    """Name the stages that this start is to do, those that are complete among them."""
    wanted = [stage for stage in run.stages if stage.iteration < run.iterations_wanted]
    names = [stage.name for stage in wanted]
    return names[: names.index(until) + 1] if until in names else names


def _adopt_config(run: Run, until: str | None = None) -> None:
    """Save the configuration, unless existing results depend on a different one.

    Nor is it saved where it asks for a stage that needs what `keep` has removed.
    """
    saved = run.directory.config_file
    # Until a stage is complete nothing rests on the old configuration, even if it was a mistake.
    if saved.is_file() and run.manifest().content["stages"]:
        changes = refused_on_resuming(load_config(saved), run.config, has_trained=_has_trained(run))
        if changes:
            raise UserError(
                f"{run.root} was started with another configuration ({'; '.join(changes)}): "
                "use the old values, or choose a new output_dir"
            )
    require_needs(run, run.manifest(), _names_until(run, until))
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
