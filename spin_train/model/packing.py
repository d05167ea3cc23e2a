"""Whole groups packed into one row of tokens.

A row is ``[x, y, y', (y0), x, y, ...]``: each prompt once, its responses behind it, no padding. A
prompt token sees the prompt up to itself. A response token sees its whole prompt and its own
response up to itself. Positions restart after the prompt, so every token has the position that it
has in a row of its own::

             x x x y y z z x y
           x #
           x # #                   #: the row's token sees the column's
           x # # #                 x x x y y z z: a prompt and two responses, blind to each other
           y # # # #               x y: the next group
           y # # # # #
           z # # #     #
           z # # #     # #
           x               #
           y               # #

The last token of a response predicts nothing that is scored, so it is left out. The first token of
every response is predicted by the last token of its prompt, which is there once: its hidden state
is taken several times.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

__all__ = ["Group", "PackedRow", "Segment", "token_blocks"]


@dataclass(frozen=True)
class Group:
    """A prompt and the responses to it whose log-probs are wanted."""

    prompt_ids: list[int]
    """At least one token: without one the first response token has no prediction."""
    responses: list[list[int]]
    """Token ids of each response, at least one token each."""

    @property
    def tokens(self) -> int:
        """Length in a packed row, where the last token of a response predicts nothing."""
        return len(self.prompt_ids) + sum(len(response) - 1 for response in self.responses)


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of a row, a prompt or one response, and the span of their prompt."""

    start: int
    stop: int
    prompt: tuple[int, int]

    @property
    def before(self) -> int:
        """Tokens of the prompt that all of the segment sees; also its first position."""
        return 0 if self.start == self.prompt[0] else self.prompt[1] - self.prompt[0]

    @property
    def keys(self) -> int:
        """Tokens that its last token sees."""
        return self.before + self.stop - self.start

    def places(self) -> list[int]:
        """Places in the row of all it sees."""
        return [*range(self.prompt[0], self.prompt[0] + self.before), *range(self.start, self.stop)]


@dataclass(frozen=True)
class PackedRow:
    """Groups one after another in one row of N tokens, T of whose predictions are scored.

    Its tensors are made on `device`.
    """

    groups: Sequence[Group]
    device: torch.device
    _made: dict[Any, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def segments(self) -> list[Segment]:
        """Prompts and responses in order; a response of one token has no segment."""
        segments, place = [], 0
        for group in self.groups:
            prompt = (place, place + len(group.prompt_ids))
            segments.append(Segment(*prompt, prompt))
            place = prompt[1]
            for length in (len(response) - 1 for response in group.responses):
                if length:
                    segments.append(Segment(place, place + length, prompt))
                    place += length
        return segments

    @cached_property
    def input_ids(self) -> Tensor:
        """Tokens of the row, (1, N)."""
        ids: list[int] = []
        for group in self.groups:
            ids += group.prompt_ids
            for response in group.responses:
                ids += response[:-1]
        return self.tensor(ids)[None]

    @cached_property
    def position_ids(self) -> Tensor:
        """Position of each token in a row of its own, (1, N)."""
        return self.tensor([i for s in self.segments for i in range(s.before, s.keys)])[None]

    @cached_property
    def targets(self) -> Tensor:
        """Response tokens to score, (T,), response after response."""
        return self.tensor([i for group in self.groups for ids in group.responses for i in ids])

    @cached_property
    def predictors(self) -> Tensor:
        """Places in the row whose hidden states predict the targets, (T,)."""
        places: list[int] = []
        place = 0
        for group in self.groups:
            place += len(group.prompt_ids)
            last_of_prompt = place - 1
            for response in group.responses:
                # Token i of a response is predicted at token i - 1, its first at the prompt's end.
                places += [last_of_prompt, *range(place, place + len(response) - 1)]
                place += len(response) - 1
        return self.tensor(places)

    @cached_property
    def owners(self) -> Tensor:
        """Number of the response each target belongs to, (T,)."""
        lengths = [len(ids) for group in self.groups for ids in group.responses]
        return self.tensor([n for n, length in enumerate(lengths) for _ in range(length)])

    def tensor(self, values: Any) -> Tensor:
        """Put whole numbers, evenly nested, on the row's device without waiting for it (int64)."""
        return torch.tensor(values).to(self.device, non_blocking=True)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Compute a value when the first layer needs it, and reuse it in all layers."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def sees(self, window: int | None) -> Callable[..., Tensor]:
        """Mask function for FlexAttention, of batch, head, query place and key place.

        `window` is a sliding window in tokens, or None.
        """
        # Of each token, (N,): its position, where its group starts and where its segment starts.
        position = self.position_ids[0]
        group = self.tensor([s.prompt[0] for s in self.segments for _ in range(s.start, s.stop)])
        response = self.tensor([s.start for s in self.segments for _ in range(s.start, s.stop)])

        def mask(batch: Any, head: Any, query: Any, key: Any) -> Tensor:
            # A prompt's segment starts where its group does, so all of the group sees it.
            own_or_prompt = (response[key] == response[query]) | (response[key] == group[key])
            distance = position[query] - position[key]
            seen = (group[query] == group[key]) & own_or_prompt & (distance >= 0)
            return seen if window is None else seen & (distance < window)

        return mask


def token_blocks(groups: Sequence[Group], tokens: int) -> Iterator[Sequence[Group]]:
    """Cut groups into blocks of consecutive ones, of about equally many tokens.

    A block has at most `tokens`, unless a single group has more.
    """
    start = total = 0
    for stop, group in enumerate(groups):
        total += group.tokens
        if total > tokens and stop > start:
            yield groups[start:stop]
            start, total = stop, group.tokens
    if start < len(groups):
        yield groups[start:]
