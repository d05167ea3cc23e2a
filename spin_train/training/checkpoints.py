"""Which checkpoints are complete, and which of them a stage resumes from."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from spin_train.errors import UserError
from spin_train.run.status import in_words
from spin_train.system.files import read_json, write_atomically, write_json
from spin_train.system.progress import Progress
from spin_train.system.ranks import Ranks
from spin_train.training.speed import SpeedLines
from spin_train.training.sums import MetricSums

__all__ = [
    "COPIES",
    "RunCallback",
    "files_of_checkpoint",
    "latest_complete",
    "ranks_of",
    "remove_checkpoints",
]

COPIES = "for-other-ranks"
"""Folder next to checkpoints for a copy that other ranks resume from."""
_MARKER = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def latest_complete(folder: Path, *, zero_stage: int) -> Path | None:
    """Find the complete checkpoint of the highest step in a stage's ``checkpoints/``, or None.

    Half-written ones do not count. UserError if that one was written by another ZeRO stage: its
    shards do not fit.
    """
    for checkpoint in sorted(_checkpoints(folder), key=_step, reverse=True):
        marker = _marker_if_whole(checkpoint)
        if marker is None:
            continue
        if marker["zero_stage"] != zero_stage:
            raise UserError(
                f"{checkpoint} was written with zero_stage={marker['zero_stage']}, but this run "
                f"has zero_stage={zero_stage}: use the former value, or add --restart-iteration to "
                "train this iteration again from its opponent"
            )
        return checkpoint
    return None


def files_of_checkpoint(checkpoint: Path) -> dict[Path, int]:
    """Size of each file of a complete checkpoint, in bytes."""
    marker = read_json(checkpoint / _MARKER)
    return {checkpoint / name: size for name, size in marker["files"].items()}


def ranks_of(checkpoint: Path) -> int:
    """How many ranks have written a complete checkpoint."""
    ranks: int = read_json(checkpoint / _MARKER)["ranks"]
    return ranks


def remove_checkpoints(folder: Path, *, keep: Path | None = None) -> None:
    """Delete the checkpoints of a stage's ``checkpoints/`` but the one to keep, and any copy."""
    shutil.rmtree(folder / COPIES, ignore_errors=True)
    for checkpoint in _checkpoints(folder):
        if checkpoint != keep:
            # The marker goes first: a deletion cut short must not leave a complete checkpoint.
            (checkpoint / _MARKER).unlink(missing_ok=True)
            shutil.rmtree(checkpoint)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)]


def _step(checkpoint: Path) -> int:
    match = _NAME.fullmatch(checkpoint.name)
    assert match is not None
    return int(match[1])


def _marker_if_whole(checkpoint: Path) -> dict[str, Any] | None:
    try:
        marker: dict[str, Any] = read_json(checkpoint / _MARKER)
    except (FileNotFoundError, ValueError):
        return None
    for name, size in marker["files"].items():
        path = checkpoint / name
        if not path.is_file() or path.stat().st_size != size:
            return None
    return marker


class RunCallback(TrainerCallback):
    """Marks checkpoints complete, stops when asked to, reports progress, writes metrics.jsonl.

    All ranks call it at the same moments; rank 0 reports. `resume` is the checkpoint that the stage
    goes on from, or a copy of it for these ranks.
    """

    def __init__(
        self,
        ranks: Ranks,
        progress: Progress,
        speed: SpeedLines,
        *,
        stage: str,
        folder: Path,
        zero_stage: int,
        resume: Path | None = None,
    ) -> None:
        self._resume = resume
        self._ranks = ranks
        self._speed = speed
        self._progress = progress
        self._stage = stage
        self._folder = folder
        self._zero_stage = zero_stage
        self._note = ""
        self.sums = MetricSums()
        self.stopped = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Go on from the sums of the checkpoint that is resumed from."""
        if self._resume is not None:
            self.sums.read(self._resume / self._sums_name, device=self._ranks.device)
        self._speed.begin(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Save and stop if the driver asked to; leave no step out of the metrics."""
        if self._ranks.is_first:  # all that it was for has been read
            shutil.rmtree(Path(str(args.output_dir)) / COPIES, ignore_errors=True)
        if state.global_step == state.max_steps:
            control.should_log = True
        self._progress.report(self._stage, state.global_step, state.max_steps, self._note)
        if self._ranks.stop_requested():
            self.stopped = control.should_save = control.should_training_stop = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Mark the checkpoint complete once every rank has written its part; drop older ones."""
        checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        self.sums.write(checkpoint / self._sums_name)
        self._ranks.barrier()
        files = self._files_of(checkpoint)
        if self._ranks.is_first:
            marker = {
                "step": state.global_step,
                "zero_stage": self._zero_stage,
                "ranks": self._ranks.size,
                "files": files,
            }
            write_json(checkpoint / _MARKER, marker)
            remove_checkpoints(checkpoint.parent, keep=checkpoint)
        self._ranks.barrier()

    def _files_of(self, checkpoint: Path) -> dict[str, int]:
        """Size of every file of a checkpoint, by its name there; on one machine rank 0 looks alone.

        Otherwise another rank would see what rank 0 writes next.
        """
        if self._ranks.board is None and not self._ranks.is_first:
            return {}
        files = {
            str(path.relative_to(checkpoint)): path.stat().st_size
            for path in sorted(checkpoint.rglob("*"))
            if path.is_file() and path.name != _MARKER
        }
        if self._ranks.board is None:
            return files
        # Another node's view may lag behind. It then shows less, and each sees its own files.
        views = self._ranks.gather(files)
        return {
            name: max(view.get(name, 0) for view in views)
            for name in sorted({name for view in views for name in view})
        }

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Write all lines logged so far; a resumed run has the earlier ones from its checkpoint."""
        if logs and "loss" not in logs:  # how fast it goes, for reporters
            return
        if logs:
            self._note = in_words(logs)
            self._speed.add(state.global_step, self._ranks)
        if self._ranks.is_first:
            lines = [json.dumps(_in_order(line)) + "\n" for line in state.log_history]
            with write_atomically(self._folder / "metrics.jsonl") as partial:
                partial.write_text("".join(lines), encoding="utf-8")

    @property
    def _sums_name(self) -> str:
        return f"metric_sums_{self._ranks.rank}.json"


def _in_order(line: dict[str, float]) -> dict[str, float]:
    """Sort the names of a logged line, step first: a checkpoint sorts those that it keeps."""
    first = {name: line[name] for name in ("step", "epoch", "loss") if name in line}
    return first | dict(sorted(line.items()))
