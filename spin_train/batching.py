"""Examples to micro-batches: a global batch is a number of examples, whatever the packing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

from spin_train.generation import seed_of
from spin_train.logps import Group
from spin_train.objective import Objective
from spin_train.records import Record

__all__ = ["Example", "MicroBatch", "MicroBatches", "examples_of"]


@dataclass(frozen=True)
class Example:
    """A pair, a triplet or a single real response: what the loss is a mean over."""

    group: Group
    """Prompt, and one response for each role of the objective."""
    opponent_logps: list[float]
    """As read from disk, one for each role; nan where the objective needs none."""


def examples_of(records: Sequence[Record], objective: Objective) -> list[Example]:
    """Pairs (SPIN), triplets (T-SPIN) or rows (SFT) of scored records.

    Parameters
    ----------
    records : sequence of Record
        Scored, unless the objective is SFT.
    objective : Objective
        Says which roles make an example.

    Returns
    -------
    list of Example
        A record gives one example for each of its generated responses, also to SFT: the control
        trains on as many rows as self-play. Without any it gives SFT one example, self-play none.
    """
    examples = []
    for record in records:
        (real,) = record.of_role("real")
        generated = record.of_role("generated")
        if not generated and objective.algorithm == "sft":
            generated = [real]
        for sample in generated:
            chosen = {"real": real, "generated": sample}
            if "proto" in objective.roles:
                chosen["proto"] = record.of_role("proto")[0]
            responses = [chosen[role] for role in objective.roles]
            logps = [response.opponent_logps for response in responses]
            examples.append(
                Example(
                    Group(record.prompt_ids, [response.ids for response in responses]),
                    [math.nan if value is None else value for value in logps],
                )
            )
    return examples


@dataclass(frozen=True)
class MicroBatch:
    """What one rank takes through the model at once."""

    examples: list[Example]
    weight: float
    """Factor on the sum of its losses: ranks / examples of the global batch; 0 for a filler."""


class MicroBatches(Dataset[MicroBatch]):
    """All micro-batches of a training stage in the order they are trained on.

    The order is step, accumulation, rank, so that the sequential sampler shared out over the ranks
    gives each its own. A global batch that does not divide evenly keeps its size: weights, not
    repeated examples, make the loss the mean over the global batch.

    Parameters
    ----------
    examples : sequence of Example
        What to train on.
    batch_size : int
        Examples per optimiser step over all ranks.
    micro_batch_size : int
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
        micro_batch_size: int,
        ranks: int,
        epochs: float,
        seed: int,
    ) -> None:
        self._examples = examples
        self._ranks = ranks
        per_rank = math.ceil(min(batch_size, len(examples)) / ranks)
        self.accumulation = math.ceil(per_rank / micro_batch_size)
        self._batches: list[list[int]] = []
        for epoch in range(math.ceil(epochs)):
            generator = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
            order = torch.randperm(len(examples), generator=generator).tolist()
            share = min(1.0, epochs - epoch)
            order = order[: max(1, round(share * len(order)))]
            self._batches += [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        self.steps = len(self._batches)

    def __len__(self) -> int:
        return self.steps * self.accumulation * self._ranks

    def __getitem__(self, index: int) -> MicroBatch:
        slots = self.accumulation * self._ranks
        batch = self._batches[index // slots]
        slot = index % slots
        mine = batch[slot::slots]
        if not mine:  # every rank must go through the model as often as the others
            return MicroBatch([self._examples[batch[0]]], weight=0.0)
        weight = self._ranks / len(batch)
        return MicroBatch([self._examples[i] for i in mine], weight=weight)
