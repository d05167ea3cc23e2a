"""Bring what a run needs onto a machine with a network, for nodes that have none."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from spin_train.config.schema import Config
from spin_train.driver.local_workers import work_locally
from spin_train.driver.selfplay import play
from spin_train.driver.watching import Watcher
from spin_train.errors import UserError, one_line
from spin_train.run.graph import PREPARE
from spin_train.run.run import Run
from spin_train.stages.leaderboards import benchmark_tasks, task_manager
from spin_train.system.surroundings import refuse_other_launchers

__all__ = ["Fetched", "fetch"]

# Weights in forms that are never read, and what others put next to them.
_NOT_READ = [
    *("*.bin", "*.ckpt", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.pt", "*.pth"),
    *("*.tflite", "*/*", "*.md", "*.png", "*.jpg"),
]


@dataclass(frozen=True)
class Fetched:
    """What lies on this machine now."""

    run: Run
    """Its rows are prepared."""
    model: Path | None
    """Files of a model from the hub, in the cache; None for a directory of the user's."""
    bytes: int
    """Of these files."""
    tasks: tuple[str, ...]
    """Benchmarks whose data are in the cache."""


def fetch(config: Config, *, watch: Watcher | None = None) -> Fetched:
    """Download model, rows and benchmarks, and prepare the rows; UserError where one is missing."""
    refuse_other_launchers(os.environ)
    model = None if Path(config.model).exists() else _model(config)
    tasks = _benchmarks(config)
    run = Run.of(config)
    # The rows of a hub dataset are streamed, so what stays of them is what was prepared.
    play(run, watch=watch, work=partial(work_locally, ranks=1), until=PREPARE)
    files = [] if model is None else [path for path in model.rglob("*") if path.is_file()]
    return Fetched(run, model, sum(path.stat().st_size for path in files), tasks)


def _model(config: Config) -> Path:
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            config.model, revision=config.model_revision, ignore_patterns=_NOT_READ
        )
    except Exception as error:  # of huggingface_hub and of what it asks through
        raise UserError(
            f"model: {config.model} (revision {config.model_revision or 'main'}) cannot be "
            f"fetched: {one_line(error, 300)}"
        ) from None
    return Path(found)


def _benchmarks(config: Config) -> tuple[str, ...]:
    tasks = benchmark_tasks(config)
    if not tasks:
        return ()
    from lm_eval.tasks import get_task_dict

    names = [task.name for task in tasks]
    manager = task_manager(config.evaluation.lm_eval)
    try:
        get_task_dict(names, manager)
    except Exception as error:  # of lm-eval, datasets and huggingface_hub
        raise UserError(
            f"evaluation.lm_eval: the data of {', '.join(names)} cannot be fetched: "
            f"{one_line(error, 300)}"
        ) from None
    return tuple(names)
