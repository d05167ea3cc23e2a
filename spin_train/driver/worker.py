"""One rank: walks through the stages of a run, started by the DeepSpeed launcher."""

import logging
import os
import sys
import time
import traceback
import warnings
from pathlib import Path

from spin_train.errors import DivergedError, StoppedError, UserError, disk_full, one_line
from spin_train.run.directory import RunDirectory
from spin_train.run.manifest import Manifest
from spin_train.system.files import write_json
from spin_train.system.locks import FileLock
from spin_train.system.processes import die_with_driver

__all__ = ["main"]


def main() -> None:
    """Do every stage of the run directory named on the command line that is not complete."""
    die_with_driver()
    run = RunDirectory(Path(sys.argv[1]))
    # Held until death, so that no later driver starts beside a worker of this one.
    lock = FileLock(run.worker_lock)
    lock.acquire(shared=True)
    try:
        _walk(run)
    except StoppedError:
        _leave(0)
    except UserError as error:
        _fail(run, 2, str(error), diverged=isinstance(error, DivergedError))
    except Exception as error:
        traceback.print_exc()
        if disk_full(error):
            _fail(
                run,
                2,
                f"the disk took no more ({error}): make room on the disk of {run.root}, "
                "then run the same command again",
            )
        _fail(run, 1, f"{type(error).__name__}: {one_line(error)}")
    _leave(0)


def _walk(run: RunDirectory) -> None:
    # Imported late: the locks stand before the seconds that these take.
    from spin_train.config.files import load_config
    from spin_train.run.graph import plan
    from spin_train.run.selection import iterations_wanted, write_best
    from spin_train.stages.work import StageRunner
    from spin_train.system.progress import Progress
    from spin_train.system.ranks import Ranks
    from spin_train.training.checkpoints import remove_checkpoints

    _quiet()
    ranks = Ranks(run.stop_request)
    progress = Progress(run.progress, enabled=ranks.is_first)
    config = load_config(run.config)
    runner = StageRunner(config, run, ranks, progress)
    manifest = Manifest(run)
    for stage in plan(config):
        if stage.kind == "generate" and stage.iteration > 0:
            if ranks.is_first:
                write_best(config)
            if ranks.from_first(stage.iteration >= iterations_wanted(config)):
                break
        if ranks.from_first(manifest.is_complete(stage.name)):
            if ranks.is_first and stage.kind == "train":  # left by a kill right after the stage
                remove_checkpoints(runner.folder(stage) / "checkpoints")
            continue
        started = time.monotonic()
        progress.report(stage.name, 0, 1)
        ranks.raise_if_stopping()
        files = runner.do(stage)
        ranks.barrier()
        if ranks.is_first:
            manifest.complete(stage.name, files, seconds=time.monotonic() - started)
            if stage.kind == "train":
                remove_checkpoints(runner.folder(stage) / "checkpoints")
        progress.report(stage.name, 1, 1)


def _quiet() -> None:
    import transformers
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    transformers.logging.set_verbosity_warning()
    transformers.logging.disable_progress_bar()
    if os.environ.get("RANK", "0") != "0":  # the first rank gives the same warnings
        transformers.logging.set_verbosity_error()
        warnings.simplefilter("ignore")


def _fail(run: RunDirectory, code: int, line: str, *, diverged: bool = False) -> None:
    """Leave word for the driver; launchers turn every code into 1."""
    try:
        run.worker_errors.mkdir(exist_ok=True)
        name = f"{time.time_ns()}-{code}.json"
        write_json(run.worker_errors / name, {"code": code, "line": line, "diverged": diverged})
    except OSError:
        pass  # the disk is full: the line below is in the log
    print(f"spin-train: {line}", file=sys.stderr, flush=True)  # noqa: T201
    _leave(code)


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: waiting for the other ranks' connections can take for ever after a failure.
    os._exit(code)


if __name__ == "__main__":
    main()
