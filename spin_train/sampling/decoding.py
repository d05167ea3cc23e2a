"""Decoding with a key-value cache: one token per row and step, rows that have ended replaced.

All rows end at a common column and are padded on the left, so that the distances between tokens are
those that the model's own masks assume::

    mask     0 0 1 1 1 | 1 1        prompt of 3 tokens, 2 sampled so far
             1 1 1 1 1 | 1 1        prompt of 5
             0 1 1 1 1 | 1 0        prompt of 4, ended with its 2nd token: waits to be dropped
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from spin_train.sampling.engine import Sample, SamplingSettings

__all__ = [
    "Batch",
    "PartialResponse",
    "Prompts",
    "Task",
    "draw",
    "draw_and_take",
    "layers_of",
    "left_padded",
]

_ROOM = 64  # columns; a cache that is full is copied


def draw(logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Draw one token per row of logits (B, V) by inverting the distribution function.

    With uniforms u in [0, 1), float64, the token is the first whose cumulated weight exceeds u
    times the total; weights are p^(1 / temperature). None has probability 0. At
    temperature 0 it is the likeliest token, the first of equals, and no number is drawn. Returns
    the ids (B,) and their log-probs at temperature 1 (B,), in nats and float64.
    """
    # In float64: sums over a vocabulary in float32 would drop its rare tokens.
    scores = logits.double()
    scores = scores - scores.max(-1, keepdim=True).values
    if temperature == 0:
        likeliest = scores.argmax(-1, keepdim=True)  # (B, 1)
        return likeliest[:, 0], scores.log_softmax(-1).gather(1, likeliest)[:, 0]
    sums = (scores / temperature).exp().cumsum(-1)  # (B, V), not normalised
    total = sums[:, -1:]  # (B, 1)
    # The largest uniform, 1 - 2**-53, times the total is below the total even when rounded. Only
    # logits that are nan point past the end; the nan of their log-probs is noticed later.
    tokens = torch.searchsorted(sums, uniforms[:, None] * total, right=True)
    tokens = tokens.clamp(max=logits.shape[1] - 1)
    if temperature != 1.0:
        total = scores.exp().sum(-1, keepdim=True)
    # log p = z - log sum exp(z), both less the largest z
    return tokens[:, 0], (scores.gather(1, tokens) - total.log())[:, 0]


@dataclass(frozen=True)
class Task:
    """A response that is wanted."""

    number: int
    """Its place among the responses that are wanted."""
    prompt_ids: list[int]
    """Token ids, at least one."""
    seed: int
    """Seed of its draws."""
    limit: int
    """Largest number of tokens of the response."""


@dataclass
class PartialResponse:
    """A response that is being sampled."""

    task: Task
    """The response that is wanted."""
    uniforms: list[float]
    """Numbers from [0, 1), one for each token it may have."""
    ids: list[int] = field(default_factory=list)
    """Token ids so far."""
    logps: float = 0.0
    """Their summed log-probs at temperature 1, nats."""
    ended: bool = False
    """Whether it is finished."""

    @classmethod
    def of(cls, task: Task) -> "PartialResponse":
        """Start a response; a counter-based generator makes its draws from its seed alone."""
        generator = np.random.Generator(np.random.Philox(task.seed))
        return cls(task, generator.random(task.limit).tolist())

    def sample(self, stop_ids: Sequence[int]) -> Sample:
        """Return the finished response."""
        return Sample(self.ids, "stop" if self.ids[-1] in stop_ids else "length", self.logps)


def draw_and_take(
    rows: Sequence[PartialResponse], logits: Tensor, settings: SamplingSettings
) -> Tensor:
    """Draw every row's next token from logits (B, V), and append it to rows that have not ended.

    Returns the tokens (B,); those of rows that had ended mean nothing.
    """
    uniforms = [0.0 if row.ended else row.uniforms[len(row.ids)] for row in rows]
    tokens, token_logps = draw(
        logits,
        torch.tensor(uniforms, dtype=torch.float64, device=logits.device),
        settings.temperature,
    )
    for row, token, logps in zip(rows, tokens.tolist(), token_logps.tolist(), strict=True):
        if not row.ended:
            row.ids.append(token)
            row.logps += logps
            row.ended = token in settings.stop_ids or len(row.ids) == row.task.limit
    return tokens


def left_padded(tasks: Sequence[Task], device: torch.device) -> tuple[Tensor, Tensor]:
    """Put the prompts of B tasks into ids and mask, (B, longest), padded on the left.

    The mask is zero there, so which id is used for padding does not matter.
    """
    longest = max(len(task.prompt_ids) for task in tasks)
    input_ids = [[0] * (longest - len(task.prompt_ids)) + task.prompt_ids for task in tasks]
    starts = torch.tensor([longest - len(task.prompt_ids) for task in tasks], device=device)
    mask = torch.arange(longest, device=device) >= starts[:, None]  # (B, longest)
    return torch.tensor(input_ids, device=device), mask.long()


