"""A new run that shares the beginning of another one."""

import json
import os
import shutil
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path

from spin_train.config.changes import keeps_samples, refused_on_branching
from spin_train.config.files import load_config
from spin_train.config.schema import SCHEDULES, Config
from spin_train.config.yaml12 import yaml_text
from spin_train.errors import UserError
from spin_train.run.directory import RunDirectory
from spin_train.run.graph import ADDED_LATER, Stage
from spin_train.run.keeping import in_words, needs
from spin_train.run.manifest import Manifest
from spin_train.run.run import Run
from spin_train.system.files import PARTIAL, write_atomically, write_json

__all__ = ["branch"]


def branch(source: Path, target: Path, *, at: int, overrides: Iterable[str] = ()) -> Run:
    """Start a run from the first iterations of another, with the same data and policies up to p_K.

    Parameters
    ----------
    source : Path
        Directory of a run, finished or not.
    target : Path
        Directory of the new run; it must not exist.
    at : int
        K, the number of iterations kept. 0 keeps data, SFT and the evaluation of p_0. Samples and
        scores of iteration K are kept too if only settings of training and its loss change.
    overrides : iterable of str
        Keys of the new run, such as ``beta=0.5``. A single number for a schedule holds from
        iteration K on; the first K values stay.

    Returns
    -------
    Run
        The new one; `selfplay.play` continues it from iteration K.

    Raises
    ------
    UserError
        If there is no run at `source` or it has not got that far, the target exists, or an override
        contradicts what is kept.

    Notes
    -----
    Files are linked, not copied, where the file system can: both runs only ever replace files.
    """
    directory = RunDirectory(source)
    if not (directory.config_file.is_file() and directory.manifest_file.is_file()):
        raise UserError(f"no run at {source}: config.yaml or manifest.json is missing")
    if target.exists():
        raise UserError(f"{target} exists; branch into a new directory")
    old = Run.open(source)
    given = [*overrides, f"output_dir={json.dumps(str(target))}"]
    config = load_config(directory.config_file, given)
    config = _kept_schedules(old.config, config, at)
    few = min(old.config.iterations, config.iterations)
    if at > few:
        raise UserError(f"--at {at}: one of the two runs has only {few} iterations")
    changes = refused_on_branching(old.config, config, at=at)
    if changes:
        made = f"the first {at} iterations were" if at else "the data, SFT or p_0 were"
        raise UserError(
            f"{made} made with other settings ({'; '.join(changes)}): "
            f"{'branch earlier' if at else 'start a new run'}, or leave these keys as they are"
        )
    new, manifest = Run.of(config), old.manifest()
    kept = [stage for stage in new.stages if stage.iteration < at]
    kept = [s for s in kept if s.kind not in ADDED_LATER or manifest.is_complete(s.name)]
    missing = [stage.name for stage in kept if not manifest.is_complete(stage.name)]
    if config.control and not old.config.control and at > 0:
        raise UserError("control: the source run has none, and a control must start at iteration 0")
    if missing:
        raise UserError(f"{source} has not got that far: {missing[0]} is not complete")
    if keeps_samples(old.config, config, at=at):
        sampled = ("generate", "reference", "score")
        own = [s for s in new.stages if s.iteration == at and s.kind in sampled]
        kept += takewhile(
            lambda s: manifest.is_complete(s.name) and not manifest.is_gone(s.name), own
        )
    _require_there(old, new, manifest, kept, at)
    _copy(old, new, manifest, kept, at)
    return new


def _require_there(old: Run, new: Run, manifest: Manifest, kept: list[Stage], at: int) -> None:
    """Refuse a branch that would need what `keep` has removed from the source."""
    names = {stage.name for stage in kept}
    for stage in new.stages:
        lacking = [need for need in needs(new.config, stage) & names if manifest.is_gone(need)]
        if stage.name not in names and lacking:
            raise UserError(
                f"--at {at}: {stage.name} needs {in_words(old, min(lacking))}, which keep has "
                f"removed from {old.root}; policies that are there: {', '.join(old.policies)}"
            )


def _kept_schedules(before: Config, after: Config, at: int) -> Config:
    """Let one number given for a schedule hold from iteration K on."""
    kept: dict[str, list[float]] = {}
    for name in SCHEDULES:
        value = getattr(after, name)
        if at == 0 or isinstance(value, list) or value == getattr(before, name) or value is None:
            continue
        first = [before.at(name, k) for k in range(min(at, before.iterations))]
        kept[name] = [*first, *[float(value)] * (after.iterations - len(first))]
    return after.model_copy(update=kept)


def _copy(old: Run, new: Run, manifest: Manifest, kept: list[Stage], at: int) -> None:
    partial = RunDirectory(new.root.with_name(new.root.name + PARTIAL))
    shutil.rmtree(partial.root, ignore_errors=True)
    stages = {stage.name: manifest.content["stages"][stage.name] for stage in kept}
    for stage in stages:
        for name in manifest.left(stage):
            _link(old.root / name, partial.root / name)
    partial.root.mkdir(parents=True, exist_ok=True)
    content = {name: value for name, value in manifest.content.items() if name != "removing"}
    write_json(
        partial.manifest_file,
        {**content, "stages": stages, "branched_from": {"run": str(old.root), "at": at}},
    )
    with write_atomically(partial.config_file) as path:
        content = new.config.model_dump()
        path.write_text(yaml_text(content), encoding="utf-8")
    partial.root.replace(new.root)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
