"""What lies in a run directory, and how it is written: whole or not at all.

::

    config.yaml          resolved configuration
    manifest.json        versions, inputs, stages that are complete with their files
    data/                train.parquet, held_out.parquet, summary.json
    sft/                 checkpoints/ policy/ metrics.jsonl speed.jsonl
    initial/             evaluation.json of p_0, evaluation.parquet by example
    iterK/               generations/ scored/ checkpoints/ policy/ metrics.jsonl speed.jsonl
                         evaluation.json
                         (reference/: scored by p_0, for T-SPIN_ref)
    control/iterK/       checkpoints/ policy/ metrics.jsonl speed.jsonl evaluation.json
                         after the last iteration: samples.parquet, held-out prompts
                         where asked for, next to each evaluation.json: greedy.parquet and
                         answers.json, and benchmark/
    results.json         all evaluations and benchmarks
    logs/                one file per start, all output of the workers; tensorboard/, by stage
"""

import os
import shutil
from pathlib import Path

from spin_train.system.files import PARTIAL
from spin_train.system.ownership import MANIFEST, is_run

__all__ = ["RunDirectory", "remove_partial"]


class RunDirectory:
    """Paths of a run under its `output_dir`: names only, not contents."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.config_file = self.root / "config.yaml"
        self.manifest_file = self.root / MANIFEST
        self.lock = self.root / ".lock"
        self.worker_lock = self.root / ".workers.lock"
        self.stop_request = self.root / ".stop"
        self.until = self.root / ".until"
        self.owner = self.root / ".owner.json"
        self.progress = self.root / ".progress.json"
        self.worker_errors = self.root / ".errors"
        self.logs = self.root / "logs"
        self.results = self.root / "results.json"
        self.best = self.root / "best.json"
        self.data = self.root / "data"
        self.train_rows = self.data / "train.parquet"
        self.held_out_rows = self.data / "held_out.parquet"
        self.data_summary = self.data / "summary.json"
        self.sft = self.root / "sft"
        self.initial = self.root / "initial"

    def iteration(self, iteration: int) -> Path:
        """Directory of self-play iteration K, from 0."""
        return self.root / f"iter{iteration}"

    def control(self, iteration: int) -> Path:
        """Directory of the control of self-play iteration K, from 0."""
        return self.root / "control" / f"iter{iteration}"


def remove_partial(root: Path) -> None:
    """Delete half-written files of killed writers; no process may be working on the run.

    Another run inside the directory is left alone: its own process may be writing.
    """
    for place, folders, files in os.walk(root):
        here = Path(place)
        for name in folders:
            if name.endswith(PARTIAL) and not (here / name).is_symlink():
                shutil.rmtree(here / name)
        for name in (*files, *folders):
            if name.endswith(PARTIAL):
                (here / name).unlink(missing_ok=True)
        folders[:] = [
            name for name in folders if not name.endswith(PARTIAL) and not is_run(here / name)
        ]
