"""Runs next to each other: what differs, what may be compared, and by how much they differ.

Two numbers are of the same thing only where the held-out rows are the same token for token. Where
they are not, differences are taken on the rows that both runs hold out, and the doubts say so.
"""

import hashlib
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from spin_train.config.changes import flattened
from spin_train.data.records import read_records
from spin_train.errors import UserError
from spin_train.report.estimates import Estimate, nll, nll_difference, right_answers
from spin_train.report.pictures import change_of_nll
from spin_train.run.policies import Policy
from spin_train.run.run import Run
from spin_train.system.files import or_null, read_object

__all__ = ["MOST_RUNS", "Comparison", "Row", "Side", "compare"]

MOST_RUNS = 8
"""Runs that colours and dashes tell apart in a figure."""
_PLACE = "output_dir"


@dataclass(frozen=True)
class Side:
    """One of the runs, by a letter."""

    letter: str
    run: Run

    @cached_property
    def held_out(self) -> dict[int, tuple[bytes, int]]:
        """Give what each held-out row is, by its number: digest of its tokens, which of equals.

        Rows with the same prompt and response are as good as one another.
        """
        path, seen = self.run.directory.held_out_rows, Counter[bytes]()
        found = {}
        for record in read_records(path) if path.is_file() else ():
            parts = [record.prompt_ids, *(real.ids for real in record.of_role("real"))]
            what = hashlib.sha256(repr(parts).encode()).digest()
            found[record.prompt_id] = (what, seen[what])
            seen[what] += 1
        return found

    def in_common(self, other: "Side") -> dict[int, int]:
        """Held-out rows of the other run that are held out here too: number there, number here."""
        own = {what: number for number, what in self.held_out.items()}
        return {number: own[what] for number, what in other.held_out.items() if what in own}

    @cached_property
    def source(self) -> dict[str, Any]:
        """What the data were made of; empty before they are prepared."""
        path = self.run.directory.data_summary
        return dict(read_object(path).get("source", {})) if path.is_file() else {}

    @property
    def best(self) -> Policy | None:
        """Policy of self-play with the lowest held-out NLL; p_0 only while it is alone."""
        played = [p for p in self.run.listed if not p.control and nll(p) is not None]
        return min(played[1:] or played, key=_value, default=None)


@dataclass(frozen=True)
class Row:
    """The numbers of one policy."""

    letter: str
    policy: Policy
    nll: Estimate | None
    """Held-out NLL per token, nats."""
    change: Estimate | None
    """The same minus that of its own run's p_0."""
    against_first: Estimate | None
    """The same minus that of the policy of this name in the first run, on the rows in common."""
    right: Estimate | None
    """Share of right answers by greedy decoding."""


@dataclass(frozen=True)
class Comparison:
    """Several runs next to each other; everything is measured against the first."""

    sides: list[Side]
    differs: dict[str, dict[str, Any]]
    """Value by letter of each key in which the configurations differ."""
    doubts: list[str]
    """What a reader must know before comparing."""
    verdicts: list[str]
    """A sentence per run on its best policy against the first run's."""
    rows: list[Row]

    @property
    def first(self) -> Side:
        """The run that the others are held against."""
        return self.sides[0]

    @property
    def same_rows(self) -> bool:
        """Whether all of them hold out the same rows, token for token."""
        first = set(self.first.held_out.values())
        return bool(first) and all(set(s.held_out.values()) == first for s in self.sides)

    def as_json(self) -> dict[str, Any]:
        """Everything as JSON; a number is `value`, `low` and `high` (95 %), or null."""
        return or_null(  # type: ignore[no-any-return]
            {
                "runs": {side.letter: str(side.run.root) for side in self.sides},
                "differs": self.differs,
                "doubts": self.doubts,
                "verdicts": self.verdicts,
                "rows_in_common_with_first": {
                    side.letter: len(self.first.in_common(side)) for side in self.sides
                },
                "policies": [
                    {
                        "run": row.letter,
                        "policy": row.policy.name,
                        "iteration": row.policy.iteration,
                        "control": row.policy.control,
                        "nll_per_token": row.nll and vars(row.nll),
                        "change_since_p_0": row.change and vars(row.change),
                        "against_first": row.against_first and vars(row.against_first),
                        "right_answers": row.right and vars(row.right),
                        "numbers": row.policy.numbers,
                    }
                    for row in self.rows
                ],
            }
        )


def compare(runs: Sequence[Run]) -> Comparison:
    """Put runs next to each other; UserError for fewer than two, too many, or one given twice."""
    if not 2 <= len(runs) <= MOST_RUNS:
        raise UserError(
            f"compare takes 2 to {MOST_RUNS} runs, got {len(runs)}; for many settings and seeds "
            "there is spin-train grid"
        )
    places = [run.root.resolve() for run in runs]
    for place, count in Counter(places).items():
        if count > 1:
            raise UserError(f"{place} is given {count} times; name each run once")
    sides = [Side(letter, run) for letter, run in zip(string.ascii_uppercase, runs, strict=False)]
    rows = [row for side in sides for row in _rows(side, sides[0])]
    return Comparison(sides, _differing(sides), _doubts(sides), _verdicts(sides), rows)


