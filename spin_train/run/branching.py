"""A new run that shares the beginning of another one."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from spin_train.config.changes import _LATER_KEYS, changed_keys, is_of_training
from spin_train.config.files import load_config
from spin_train.config.schema import Config
from spin_train.config.yaml12 import yaml_text
from spin_train.errors import UserError
from spin_train.run.directory import RunDirectory
from spin_train.run.graph import Stage, plan
from spin_train.run.manifest import Manifest
from spin_train.system.files import write_atomically, write_json

__all__ = ["branch"]


def branch(source: Path, target: Path, *, at: int, overrides: Iterable[str] = ()) -> Config:
    """Begin a run with the first iterations of another: same data, same policies up to p_K.

    Parameters
    ----------
    source : Path
        Directory of a run, finished or not.
    target : Path
        The new run's; must not exist.
    at : int
        K: iterations kept. 0 keeps data, SFT and the evaluation of p_0.
    overrides : iterable of str
        Keys of the new run, such as ``beta=0.5``. One number for a schedule holds from iteration K
        on; the first K values stay.

    Returns
    -------
    Config
        The new run's; `selfplay.run` plays it from iteration K.

    Raises
    ------
    UserError
        If the source is no run or not that far, the target exists, or an override contradicts
        what is kept.

    Notes
    -----
    Files are linked, not copied, where the file system can: both runs only ever replace files.
    """
    old = RunDirectory(source)
    if not (old.config.is_file() and old.manifest.is_file()):
        raise UserError(f"{source} is no run: no config.yaml and manifest.json there")
    if target.exists():
        raise UserError(f"{target} exists; branch into a new directory")
    before = load_config(old.config)
    given = [*overrides, f"output_dir={json.dumps(str(target))}"]
    after = _kept_schedules(before, load_config(old.config, given), at)
    if at > min(before.iterations, after.iterations):
        few = min(before.iterations, after.iterations)
        raise UserError(f"--at {at}: one of the two runs has {few} iterations")
    changes = [
        change
        for change in changed_keys(_first(before, at), _first(after, at))
        if change.partition(":")[0] not in _LATER_KEYS
    ]
    if at == 0:
        changes = [change for change in changes if not _is_of_iterations(change, after)]
    if changes:
        made = f"the first {at} iterations were" if at else "the data, SFT or p_0 were"
        raise UserError(
            f"{made} made otherwise ({'; '.join(changes)}): "
            f"{'branch earlier' if at else 'begin a new run'}, or leave these keys"
        )
    manifest = Manifest(old)
    kept = [stage for stage in plan(after) if stage.iteration < at]
    # Benchmarks may be added to any run later.
    kept = [s for s in kept if s.kind != "benchmark" or manifest.is_complete(s.name)]
    missing = [stage.name for stage in kept if not manifest.is_complete(stage.name)]
    if after.control and not before.control and at > 0:
        raise UserError("control: the source has none, and it must be played from the start")
    if missing:
        raise UserError(f"{source} is not that far: {missing[0]} is not complete")
    _copy(old, RunDirectory(target), manifest, kept, after, at)
    return after


def _kept_schedules(before: Config, after: Config, at: int) -> Config:
    """Let one number given for a schedule hold from iteration K on."""
    kept: dict[str, list[float]] = {}
    for name in ("beta", "history_weight", "learning_rate", "epochs"):
        value = getattr(after, name)
        if at == 0 or isinstance(value, list) or value == getattr(before, name) or value is None:
            continue
        first = [before.at(name, k) for k in range(min(at, before.iterations))]
        kept[name] = [*first, *[float(value)] * (after.iterations - len(first))]
    return after.model_copy(update=kept)


def _first(config: Config, at: int) -> Config:
    """Cut a configuration down to what the first iterations see of it."""
    cut = {
        name: [config.at(name, k) for k in range(max(1, at))]
        for name in ("beta", "learning_rate", "epochs")
    }
    if config.algorithm != "spin":
        cut["history_weight"] = [config.at("history_weight", k) for k in range(max(1, at))]
    return config.model_copy(update={"iterations": max(1, at), **cut})


def _is_of_iterations(change: str, config: Config) -> bool:
    """Whether a key matters to self-play only, so that before iteration 0 it may change."""
    own = ("beta", "history_weight", "learning_rate", "epochs", "mixing", "loss_type", "algorithm")
    key = change.partition(":")[0]
    if config.sft is None and is_of_training(key):
        return True
    # The limit on samples was one on prompts when the data were prepared.
    return key in own or (key.startswith("generation.") and key != "generation.max_new_tokens")


def _copy(
    old: RunDirectory,
    new: RunDirectory,
    manifest: Manifest,
    kept: list[Stage],
    config: Config,
    at: int,
) -> None:
    partial = RunDirectory(new.root.with_name(new.root.name + ".partial"))
    shutil.rmtree(partial.root, ignore_errors=True)
    stages = {stage.name: manifest.content["stages"][stage.name] for stage in kept}
    for record in stages.values():
        for name in record["files"]:
            _link(old.root / name, partial.root / name)
    partial.root.mkdir(parents=True, exist_ok=True)
    write_json(
        partial.manifest,
        {**manifest.content, "stages": stages, "branched_from": {"run": str(old.root), "at": at}},
    )
    with write_atomically(partial.config) as path:
        path.write_text(yaml_text(config.model_dump()), encoding="utf-8")
    partial.root.replace(new.root)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
