"""What a run deletes once it no longer needs it (`keep`), so that disks do not fill.

Large are policies, and samples and scores of the rows to train on. Each belongs to the stage that
left it. It may go once every stage that reads it is complete, with all stages that one more
iteration would have. Numbers, held-out samples, metrics and hashes stay.

What is to go is recorded in the manifest before the first file goes. A start that finds a removal
which was cut short finishes it. Only files of the manifest go, and only in their recorded size.
"""

from collections.abc import Collection, Iterable
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

from spin_train.config.schema import Config
from spin_train.errors import UserError
from spin_train.run.graph import Stage, stages_of
from spin_train.run.manifest import Manifest
from spin_train.run.policies import maker_of
from spin_train.run.run import Run

__all__ = [
    "bulk_of",
    "in_words",
    "needs",
    "removed_in_words",
    "require_needs",
    "spare",
    "tidy",
]

_BULK = {
    "train": "policy/*",
    "generate": "generations/train-*.parquet",
    "reference": "reference/train-*.parquet",
    "score": "scored/train-*.parquet",
}
"""Large files of a stage by its kind, under its folder."""


def bulk_of(stage: Stage, files: Iterable[str]) -> list[str]:
    """List the large ones among the files that a stage left."""
    pattern = f"{stage.folder}/{_BULK[stage.kind]}" if stage.kind in _BULK else ""
    return [name for name in files if fnmatch(name, pattern)]


def needs(config: Config, stage: Stage) -> set[str]:
    """Name the stages whose large files a stage reads."""
    k = stage.iteration
    earlier = range(max(0, k - config.mixing), k + 1)
    samples = {f"iter{j}/generate" for j in (*earlier, *([0] if config.has_triplets else []))}
    scores = {f"iter{k}/score"} if k >= 0 else set()
    judged = {maker_of(config, k + 1, control=stage.control)}
    reads: dict[str, set[str | None]] = {
        "prepare": set(),
        "train": {maker_of(config, k, control=stage.control), *scores} if k >= 0 else set(),
        "evaluate": {*judged, *scores},
        "answer": judged,
        "benchmark": judged,
        "sample": judged,
        "generate": {maker_of(config, k)},
        "reference": {maker_of(config, 0), *samples},
        "score": {maker_of(config, k), f"iter{k}/reference", *samples},
    }
    return {name for name in reads[stage.kind] if name is not None}


def spare(config: Config, done: Collection[str], *, kept: Collection[str] = ()) -> list[Stage]:
    """List the stages whose large files nothing needs any more, given which are complete.

    The last iteration that has trained stays whole: the run goes on from there, and its pairs can
    be exported.
    """
    stages = stages_of(config)
    longer = config.model_copy(update={"iterations": config.iterations + 1})
    ahead = [stage for stage in (*stages, *stages_of(longer)) if stage.name not in done]
    needed = {name for stage in ahead for name in needs(config, stage)} | set(kept)
    trained = [stage.iteration for stage in stages if stage.kind == "train" and stage.name in done]
    return [
        stage
        for stage in stages
        if stage.kind in _BULK
        and stage.name in done
        and stage.name not in needed
        and stage.iteration < max(trained, default=-1)
    ]


def tidy(run: Run, manifest: Manifest) -> None:
    """Delete what `keep` lets go; by the one process that writes the manifest."""
    _finish(run, manifest)
    if run.config.keep == "all":
        return
    done = {stage.name for stage in run.stages if manifest.is_complete(stage.name)}
    going = {}
    for stage in spare(run.config, done, kept=_best(run)):
        record = manifest.content["stages"][stage.name]
        bulk = bulk_of(stage, record["files"])
        if bulk and "removed" not in record:
            going[stage.name] = bulk
    if going:
        manifest.begin_removal(going)
        _finish(run, manifest)


def _best(run: Run) -> set[str]:
    """Makers of the best policy, and of a control that is better, where these are to stay."""
    found = (run.best, run.better_control) if run.config.keep == "best" else ()
    policies = [one.policy for one in found if one is not None]
    makers = (maker_of(run.config, p.iteration, control=p.control) for p in policies)
    return {name for name in makers if name is not None}


def _finish(run: Run, manifest: Manifest) -> None:
    """Delete the files of a removal that has begun."""
    for stage in manifest.removing:
        record = manifest.content["stages"].get(stage, {"files": {}})
        for name in record.get("removed", []):
            _delete(run.root, name, record["files"].get(name))
    manifest.end_removal()


def _delete(root: Path, name: str, recorded: dict[str, int] | None) -> None:
    """Delete a recorded file of a run; another one that has taken its place stays."""
    path = root / name
    inside = not Path(name).is_absolute() and ".." not in Path(name).parts
    if recorded is None or not inside or path.is_symlink() or not path.is_file():
        return
    if path.stat().st_size == recorded["bytes"]:
        path.unlink()
        with suppress(OSError):  # something else is in there
            path.parent.rmdir()


def require_needs(run: Run, manifest: Manifest, names: Collection[str]) -> None:
    """Refuse (UserError) to do stages that need what `keep` has removed."""
    for stage in run.stages:
        if stage.name not in names or manifest.is_complete(stage.name):
            continue
        for need in sorted(needs(run.config, stage)):
            if manifest.is_gone(need):
                raise UserError(
                    f"{stage.name} needs {in_words(run, need)}, removed by keep: put "
                    f"{run.root / _place(need)} back from a copy, leave out the key that asks for "
                    "this stage, or start in a new output_dir with keep: all"
                )


def _place(stage: str) -> str:
    folder, _, kind = stage.rpartition("/")
    return f"{folder}/{_BULK[kind].partition('/')[0]}"


def in_words(run: Run, stage: str) -> str:
    """Say what the large files of a stage are."""
    for policy in run.listed:
        if stage == maker_of(run.config, policy.iteration, control=policy.control):
            return policy.name
    folder, _, kind = stage.rpartition("/")
    what = "samples" if kind == "generate" else "scores"
    return f"{what} to train on of iteration {folder.removeprefix('iter')}"


def removed_in_words(run: Run) -> str | None:
    """Say in one line what `keep` has removed; None where that is nothing.

    Iterations whose samples or scores are gone are named once.
    """
    manifest = run.manifest()
    gone = [stage for stage in run.stages if manifest.is_gone(stage.name)]
    parts = [in_words(run, stage.name) for stage in gone if stage.kind == "train"]
    sampled = sorted({stage.iteration for stage in gone if stage.kind != "train"})
    if sampled:
        numbers = ", ".join(map(str, sampled))
        parts.append(f"samples and scores to train on of iteration {numbers}")
    return ", ".join(parts) or None
