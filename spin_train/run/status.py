"""How far a run is, read from its files alone, by any process."""

import fcntl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from spin_train.config.schema import Config
from spin_train.errors import DamagedFileError, UserError, is_consequence
from spin_train.run.directory import RunDirectory
from spin_train.run.graph import Stage
from spin_train.run.keeping import removed_in_words
from spin_train.run.manifest import Manifest
from spin_train.run.run import Run
from spin_train.system.files import read_lines, read_object
from spin_train.system.owner import node_name, owner_of

__all__ = ["RunStatus", "StageStatus", "in_words", "read_status", "speed_of"]

State = Literal["done", "running", "stopped", "waiting"]


@dataclass(frozen=True)
class StageStatus:
    """How far one stage is."""

    name: str
    state: State
    """`stopped`: begun, and no process works on it now."""
    done: int | None = None
    total: int | None = None
    """Steps, shards or tasks; None where the stage does not count."""
    seconds: float | None = None
    """Seconds it took, or has taken since it was last started; None while it waits."""
    eta_seconds: float | None = None
    """Seconds it will take from now on, or once the run goes on; None where that is not known."""
    tokens_per_second: float | None = None
    """Tokens of all ranks together per second (docs/metrics.md); None where none are counted."""
    peak_memory: int | None = None
    """Most bytes that the fullest rank held at once."""
    device_memory: int | None = None
    """Bytes that its device has; None without one."""


@dataclass(frozen=True)
class RunStatus:
    """How far a run is."""

    run: str
    working: bool
    """Whether a process works on it now, on this machine or, started by a launcher, on another."""
    stages: list[StageStatus]
    eta_seconds: float | None
    """Sum over the stages that are not done; None where one of them is unknown."""
    loss: float | None
    """The last loss that was logged."""
    loss_at: str | None
    """Stage and step of that loss."""
    loss_in_words: str | None
    """What the last logged line says; of SFT and the control the NLL, for their loss is scaled."""
    error: str | None
    """The error that ended the last start."""
    removed: str | None
    """What `keep` has removed, in words; None where that is nothing."""
    log: str | None
    """Output of the workers of the last start."""


def read_status(root: str | Path) -> RunStatus:
    """Read how far a run is from its files, without writing anything.

    `root` is the `output_dir` of a run, or the directory of a demo.
    """
    run = Run.open(root)
    config, directory, manifest = run.config, run.directory, run.manifest()
    elsewhere = owner_of(directory.owner) not in (None, node_name())
    working = _is_locked(directory.lock) or elsewhere
    wanted = run.iterations_wanted
    stages = [stage for stage in run.stages if stage.iteration < wanted]
    done = {stage.name for stage in stages if _is_done(manifest, stage.name)}
    word = _progress(directory)
    current = word["stages"][-1] if word and word["stages"][-1] not in done else None
    took = {
        stage: manifest.content["stages"][stage.name]["seconds"]
        for stage in stages
        if stage.name in done
    }
    held_out_share = _held_out_share(directory)
    expected = _expectations(config, took, held_out_share)
    found: list[StageStatus] = []
    for stage in stages:
        if stage in took:
            speed = speed_of(manifest.content["stages"][stage.name].get("speed", {}))
            found.append(StageStatus(stage.name, "done", seconds=took[stage], **speed))
        elif word and stage.name == current:
            begun = _begun(word, stage, expected(stage), working=working)
            if stage.kind == "train":
                line = _last_speed(directory.root / stage.folder)
                begun = replace(begun, **speed_of(line))
            if begun.seconds is not None and begun.eta_seconds is not None:
                # Later ones of its kind will take what it is going to, if none was done before.
                took = {stage: begun.seconds + begun.eta_seconds} | took
                expected = _expectations(config, took, held_out_share)
            found.append(begun)
        else:
            found.append(StageStatus(stage.name, "waiting", eta_seconds=expected(stage)))
    etas = [stage.eta_seconds for stage in found if stage.state != "done"]
    known = [eta for eta in etas if eta is not None]
    last, loss_at = _last_line(directory, stages)
    logs = sorted(directory.logs.glob("*.log"))
    return RunStatus(
        run=str(directory.root),
        working=working,
        stages=found,
        eta_seconds=sum(known) if len(known) == len(etas) else None,
        loss=last["loss"] if last else None,
        loss_at=loss_at,
        loss_in_words=in_words(last) if last else None,
        error=_last_error(directory),
        removed=removed_in_words(run),
        log=str(logs[-1]) if logs else None,
    )