def _rows(side: Side, first: Side) -> list[Row]:
    change, same = change_of_nll(side.run), side.in_common(first)
    theirs = {policy.name: policy for policy in first.run.listed}
    return [
        Row(
            side.letter,
            policy,
            nll(policy),
            change(policy) if policy.iteration else None,
            nll_difference(policy, theirs[policy.name], same)
            if side is not first and policy.name in theirs
            else None,
            right_answers(policy),
        )
        for policy in side.run.listed
        if policy.numbers is not None
    ]


def _differing(sides: Sequence[Side]) -> dict[str, dict[str, Any]]:
    """Value of each key by letter where not all are equal; where it lies is no difference."""
    flat = {side.letter: flattened(side.run.config) for side in sides}
    keys = dict.fromkeys(key for values in flat.values() for key in values if key != _PLACE)
    found = {key: {letter: of.get(key) for letter, of in flat.items()} for key in keys}
    return {
        key: values
        for key, values in found.items()
        if any(value != values[sides[0].letter] for value in values.values())
    }


def _doubts(sides: Sequence[Side]) -> list[str]:
    first, *others = sides
    doubts = [
        f"{side.letter} is not finished: {done} of {side.run.iterations_wanted} iterations are "
        "evaluated."
        for side in sides
        if (done := _evaluated(side.run)) < side.run.iterations_wanted
    ]
    doubts += [text for side in others if (text := _of_rows(first, side))]
    if differ := _grouped(sides, _model):
        doubts.append(
            f"The models differ ({differ}): a difference is of the models as well as of the method."
            " The change since p_0 is within one model."
        )
    if differ := _grouped(sides, _data):
        doubts.append(
            f"The data differ ({differ}): a difference is of the data as well as of the method."
        )
    if differ := _grouped(sides, _programs):
        doubts.append(f"The programs differ ({differ}), and so do last digits of all numbers.")
    asked = {s.letter: _decoding(s.run) for s in sides}
    if len(set(map(str, asked.values()))) > 1 and all(asked.values()):
        doubts.append(
            "Right answers were counted in different ways (evaluation.answers or "
            "generation.max_new_tokens): these shares do not compare."
        )
    return doubts


def _of_rows(first: Side, side: Side) -> str:
    """Say which held-out rows two runs share, unless they share all."""
    if not (first.held_out and side.held_out):
        which = side if first.held_out else first
        return f"{which.letter} has no held-out rows yet."
    common, sizes = len(first.in_common(side)), (len(first.held_out), len(side.held_out))
    if common == max(sizes):
        return ""
    pair = f"{first.letter} and {side.letter}"
    if not common:
        return (
            f"{pair} have no held-out row in common, token for token: their NLL is of other texts "
            "or tokens, and says nothing about which is better."
        )
    return (
        f"{pair} share {common} held-out rows, of {sizes[0]} and {sizes[1]}: differences are taken "
        "on those. The NLL of the one and of the other is of other texts and does not compare."
    )


def _verdicts(sides: Sequence[Side]) -> list[str]:
    first, *others = sides
    return [text for side in others if (text := _verdict(first, side))]


def _verdict(first: Side, side: Side) -> str:
    one, other, same = first.best, side.best, side.in_common(first)
    if one is None or other is None or not same:
        return ""
    if not (one.iteration and other.iteration):  # nothing is played yet that could be judged
        return ""
    found = nll_difference(other, one, same)
    if found is None:
        return ""
    who = f"{side.letter}'s {other.name}"
    whom = f"{first.letter}'s {one.name} on {len(same)} held-out rows"
    if found.low is None:
        side_of = "a lower" if found.value < 0 else "no lower"
        return f"{who} has {side_of} NLL than {whom}; they are too few for an interval."
    if found.sign == 0:
        return f"{who} cannot be told from {whom}."
    return f"{who} is {'better' if found.sign < 0 else 'worse'} than {whom}."


def _grouped(sides: Sequence[Side], what: Callable[[Side], tuple[Any, str]]) -> str:
    """Say which runs have which value; empty where all have the same.

    `what` gives what is compared, and how it is shown.
    """
    groups: dict[Any, tuple[str, list[str]]] = {}
    for side in sides:
        value, shown = what(side)
        groups.setdefault(value, (shown, []))[1].append(side.letter)
    if len(groups) < 2:
        return ""
    return "; ".join(f"{', '.join(letters)}: {shown}" for shown, letters in groups.values())


def _model(side: Side) -> tuple[Any, str]:
    name, revision = side.run.config.model, side.run.config.model_revision
    place = str(Path(name).resolve()) if Path(name).exists() else name
    return (place, revision), name + (f" at {revision}" if revision else "")


def _data(side: Side) -> tuple[Any, str]:
    """Tell data by their content where that is known, not by where they lay."""
    path, source = side.run.config.data.path, side.source
    if "sha256" in source:
        return source["sha256"], f"{Path(path).name} with SHA-256 {source['sha256'][:8]}..."
    commit = source.get("commit")
    return (path, side.run.config.data.split, commit), path + (f" at {commit}" if commit else "")


def _programs(side: Side) -> tuple[Any, str]:
    versions = side.run.manifest().content.get("versions", {})
    shown = [f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions]
    return tuple(shown), ", ".join(shown) or "not recorded"


def _decoding(run: Run) -> Any:
    answers = run.config.evaluation.answers
    return answers and (answers.model_dump(), run.config.generation.max_new_tokens)


def _evaluated(run: Run) -> int:
    return max((p.iteration for p in run.listed if p.numbers is not None), default=0)


def _value(policy: Policy) -> float:
    found = nll(policy)
    return float("inf") if found is None or found.value != found.value else found.value
