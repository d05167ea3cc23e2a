"""Examples to micro-batches: a global batch is a number of examples, whatever the packing."""

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from torch.utils.data import Dataset

from spin_train.generation import seed_of
from spin_train.objective import Objective
from spin_train.packing import Group
from spin_train.records import Record, Records

__all__ = ["Example", "MicroBatch", "MicroBatches", "examples_of", "token_runs"]


@dataclass(frozen=True)
class Example:
    """A pair, a triplet or a single real response: what the loss is a mean over."""

    group: Group
    """Prompt, and one response for each role of the objective."""
    opponent_logps: list[float]
    """As read from disk, one for each role; nan where the objective needs none."""
    reference_logps: list[float] | None = None
    """What the loss subtracts, where that is not the opponent's (T-SPIN_ref)."""


def examples_of(records: Sequence[Record], objective: Objective) -> Sequence[Example]:
    """Pairs (SPIN), triplets (T-SPIN) or rows (SFT) of scored records.

    Parameters
    ----------
    records : sequence of Record
        Scored, unless the objective is SFT.
    objective : Objective
        Says which roles make an example.

    Returns
    -------
    sequence of Example
        A record gives one example for each of its generated responses, also to SFT: the control
        trains on as many rows as self-play. Without any it gives SFT one example, self-play none.
        Where there are several samples of an opponent, the proto responses are as many, and each
        sample meets the one of its own number. Of `Records` none is made before it is asked for.
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
                [_number(response.opponent_logps) for response in responses],
                [_number(response.reference_logps) for response in responses]
                if objective.reference == "reference"
                else None,
            )
        )
    return examples


def _number(value: float | None) -> float:
    return math.nan if value is None else value


class _Examples(Sequence[Example]):
    """Examples of records on columns; their tokens are counted without making any."""

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


@dataclass(frozen=True)
class MicroBatch:
    """What one rank takes through the model at once."""

    examples: list[Example]
    weight: float
    """Factor on the sum of its losses: ranks / examples of the global batch; 0 for a filler."""


class MicroBatches(Dataset[MicroBatch]):
    """All micro-batches of a training stage in the order they are trained on.

    Each global batch is shared out over ranks and accumulation steps by tokens. All steps have as
    many micro-batches as the one that needs most. The order is step, accumulation, rank, so that
    the sequential sampler shared out over the ranks gives each its own; those that ranks take at
    the same time are about equally long, the longest first, so that memory runs out at once or
    never. A global batch that does not divide evenly keeps its size: weights, not repeated
    examples, make the loss the mean over the global batch.

    Parameters
    ----------
    examples : sequence of Example
        What to train on.
    batch_size : int
        Examples per optimiser step over all ranks.
    micro_batch_tokens : int
        At most so many tokens a micro-batch, unless a single example has more.
    micro_batch_size : int, optional
        At most so many examples a micro-batch.
    ranks : int
        Worker processes.
    epochs : float
        Passes over the examples; the last may be partial.
    seed : int
        Of the order, drawn anew each epoch.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        batch_size: int,
        micro_batch_tokens: int,
        micro_batch_size: int | None = None,
        ranks: int,
        epochs: float,
        seed: int,
    ) -> None:
        self._examples = examples
        self._tokens = (
            examples.tokens
            if isinstance(examples, _Examples)
            else [example.group.tokens for example in examples]
        )
        self._ranks = ranks
        self._most = micro_batch_size or len(examples)
        self._batches: list[list[int]] = []
        for epoch in range(math.ceil(epochs)):
            generator = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
            order = torch.randperm(len(examples), generator=generator).tolist()
            share = min(1.0, epochs - epoch)
            order = order[: max(1, round(share * len(order)))]
            self._batches += [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        self.steps = len(self._batches)
        self.accumulation = 1
        for batch in self._batches:
            while not self._fits(batch, micro_batch_tokens):
                self.accumulation += 1

    def __len__(self) -> int:
        return self.steps * self.accumulation * self._ranks

    def __getitem__(self, index: int) -> MicroBatch:
        slots = self.accumulation * self._ranks
        batch = self._batches[index // slots]
        mine = self._shared_out(batch)[index % slots]
        if not mine:  # every rank must go through the model as often as the others
            shortest = min(batch, key=self._tokens.__getitem__)
            return MicroBatch([self._examples[shortest]], weight=0.0)
        weight = self._ranks / len(batch)
        return MicroBatch([self._examples[i] for i in mine], weight=weight)

    def _fits(self, batch: list[int], tokens: int) -> bool:
        if len(batch) > self.accumulation * self._ranks * self._most:
            return False
        sums = ((len(m), sum(self._tokens[i] for i in m)) for m in self._shared_out(batch))
        return all(count <= 1 or total <= tokens for count, total in sums)

    def _shared_out(self, batch: list[int]) -> list[list[int]]:
        """Micro-batches of a global batch by slot: the longest example left to the emptiest."""
        slots = self.accumulation * self._ranks
        heap: list[tuple[int, int, list[int]]] = [(0, slot, []) for slot in range(slots)]
        full = []
        for i in sorted(batch, key=lambda i: (-self._tokens[i], i)):
            total, slot, members = heapq.heappop(heap)
            members.append(i)
            taken = (total + self._tokens[i], slot, members)
            if len(members) < self._most:
                heapq.heappush(heap, taken)
            else:
                full.append(taken)
        members_of = [members for _, _, members in sorted([*heap, *full], key=_longest_first)]
        rounds = [members_of[i : i + self._ranks] for i in range(0, slots, self._ranks)]
        # There and back, so that no rank has the longest of every round.
        return [m for n, turn in enumerate(rounds) for m in (turn if n % 2 == 0 else turn[::-1])]


def _longest_first(slot: tuple[int, int, list[int]]) -> tuple[int, int]:
    return -slot[0], slot[1]


def token_runs(groups: Sequence[Group], tokens: int) -> Iterator[Sequence[Group]]:
    """Cut a sequence of groups into runs of about equally many tokens.

    Parameters
    ----------
    groups : sequence of Group
        What to cut.
    tokens : int
        At most so many a run, unless a single group has more.

    Yields
    ------
    sequence of Group
        The next of them.
    """
    start = total = 0
    for stop, group in enumerate(groups):
        total += group.tokens
        if total > tokens and stop > start:
            yield groups[start:stop]
            start, total = stop, group.tokens
    if start < len(groups):
        yield groups[start:]