def _is_locked(lock: Path) -> bool:
    """Whether a driver holds the run; the kernel drops the lock of one that died."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _is_done(manifest: Manifest, stage: str) -> bool:
    try:
        return manifest.is_complete(stage)
    except UserError:  # another size than recorded: the run itself refuses to go on, by name
        return True


def _begun(
    word: dict[str, Any], stage: Stage, expected: float | None, *, working: bool
) -> StageStatus:
    """Status of the stage that is, or was, being done: its own pace tells, once it has one."""
    began, before = word["since"]
    done, total, elapsed = word["done"], word["total"], word["written"] - began
    if done > before:
        eta: float | None = (total - done) * elapsed / (done - before)
    else:
        eta = expected
    now = time.time() if working else word["written"]
    if eta is not None:
        eta = max(0.0, eta - (now - word["written"]))
    counted = total > 1
    return StageStatus(
        stage.name,
        "running" if working else "stopped",
        done=done if counted else None,
        total=total if counted else None,
        seconds=now - word["started"],
        eta_seconds=eta,
    )


def speed_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Take the speed and the memory of the fullest rank out of a record of them."""
    peaks, devices = record.get("peak_memory"), record.get("device_memory")
    return {
        "tokens_per_second": record.get("tokens_per_second"),
        "peak_memory": max(peaks) if peaks else None,
        "device_memory": devices[peaks.index(max(peaks))] if peaks and devices else None,
    }


def _last_speed(folder: Path) -> dict[str, Any]:
    """Last line of a training stage's speed.jsonl; empty before the first."""
    try:
        return read_lines(folder / "speed.jsonl")[-1]
    except (FileNotFoundError, DamagedFileError, IndexError):
        return {}


def _expectations(
    config: Config, took: dict[Stage, float], held_out_share: float
) -> Callable[[Stage], float | None]:
    """Seconds a stage will take, from the last one of its kind in `took`."""
    rates: dict[tuple[str, bool | None], float] = {}
    for stage, seconds in took.items():
        rate = seconds / _work(config, stage)
        rates[stage.kind, stage.control] = rates[stage.kind, None] = rate

    def expected(stage: Stage) -> float | None:
        if stage.kind == "sample":  # no other of its kind; a part of what an opponent samples
            rate = rates.get(("generate", None))
            return None if rate is None else rate * held_out_share
        rate = rates.get((stage.kind, stage.control), rates.get((stage.kind, None)))
        return None if rate is None else rate * _work(config, stage)

    return expected


def _progress(directory: RunDirectory) -> dict[str, Any] | None:
    """Read what rank 0 reported last; where that is damaged, nothing is known."""
    try:
        told = read_object(directory.progress)
    except (FileNotFoundError, DamagedFileError):
        return None
    return told if isinstance(told.get("stages"), list) and told["stages"] else None


def _held_out_share(directory: RunDirectory) -> float:
    """Part of the prompts that is held out; 1 before the data are prepared."""
    summary = _json_or_none(directory.data_summary) or {}
    rows = summary.get("train", 0) + summary.get("held_out", 0)
    return float(summary["held_out"] / rows) if rows else 1.0


def _work(config: Config, stage: Stage) -> float:
    """Amount of work, relative to other stages of the kind."""
    samples = 1 + min(max(stage.iteration, 0), config.mixing)
    if stage.kind in ("score", "reference"):
        return samples
    if stage.kind != "train":
        return 1.0
    if stage.iteration < 0:
        return config.sft.epochs if config.sft else 1.0
    return samples * config.at("epochs", stage.iteration)


def in_words(line: Mapping[str, float]) -> str:
    """Say in a few words what a logged line says.

    Examples
    --------
    >>> in_words({"loss": 0.6531, "rewards/accuracy": 0.71, "logps/real": -9.4})
    'loss 0.6531, accuracy 0.71'
    >>> in_words({"loss": 0.6974, "logps/real": -27.9})
    'NLL 27.90 nats per response'
    """
    if "rewards/accuracy" in line:
        return f"loss {line['loss']:.4f}, accuracy {line['rewards/accuracy']:.2f}"
    if "logps/real" in line:
        return f"NLL {-line['logps/real']:.2f} nats per response"
    return f"loss {line['loss']:.4f}"


def _last_line(
    directory: RunDirectory, stages: list[Stage]
) -> tuple[dict[str, float] | None, str | None]:
    for stage in reversed(stages):
        path = directory.root / stage.folder / "metrics.jsonl"
        if stage.kind == "train" and path.is_file():
            logged = [row for row in read_lines(path) if "loss" in row]
            if logged:
                return logged[-1], f"{stage.name} step {logged[-1]['step']}"
    return None, None


def _last_error(directory: RunDirectory) -> str | None:
    """Find the message of the first rank that failed, preferring one that the user can fix."""
    words = [_json_or_none(path) for path in sorted(directory.worker_errors.glob("*.json"))]
    told = sorted(
        (word for word in words if word and {"code", "line"} <= word.keys()),
        key=lambda word: (word["code"] != 2, is_consequence(word["line"])),
    )
    return str(told[0]["line"]) if told else None


def _json_or_none(path: Path) -> dict[str, Any] | None:
    try:
        return read_object(path)
    except FileNotFoundError:
        return None
