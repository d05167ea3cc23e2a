"""What a report warns of: all that the files of a run say in words."""

from collections.abc import Iterator
from dataclasses import dataclass

from spin_train.run.run import Run
from spin_train.system.files import read_object

__all__ = ["Caution", "cautions_of"]


@dataclass(frozen=True)
class Caution:
    """Something that a reader of the numbers must know."""

    where: str
    what: str


def cautions_of(run: Run) -> list[Caution]:
    """Collect the notes on the data, and the warnings and notes on each policy."""
    places: dict[str, list[str]] = {}
    for where, what in _said(run):
        places.setdefault(what, []).append(where)
    return [Caution(", ".join(dict.fromkeys(where)), what) for what, where in places.items()]


def _said(run: Run) -> Iterator[tuple[str, str]]:
    if run.directory.data_summary.is_file():
        for note in read_object(run.directory.data_summary).get("notes", ()):
            yield "data", note
    for policy in run.listed:
        numbers = policy.numbers or {}
        for note in (*numbers.get("warnings", ()), *numbers.get("notes", ())):
            yield policy.name, note
        for note in (policy.answers or {}).get("notes", ()):
            yield policy.name, note
