"""What lies in a run directory, and how it is written: whole or not at all.

::

    config.yaml          resolved configuration
    manifest.json        versions, inputs, stages that are complete with their files
    data/                train.parquet, held_out.parquet, summary.json
    sft/                 checkpoints/ policy/ metrics.jsonl
    initial/             evaluation.json of p_0
    iterK/               generations/ scored/ checkpoints/ policy/ metrics.jsonl evaluation.json
                         (reference/: scored by p_0, for T-SPIN_ref)
    control/iterK/       checkpoints/ policy/ metrics.jsonl evaluation.json
                         where asked for, benchmark/ beside each evaluation.json
    results.json         all evaluations and benchmarks
    logs/                one file a start, all output of the workers; tensorboard/, by stage
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spin_train.errors import UserError

__all__ = [
    "Manifest",
    "RunDirectory",
    "remove_partial",
    "write_atomically",
    "write_directory",
    "write_json",
]

_PARTIAL = ".partial"


class RunDirectory:
    """Paths of a run; knows names, not contents.

    Parameters
    ----------
    root : str or Path
        The run's `output_dir`.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.config = self.root / "config.yaml"
        self.manifest = self.root / "manifest.json"
        self.lock = self.root / ".lock"
        self.worker_lock = self.root / ".workers.lock"
        self.stop_request = self.root / ".stop"
        self.progress = self.root / ".progress.json"
        self.worker_errors = self.root / ".errors"
        self.logs = self.root / "logs"
        self.results = self.root / "results.json"
        self.data = self.root / "data"
        self.train_rows = self.data / "train.parquet"
        self.held_out_rows = self.data / "held_out.parquet"
        self.data_summary = self.data / "summary.json"
        self.sft = self.root / "sft"
        self.initial = self.root / "initial"

    def iteration(self, iteration: int) -> Path:
        """Directory of self-play iteration K.

        Parameters
        ----------
        iteration : int
            K, from 0.

        Returns
        -------
        Path
            ``iterK``.
        """
        return self.root / f"iter{iteration}"

    def control(self, iteration: int) -> Path:
        """Directory of the control of self-play iteration K.

        Parameters
        ----------
        iteration : int
            K, from 0.

        Returns
        -------
        Path
            ``control/iterK``.
        """
        return self.root / "control" / f"iter{iteration}"


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; it becomes `path` when the block ends well.

    Parameters
    ----------
    path : Path
        The file that will be there whole, or not at all.

    Yields
    ------
    Path
        Where to write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}{_PARTIAL}")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def write_directory(path: Path) -> Iterator[Path]:
    """Give a directory beside `path` to fill; it becomes `path` when the block ends well.

    Parameters
    ----------
    path : Path
        The directory that will be there whole, or not at all; an older one is replaced.

    Yields
    ------
    Path
        An empty directory to fill.
    """
    partial = path.with_name(path.name + _PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for written in partial.rglob("*"):
            if written.is_file():
                with written.open("rb") as file:
                    os.fsync(file.fileno())
        shutil.rmtree(path, ignore_errors=True)
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_partial(root: Path) -> None:
    """Delete what writers that were killed left half-written.

    Parameters
    ----------
    root : Path
        Directory of a run on which nobody works.
    """
    ours = [root / name for name in ("data", "sft", "initial", "control")] + [*root.glob("iter*")]
    found = [partial for folder in ours for partial in folder.rglob(f"*{_PARTIAL}")]
    for name in ("config.yaml", "manifest.json", "results.json", ".progress.json"):
        found += root.glob(f"{name}.*{_PARTIAL}")
    for partial in found:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all.

    Parameters
    ----------
    path : Path
        The file.
    content : object
        Anything JSON holds.
    """
    with write_atomically(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


class Manifest:
    """Which stages are complete, and what they left on disk.

    Written by rank 0 alone.

    Parameters
    ----------
    run : RunDirectory
        The run.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self.content: dict[str, Any] = {"stages": {}}
        if run.manifest.is_file():
            self.content = json.loads(run.manifest.read_text(encoding="utf-8"))

    def is_complete(self, stage: str) -> bool:
        """Say whether a stage is done and what it left is still there.

        Parameters
        ----------
        stage : str
            Its name.

        Returns
        -------
        bool
            False as well where a file is gone: the stage is then done again.

        Raises
        ------
        UserError
            If a file has another size than the stage recorded.
        """
        record = self.content["stages"].get(stage)
        if record is None:
            return False
        for name, file in record["files"].items():
            path = self._run.root / name
            if not path.is_file():
                return False
            size, recorded = path.stat().st_size, file["bytes"]
            if size != recorded:
                raise UserError(
                    f"{path} has {size} bytes, {recorded} when {stage} wrote it; "
                    "restore it, or delete it to have the stage done again"
                )
        return True

    def complete(self, stage: str, files: Iterable[Path], *, seconds: float) -> None:
        """Record a stage as complete.

        Parameters
        ----------
        stage : str
            Its name.
        files : iterable of Path
            What it left, under the run's root.
        seconds : float
            Wall-clock time it took, in seconds.
        """
        left = {
            str(path.relative_to(self._run.root)): {
                "bytes": path.stat().st_size,
                "sha256": _sha256(path),
            }
            for path in sorted(files)
        }
        self.content["stages"][stage] = {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seconds": round(seconds, 3),
            "files": left,
        }
        self.save()

    def save(self) -> None:
        """Write the manifest."""
        write_json(self._run.manifest, self.content)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
