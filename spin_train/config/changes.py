"""What may differ between a run and its resumption or branch.

Each key of the schema says which stage first reads it (`config.keys`); the rest follows from that.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from spin_train.config.arguments import WITHOUT_EFFECT
from spin_train.config.files import known_keys
from spin_train.config.keys import FirstRead
from spin_train.config.schema import SCHEDULES, Config

__all__ = [
    "Change",
    "changes_of",
    "first_read",
    "flattened",
    "keeps_samples",
    "refused_on_branching",
    "refused_on_resuming",
]


_OPEN = ("template_arguments.", "deepspeed.")  # keys whose values have keys of their own


@dataclass(frozen=True)
class Change:
    """A key whose value has changed."""

    key: str
    old: Any
    new: Any
    first_read: FirstRead

    def __str__(self) -> str:
        return f"{self.key}: {self.old!r} -> {self.new!r}"


def first_read(key: str) -> FirstRead:
    """Say which stage first reads a dotted key.

    Keys that pass through to TrainingArguments are read by training, but `report_to` changes no
    result. Nor do those that are refused today and stand in the configuration of an older run.

    Examples
    --------
    >>> first_read("beta"), first_read("training.report_to")
    (<FirstRead.LOSS: 'the loss of self-play'>, <FirstRead.NOTHING: 'nothing that is kept'>)
    """
    keys = known_keys()
    field = keys.get(key) or keys.get(key.partition(".")[0] if key.startswith(_OPEN) else key)
    if field is None and key.startswith("generation.vllm."):
        return FirstRead.PLAY
    if field is None:
        name = key.removeprefix("training.")
        idle = name == "report_to" or name in WITHOUT_EFFECT
        return FirstRead.NOTHING if idle else FirstRead.TRAINING
    (found,) = (mark for mark in field.metadata if isinstance(mark, FirstRead))
    return found


def changes_of(old: Config, new: Config) -> list[Change]:
    """List the keys whose change may change results, with what each was and is.

    A schedule that only gets longer, or the same values in another form, is no change. A section
    that comes in or is left out counts by the section's own mark.
    """
    before, after = flattened(old), flattened(new)
    changes = []
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) == after.get(key):
            continue
        played = range(min(old.iterations, new.iterations))
        if key in SCHEDULES and all(old.at(key, k) == new.at(key, k) for k in played):
            continue
        mark = first_read(_section_added(key, before, after) or key)
        if mark is not FirstRead.NOTHING:
            changes.append(Change(key, before.get(key), after.get(key), mark))
    return changes


def refused_on_resuming(old: Config, new: Config, *, has_trained: bool) -> list[str]:
    """List the changes that contradict what a run has already done, one line each.

    `has_trained` says whether any training stage is complete or has a checkpoint: before, keys
    that only training reads may still be corrected.
    """
    allowed = set() if has_trained else {FirstRead.TRAINING, FirstRead.LOSS}
    lines = [str(change) for change in changes_of(old, new) if change.first_read not in allowed]
    if new.iterations < old.iterations:
        lines.append(f"iterations: {old.iterations} -> {new.iterations} (more are allowed)")
    return lines


def refused_on_branching(old: Config, new: Config, *, at: int) -> list[str]:
    """List the changes that contradict what a branch keeps: the first `at` iterations of `old`."""
    allowed = {FirstRead.CONTROL}
    if at == 0:
        allowed |= {FirstRead.PLAY, FirstRead.LOSS}
        if new.sft is None:  # nothing is trained before iteration 0
            allowed.add(FirstRead.TRAINING)
    changes = changes_of(_first(old, at), _first(new, at))
    return [str(change) for change in changes if change.first_read not in allowed]


def keeps_samples(old: Config, new: Config, *, at: int) -> bool:
    """Say whether samples and scores of iteration `at` are the same in a branch.

    They are where nothing has changed but what training and its loss read, which come later.
    """
    later = {FirstRead.TRAINING, FirstRead.LOSS, FirstRead.CONTROL}
    if at >= min(old.iterations, new.iterations):
        return False
    changes = changes_of(_first(old, at + 1), _first(new, at + 1))
    return all(change.first_read in later for change in changes)


def _first(config: Config, iterations: int) -> Config:
    """Cut a configuration down to what its first iterations see of it."""
    count = max(1, iterations)
    names = [name for name in SCHEDULES if config.has_triplets or name != "history_weight"]
    cut = {name: [config.at(name, k) for k in range(count)] for name in names}
    return config.model_copy(update={"iterations": count, **cut})


def _section_added(key: str, before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """Name the section of a key if only one of the two configurations has that section."""
    parts = key.split(".")
    for end in range(1, len(parts)):
        section = ".".join(parts[:end])
        if section in before or section in after:  # None there: a section has keys instead
            return section
    return None


def flattened(config: Config) -> dict[str, Any]:
    """Dotted keys and values, defaults included."""

    def walk(prefix: str, value: Any) -> Iterable[tuple[str, Any]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            yield prefix, value

    return dict(walk("", config.model_dump()))
