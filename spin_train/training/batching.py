"""Examples to micro-batches: a global batch is a number of examples, whatever the packing."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

from spin_train.seeds import seed_of
from spin_train.training.examples import Example, _Examples

__all__ = ["MicroBatch", "MicroBatches"]


@dataclass(frozen=True)
class MicroBatch:
    """The examples that one rank runs through the model at once."""

    examples: list[Example]
    weight: float
    """Factor on the sum of its losses: ranks / examples of the global batch; 0 for a filler."""


class MicroBatches(Dataset[MicroBatch]):
    """All micro-batches of a training stage in the order they are trained on.

    A global batch is `batch_size` examples per optimiser step over all ranks. Each is shared out
    over ranks and accumulation steps by tokens: at most `micro_batch_tokens` per micro-batch,
    unless a single example has more, and at most `micro_batch_size` examples. All steps have as
    many micro-batches as the one that needs most.

    The order is step, accumulation, rank, so that the sequential sampler, shared out over the
    ranks, gives each rank its own. Those that ranks take at the same time are about equally long,
    the longest first, so that memory runs out at once or never. A global batch that does not divide
    evenly keeps its size: weights, not repeated examples, make the loss the mean over the global
    batch.

    The last of `epochs` may be partial; `seed` draws the order, a new one each epoch.
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
        if not mine:  # every rank must call the model equally often
            shortest = min(batch, key=self._tokens.__getitem__)
            return MicroBatch([self._examples[shortest]], weight=0.0)
        weight = self._ranks / len(batch)
        return MicroBatch([self._examples[i] for i in mine], weight=weight)

    def tokens_of(self, start: int, stop: int) -> int:
        """Count the tokens that all ranks train on from a step up to another, fillers left out."""
        return sum(int(self._tokens[i]) for batch in self._batches[start:stop] for i in batch)

    def _fits(self, batch: list[int], tokens: int) -> bool:
        if len(batch) > self.accumulation * self._ranks * self._most:
            return False
        sums = ((len(m), sum(self._tokens[i] for i in m)) for m in self._shared_out(batch))
        return all(count <= 1 or total <= tokens for count, total in sums)

    def _shared_out(self, batch: list[int]) -> list[list[int]]:
        """Micro-batches of a global batch by slot; the longest one left goes to the emptiest."""
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