class _Roomy:
    """States (rows, heads, columns, size) with room behind them, so that a step copies none."""

    def __init__(self) -> None:
        self._storage = self._filled = torch.empty(0)

    def append(self, states: Tensor, new: Tensor) -> Tensor:
        """Append columns to the states returned last, or to others, which are copied once."""
        start = states.shape[2] if states.numel() else 0
        end = start + new.shape[2]
        if states is not self._filled or end > self._storage.shape[2]:
            rows, heads, _, size = new.shape
            self._storage = new.new_empty(rows, heads, end + _ROOM, size)
            if start:
                self._storage[:, :, :start] = states
        self._storage[:, :, start:end] = new
        self._filled = self._storage[:, :, :end]
        return self._filled


class _RoomyLayer(DynamicLayer):
    """A layer of the cache whose states have room behind them."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self._roomy_keys, self._roomy_values = _Roomy(), _Roomy()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        states: tuple[Any, Any] = self.keys, self.values
        keys = self._roomy_keys.append(states[0], key_states)
        values = self._roomy_values.append(states[1], value_states)
        self.keys, self.values = keys, values
        return keys, values


def _empty_cache() -> DynamicCache:
    cache = DynamicCache()  # without the config: windows are masked, not cut off
    cache.layer_class_to_replicate = _RoomyLayer
    return cache


class Prompts:
    """Runs prompts, or the next tokens of rows, through a model that is in evaluation mode."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._device = next(model.parameters()).device
        self._parameters = inspect.signature(model.forward).parameters

    def takes(self, **arguments: Any) -> dict[str, Any]:
        """Keep those arguments that the model's `forward` has."""
        return {name: value for name, value in arguments.items() if name in self._parameters}

    def run(self, tasks: Sequence[Task]) -> tuple[Tensor, Tensor, DynamicCache]:
        """Give logits (B, V) of the first token, the mask (B, longest) and a cache of their own."""
        input_ids, mask = left_padded(tasks, self._device)
        cache = _empty_cache()
        logits = self.forward(input_ids, mask, cache)
        return logits, mask, cache

    def forward(self, input_ids: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """Logits (rows, V) after the last column; its states are put into the cache."""
        positions = (mask.cumsum(-1) - 1).clamp(min=0)  # (rows, columns), 0 at the first token
        output = self.model(
            input_ids=input_ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **self.takes(position_ids=positions[:, -input_ids.shape[1] :], logits_to_keep=1),
        )
        logits: Tensor = output.logits[:, -1]  # (rows, V)
        return logits


class Batch:
    """Rows being sampled, and the model's state after all of their tokens but the next.

    The model is in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        self.rows: list[PartialResponse] = []
        self._prompts = Prompts(model)
        self._device = next(model.parameters()).device
        self._cache = _empty_cache()
        self._mask = torch.empty(0, 0)  # (rows, columns)
        self._logits = torch.empty(0, 0)  # (rows, V), of the next token

    def drop_ended(self) -> None:
        """Remove rows that have ended, and the columns that only they needed."""
        kept = [number for number, row in enumerate(self.rows) if not row.ended]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[number] for number in kept]
        if not self.rows:
            self._cache = _empty_cache()
            return
        index = torch.tensor(kept, device=self._device)
        longest = max(len(row.task.prompt_ids) + len(row.ids) for row in self.rows)
        first = self._mask.shape[1] - longest  # columns before it are padding in every row left
        self._cache.batch_select_indices(index)
        for layer in layers_of(self._cache):
            layer.keys, layer.values = layer.keys[:, :, first:], layer.values[:, :, first:]
        self._mask, self._logits = self._mask[index, first:], self._logits[index]

    def add(self, tasks: Sequence[Task]) -> None:
        """Run the prompts of tasks through the model and add them to the existing rows."""
        logits, mask, cache = self._prompts.run(tasks)
        if self.rows:
            width = max(mask.shape[1], self._mask.shape[1])
            for old, new in zip(layers_of(self._cache), layers_of(cache), strict=True):
                new.keys = _beside(old.keys, new.keys, width)
                new.values = _beside(old.values, new.values, width)
            mask = torch.cat([pad(part, (width - part.shape[1], 0)) for part in (self._mask, mask)])
            logits = torch.cat([self._logits, logits])
        self._cache, self._mask, self._logits = cache, mask, logits
        self.rows += map(PartialResponse.of, tasks)

    def step(self, settings: SamplingSettings) -> None:
        """Draw a token for every row, and run it through the model."""
        tokens = draw_and_take(self.rows, self._logits, settings)
        goes_on = torch.tensor([not row.ended for row in self.rows], device=self._device)
        if goes_on.any():
            # Rows that have ended stay in the batch until they are dropped, at their last
            # position: the next may be past the model's context.
            self._mask = torch.cat([self._mask, goes_on[:, None].long()], 1)
            self._logits = self._prompts.forward(tokens[:, None], self._mask, self._cache)


def layers_of(cache: DynamicCache) -> Sequence[Any]:
    """Layers of a cache, whose states are (rows, heads, columns, size) if they are of its kind."""
    return cache.layers


def _beside(old: Tensor, new: Tensor, width: int) -> Tensor:
    """Put the states of two caches into one, padded on the left to `width` columns."""
    return torch.cat([pad(part, (0, 0, width - part.shape[2], 0)) for part in (old, new)])
