"""Decoding where nothing moves, so that a GPU replays the step it once recorded.

A step of a small model on a GPU is hundreds of kernels that take microseconds each; starting them
one by one from Python takes longer than they do. A CUDA graph starts all at once, and asks that
every tensor stays where it was. So each row of the batch has a slot in states of a fixed size,
and the column that all rows end at wanders from left to right::

    slot 0   0 0 1 1 1 | 1 1 . .        prompt of 3 tokens, 2 sampled so far
    slot 1   . . . . . | . . . .        free: its row has ended
    slot 2   0 1 1 1 1 | 1 0 . .        prompt of 4, ended with its 2nd token
                           ^ the column

Each prompt that takes a free slot is put to the left of the column. At the end of the room all rows
move back to the left.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from spin_train.sampling.decoding import (
    PartialResponse,
    Prompts,
    Task,
    draw_and_take,
    layers_of,
)
from spin_train.sampling.engine import SamplingSettings

__all__ = ["FixedBatch"]

_ROOM = 64
"""Columns beyond the longest row: rows move back once in so many steps."""
_WARM_UP = 2
"""Steps before one is recorded: libraries set themselves up at their first calls."""


class _FixedLayer(DynamicLayer):
    """A layer of the cache with all its columns from the start; new states go to `column`."""

    def __init__(self, rows: int, columns: int, column: Tensor, like: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._column = column
        self.lazy_initialization(like, like)
        keys = like.new_zeros(rows, like.shape[1], columns, like.shape[3])
        self.states = keys, torch.zeros_like(keys)
        """Of all slots: keys and values, each (rows, heads, columns, size)."""
        self.keys, self.values = self.states

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = self.states
        return (
            keys.index_copy_(2, self._column, key_states),
            values.index_copy_(2, self._column, value_states),
        )


class FixedBatch:
    """Rows being sampled at fixed places; the interface is that of `decoding.Batch`.

    At most `rows` rows of at most `columns` tokens. The model is in evaluation mode. On a CUDA
    device the step is recorded once and replayed; elsewhere it is called.
    """

    def __init__(self, model: Any, rows: int, columns: int) -> None:
        self.rows: list[PartialResponse] = []
        self._slots: list[int] = []  # of each row
        self._free = list(range(rows))
        self._prompts = Prompts(model)
        self._columns = columns + _ROOM
        self._end = 0  # the column that the next token goes to
        parameter = next(model.parameters())
        self._device = parameter.device
        # What the step reads and writes.
        self._column = torch.zeros(1, dtype=torch.long, device=self._device)
        self._ids = torch.zeros(rows, 1, dtype=torch.long, device=self._device)
        self._positions = torch.zeros_like(self._ids)
        # Added to attention scores. Half of the least, so that no sum is -inf: a free slot, which
        # sees nothing, would give nan.
        self._hidden = torch.finfo(parameter.dtype).min / 2
        self._mask = torch.full(
            (rows, 1, 1, self._columns), self._hidden, dtype=parameter.dtype, device=self._device
        )
        self._logits = torch.empty(0)  # (slots, V)
        self._windowed = self._mask.clone()
        self._window, self._masks = _masks(model, self._mask, self._windowed)
        self._layer = partial(_FixedLayer, rows, self._columns, self._column)
        self._layers: list[_FixedLayer] = []
        self._cache = DynamicCache()
        self._replay: Callable[[], None] | None = None

    def drop_ended(self) -> None:
        """Free the slots of rows that have ended."""
        for row, slot in zip(self.rows, self._slots, strict=True):
            if row.ended:
                self._free.append(slot)
        kept = [(r, s) for r, s in zip(self.rows, self._slots, strict=True) if not r.ended]
        self.rows, self._slots = [r for r, _ in kept], [s for _, s in kept]

    def add(self, tasks: Sequence[Task]) -> None:
        """Run the prompts of tasks through the model and put them into free slots."""
        logits, mask, cache = self._prompts.run(tasks)
        layers = layers_of(cache)
        width = mask.shape[1]
        slots = [self._free.pop() for _ in tasks]
        if not self.rows:
            self._end = width
        elif self._end < width:
            self._move(to=width)
        if not self._layers:
            self._layers = [self._layer(new.keys) for new in layers]
            self._cache.layers = list(self._layers)
            self._logits = logits.new_zeros(len(self._ids), logits.shape[1])
        index = torch.tensor(slots, device=self._device)
        first = self._end - width
        for layer, new in zip(self._layers, layers, strict=True):
            for states, added in zip(layer.states, (new.keys, new.values), strict=True):
                states[index, :, first : self._end] = added
        self._mask[index] = self._hidden
        hidden = self._mask.new_zeros(mask.shape).masked_fill_(mask == 0, self._hidden)
        self._mask[index, 0, 0, first : self._end] = hidden
        self._logits[index] = logits
        self.rows += map(PartialResponse.of, tasks)
        self._slots += slots

    def step(self, settings: SamplingSettings) -> None:
        """Draw a token for every row, and run it through the model."""
        index = torch.tensor(self._slots, device=self._device)
        tokens = draw_and_take(self.rows, self._logits[index], settings)
        if all(row.ended for row in self.rows):
            return
        if self._end == self._columns:
            self._move(to=max(len(row.task.prompt_ids) + len(row.ids) for row in self.rows) - 1)
        # A row that has ended goes on until it is dropped, unread, at its last position: the next
        # may be past the context.
        positions = [len(row.task.prompt_ids) + len(row.ids) - 1 for row in self.rows]
        self._mask[index, 0, 0, self._end] = 0.0
        self._ids[index, 0] = tokens
        self._positions[index, 0] = torch.tensor(positions, device=self._device)
        self._windowed.copy_(self._mask)
        if self._window is not None:  # tokens that many before this one, itself included
            self._windowed[..., : max(0, self._end - self._window + 1)] = self._hidden
        self._column.fill_(self._end)
        self._end += 1
        if self._replay is None:
            self._replay = self._recorded() if self._device.type == "cuda" else self._forward
        self._replay()

    def _forward(self) -> None:
        """Run the tokens of all slots through the model, from and to fixed places."""
        output = self._prompts.model(
            input_ids=self._ids,
            attention_mask=self._masks,
            past_key_values=self._cache,
            use_cache=True,
            **self._prompts.takes(position_ids=self._positions, logits_to_keep=1),
        )
        self._logits.copy_(output.logits[:, -1])

    def _recorded(self) -> Callable[[], None]:
        """Record the step as a CUDA graph; running it several times writes the same states."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self._forward()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._forward()
        return graph.replay

    def _move(self, *, to: int) -> None:
        """Move the columns that rows need so that they end at `to`."""
        length = min(self._end, to)
        source, target = slice(self._end - length, self._end), slice(to - length, to)
        for layer in self._layers:
            for states in layer.states:
                states[:, :, target] = states[:, :, source].clone()
        mask = self._mask[..., source].clone()
        self._mask.fill_(self._hidden)
        self._mask[..., target] = mask
        self._end = to


def _masks(model: Any, mask: Tensor, windowed: Tensor) -> tuple[int | None, Any]:
    """Window of a model's sliding layers, and the masks as it takes them: one, or one a kind."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        raise NotImplementedError(f"layers of {', '.join(sorted(unknown))}")
    if not kinds:
        return window, mask if window is None else windowed
    return window, {kind: windowed if kind == "sliding_attention" else mask for kind in kinds}
