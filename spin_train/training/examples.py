"""Examples: the pairs, triplets or single responses that the loss is a mean over."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from spin_train.data.records import Record, Records
from spin_train.model.packing import Group
from spin_train.training.objective import Objective

__all__ = ["Example", "examples_of"]


@dataclass(frozen=True)
class Example:
    """A pair, a triplet or a single real response: what the loss is a mean over."""

    group: Group
    """Prompt, and one response for each role of the objective."""
    opponent_logps: list[float]
    """The opponent's log-probs from disk, one for each role; nan where none are needed."""
    reference_logps: list[float] | None = None
    """What the loss subtracts, where that is not the opponent's (T-SPIN_ref)."""
    weight: float = 1.0
    """Factor on its loss."""


def examples_of(records: Sequence[Record], objective: Objective) -> Sequence[Example]:
    """Pairs (SPIN), triplets (T-SPIN) or real responses (SFT) of records, scored unless it is SFT.

    A record gives one example for each of its generated responses, also to SFT: the control trains
    on as many examples as self-play. Without generated responses it gives SFT one example,
    self-play none. Where there are several samples of an opponent, the proto responses are as many,
    and each sample meets the one of its own number. For `Records` examples are created on
    access.
    """
    if isinstance(records, Records):
        return _Examples(records, objective)
    return [example for record in records for example in _of_record(record, objective)]


def _of_record(record: Record, objective: Objective) -> list[Example]:
    (real,) = record.of_role("real")
    generated = record.of_role("generated")
    if not generated and objective.algorithm == "sft":
        generated = [real]
    proto = record.of_role("proto")
    examples = []
    for number, sample in enumerate(generated):
        chosen = {"real": real, "generated": sample}
        if "proto" in objective.roles:
            chosen["proto"] = proto[number % len(proto)]
        responses = [chosen[role] for role in objective.roles]
        examples.append(
            Example(
                Group(record.prompt_ids, [response.ids for response in responses]),
                [_nan_if_none(response.opponent_logps) for response in responses],
                [_nan_if_none(response.reference_logps) for response in responses]
                if objective.reference == "reference"
                else None,
                record.weight,
            )
        )
    return examples


def _nan_if_none(value: float | None) -> float:
    return math.nan if value is None else value


class _Examples(Sequence[Example]):
    """Examples of records in columns; their tokens are counted without making any."""

    def __init__(self, records: Records, objective: Objective) -> None:
        self._records = records
        self._objective = objective
        counts, generated = records.response_tokens("generated")
        if objective.algorithm == "sft":
            counts = np.maximum(counts, 1)
        self._stops = np.cumsum(counts)
        row = np.repeat(np.arange(len(records)), counts)
        number = np.arange(len(row)) - (self._stops - counts)[row]  # within the record
        tokens = records.prompt_tokens()[row]
        for role in objective.roles:
            if role == "generated":
                tokens += generated - 1
            else:
                own, lengths = records.response_tokens(role)
                tokens += lengths[(np.cumsum(own) - own)[row] + number % own[row]] - 1
        self.tokens: list[int] = tokens.tolist()

    def __len__(self) -> int:
        return len(self.tokens)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        place = range(len(self))[index]
        row = int(np.searchsorted(self._stops, place, side="right"))
        examples = _of_record(self._records[row], self._objective)
        return examples[place - int(self._stops[row])]  # counted from the record's last
