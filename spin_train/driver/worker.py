"""One rank: walks through the stages of a run."""

import gc
import logging
import os
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import NoReturn

from spin_train.errors import (
    DivergedError,
    StoppedError,
    UserError,
    disk_full,
    one_line,
    out_of_memory,
)
from spin_train.run.directory import RunDirectory
from spin_train.system.board import Board, stop_request_of
from spin_train.system.files import write_json
from spin_train.system.locks import FileLock
from spin_train.system.processes import die_with_driver
from spin_train.system.shadows import shadow_of

__all__ = ["main"]


def main() -> None:
    """Do every stage of the run directory named on the command line that is not complete."""
    die_with_driver()
    directory = RunDirectory(Path(sys.argv[1]))
    # Held until death, so that no later driver starts while a worker of this one is alive.
    lock = FileLock(directory.worker_lock)
    lock.acquire(shared=True)
    try:
        _walk(directory)
    except StoppedError:
        _leave(0)
    except UserError as error:
        _fail(directory, 2, str(error), diverged=isinstance(error, DivergedError))
    except Exception as error:
        traceback.print_exc()
        if disk_full(error):
            _fail(
                directory,
                2,
                f"the disk is full ({error}): free some space on the disk of {directory.root}, "
                "then run the same command again",
            )
        if line := shadow_of(error):
            _fail(directory, 2, line)
        _fail(directory, 1, f"{type(error).__name__}: {one_line(error)}")
    _leave(0)


def _walk(directory: RunDirectory) -> None:
    # Imported late: the locks are taken before the seconds that these imports need.
    from spin_train.driver.memory import memory_error
    from spin_train.run.keeping import tidy
    from spin_train.run.run import Run
    from spin_train.stages.rehearsal import needs_rehearsal, rehearse
    from spin_train.stages.shown import end_reports, show_samples
    from spin_train.stages.table import STAGES
    from spin_train.stages.work import Work
    from spin_train.system.heap import give_back
    from spin_train.system.progress import Progress
    from spin_train.system.ranks import Ranks
    from spin_train.training.checkpoints import remove_checkpoints

    _quiet()
    run = Run.open(directory.root)
    ranks = Ranks(stop_request_of(os.environ, directory.stop_request), Board.of())
    progress = Progress(directory.progress, enabled=ranks.is_first)
    work = Work(run, ranks, progress)
    manifest = run.manifest()
    if needs_rehearsal(run.config.training):
        rehearse(run.config, ranks)
    until = ranks.from_first(_until(directory) if ranks.is_first else None)
    gc.freeze()  # each training collects garbage twice, and need not go through all modules
    for stage in run.stages:
        if stage.kind == "generate" and stage.iteration > 0:
            ranks.barrier()  # no rank reads what `keep` lets go
            if ranks.is_first:
                tidy(run, manifest)
                run.write_best()
            if ranks.from_first(ranks.is_first and stage.iteration >= run.iterations_wanted):
                break
        checkpoints = run.folder(stage) / "checkpoints"
        if ranks.from_first(ranks.is_first and manifest.is_complete(stage.name)):
            work.meet_after(stage, manifest)
            if ranks.is_first and stage.kind == "train":  # left by a kill right after the stage
                remove_checkpoints(checkpoints)
            if stage.name == until:
                break
            continue
        started = time.monotonic()
        work.speed.begin()
        progress.report(stage.name, 0, 1)
        ranks.raise_if_stopping()
        try:
            files = STAGES[stage.kind](work, stage)
        except Exception as error:
            if out_of_memory(error):
                raise memory_error(stage.name, run.config, error) from error
            raise
        gc.collect()
        give_back()  # the next stage begins with what it needs itself
        ranks.barrier()
        seconds = time.monotonic() - started
        speed = work.speed.over(seconds, ranks)
        if ranks.is_first:
            manifest.complete(stage.name, files, seconds=seconds, speed=speed)
            if stage.kind == "train":
                remove_checkpoints(checkpoints)
            if stage.kind in ("generate", "sample"):
                show_samples(run, stage)
        work.meet_after(stage, manifest)
        progress.report(stage.name, 1, 1)
        if stage.name == until:
            break
    end_reports()


def _until(directory: RunDirectory) -> str | None:
    """Name of the stage after which the driver wants the walk to end; None for the last one."""
    try:
        return directory.until.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _quiet() -> None:
    import transformers
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    transformers.logging.set_verbosity_warning()
    transformers.logging.disable_progress_bar()
    if os.environ.get("RANK", "0") != "0":  # the first rank gives the same warnings
        transformers.logging.set_verbosity_error()
        warnings.simplefilter("ignore")


def _fail(directory: RunDirectory, code: int, line: str, *, diverged: bool = False) -> NoReturn:
    """Tell the driver in a file what went wrong: launchers turn every exit code into 1."""
    try:
        directory.worker_errors.mkdir(exist_ok=True)
        name = f"{time.time_ns()}-{os.environ.get('RANK', '0')}-{code}.json"
        write_json(
            directory.worker_errors / name, {"code": code, "line": line, "diverged": diverged}
        )
    except OSError:
        pass  # the disk is full: the line below is in the log
    print(f"spin-train: {line}", file=sys.stderr, flush=True)  # noqa: T201
    _leave(code)


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: after a failure, waiting for the other ranks' connections can take forever.
    os._exit(code)


if __name__ == "__main__":
    main()
