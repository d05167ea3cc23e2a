"""The plan of a run: what it does, what that takes, whether it fits, and which key helps."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from spin_train.config.schema import Config
from spin_train.driver.memory import machine_memory
from spin_train.plan.advice import Problem, refusals, remedies
from spin_train.plan.devices import Device
from spin_train.plan.disk import disk_of
from spin_train.plan.memory import StageMemory, memory_by_stage, model_of
from spin_train.plan.rows import Rows, assumed_rows, rows_of
from spin_train.plan.work import Sampled, Trained, sampled_by, trained_by

__all__ = ["Plan", "make_plan"]

_HOST_PROGRAM = 2 * 2**30  # assumed for a rank that drives a GPU
_PER_MACHINE = 8  # GPUs


@dataclass(frozen=True)
class Plan:
    """What a run will do and need."""

    model: str
    parameters: int
    trained_parameters: int
    device: Device
    ranks: int
    rows: str
    """Where the rows come from."""
    train_rows: int
    held_out_rows: int
    training: list[Trained]
    sampling: list[Sampled]
    memory: list[StageMemory]
    """Of one rank, on its device."""
    host: dict[str, int]
    """Main memory of a machine with GPUs, bytes by part; empty for a CPU."""
    disk: dict[str, int]
    """Bytes by part."""
    disk_free: int | None
    """Bytes free where `output_dir` is; None if that is not known."""
    problems: list[Problem]
    notes: list[str]
    seconds: dict[str, float] = field(default_factory=dict)
    """Estimated time of each kind of stage, where it was calibrated."""

    @property
    def fits(self) -> bool:
        """Whether nothing is too large."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """Everything in plain numbers, sizes in bytes."""
        content = asdict(self)
        for stage, own in zip(content["training"], self.training, strict=True):
            stage["objective"] = own.objective.algorithm
            stage["largest_micro_batch_tokens"] = sum(group.tokens for group in own.largest)
            del stage["largest"]
        for stage, memory in zip(content["memory"], self.memory, strict=True):
            stage["total"] = memory.total
        return {"fits": self.fits, **content}


def make_plan(
    config: Config,
    device: Device,
    *,
    rows: int | None = None,
    here: bool = True,
    advise: bool = True,
    calibrate: bool = False,
    watch: Callable[[int], None] = lambda rows: None,
) -> Plan:
    """Plan a run.

    `rows` assumes so many rows as long as the configuration allows, and reads none. `here` says
    that it is this machine's memory and disk that must suffice. `calibrate` measures a cut-down
    model on this machine's device, for times. UserError if model, data or their
    lengths cannot be read.
    """
    data = rows_of(config, watch=watch) if rows is None else assumed_rows(config, rows)
    model = model_of(config, device=device.kind)
    trained, sampled = trained_by(config, data), sampled_by(config, data)
    memory, notes = memory_by_stage(config, data, model, device=device.kind, trained=trained)
    disk = disk_of(config, data, model.weights, model.optimiser, trained, sampled)
    host = _host(config, data, model.weights.all, memory) if device.kind != "cpu" else {}
    free = _free(Path(config.output_dir)) if here else None
    ranks = config.ranks or 1
    problems = refusals(memory, device=device, ranks=ranks)
    if advise:
        problems = [remedies(problem, config, data, device) for problem in problems]
    if free is not None and sum(disk.values()) > free:
        lean = config.model_copy(update={"keep": "last"})
        least = disk_of(lean, data, model.weights, model.optimiser, trained, sampled)
        problems.append(_too_little_disk(disk, free, with_last=sum(least.values())))
    if here and host and sum(host.values()) > machine_memory():
        keys = ["use fewer ranks on a machine, or one with more memory"]
        problems.append(Problem("main memory", sum(host.values()), machine_memory(), keys))
    weights = model.weights
    seconds: dict[str, float] = {}
    if calibrate:
        from spin_train.plan.calibrate import pace_of, seconds_by_stage

        largest = max(trained, key=lambda stage: sum(group.tokens for group in stage.largest))
        pace = pace_of(config, data, largest, device=device.kind)
        seconds = seconds_by_stage(config, pace, trained, sampled, weights=weights.trained)
    return Plan(
        model=config.model,
        parameters=weights.trained + weights.frozen,
        trained_parameters=weights.trained,
        device=device,
        ranks=ranks,
        rows=data.source,
        train_rows=len(data.train),
        held_out_rows=len(data.held_out),
        training=trained,
        sampling=sampled,
        memory=memory,
        host=host,
        disk=disk,
        disk_free=free,
        problems=problems,
        notes=notes,
        seconds=seconds,
    )


def _host(
    config: Config, rows: Rows, weights: int, memory: Sequence[StageMemory]
) -> dict[str, int]:
    """Add up main memory of a machine: each rank loads the whole model there before its device."""
    here = min(config.ranks or 1, _PER_MACHINE)
    tokens = sum(len(row.prompt_ids) + len(row.responses[0].ids) for row in rows.train)
    offloaded = max((stage.host for stage in memory), key=lambda parts: sum(parts.values()))
    return {
        f"programs of {here} ranks (assumed)": here * _HOST_PROGRAM,
        "weights as they are loaded": here * weights,
        "rows, samples and log-probs": here * 8 * tokens,
    } | {f"{part}, offloaded": here * size for part, size in offloaded.items()}


def _free(folder: Path) -> int | None:
    for place in (folder, *folder.absolute().parents):
        if place.is_dir():
            return shutil.disk_usage(place).free
    return None


def _too_little_disk(disk: dict[str, int], free: int, *, with_last: int) -> Problem:
    keys = ["choose an output_dir on a larger disk"]
    if any("checkpoints" in part for part in disk):
        keys.append("raise training.save_steps beyond a stage's steps: no checkpoint is written")
    if with_last <= free:
        keys.append("keep=last")
    return Problem("disk", sum(disk.values()), free, keys)
