"""How much memory the model's own passes hold, counted on tensors without memory.

The trainer's forward and backward pass runs on torch's meta device, where a tensor has a shape and
a type but no numbers. Each tensor that comes to life is counted until it is freed, so the peak is
that of the real code on any architecture: activations, logits in chunks, what autograd saves.

Attention is stood in for by what its kernels keep: queries, keys, values, output, one number per
query and head. What a kernel borrows within one operation is not seen.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface

from spin_train.model.attention import ATTENTION, packed_attention
from spin_train.model.linear_head import chunks_of
from spin_train.model.logps import Group, response_logps, response_loss
from spin_train.sampling.decoding import Prompts, Task

__all__ = ["Alive", "Trace", "trace_prompts", "trace_scoring", "trace_training"]


@dataclass(frozen=True)
class Trace:
    """Peaks of one pass, bytes, without the weights."""

    peak: int
    """Everything that is alive at once, the gradients of weights among it."""
    passing: int
    """The same without the gradients of weights."""
    activations: int
    """What the layers have left when the head begins, for the backward pass."""


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors that came to life within the block and are alive."""

    def __init__(self, before: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = self.passing = self.at_head = 0
        self._gradients = 0
        self._bytes = {tensor.untyped_storage()._cdata: 0 for tensor in before}
        self._kept: set[int] = set()

    def begins_head(self, *_: Any) -> None:
        """Remember what is alive when the head is called."""
        self.at_head = self.now

    def keeps(self, gradient: Tensor) -> None:
        """Count a tensor among the gradients of weights from now on."""
        key = gradient.untyped_storage()._cdata
        if key in self._bytes and key not in self._kept:
            self._kept.add(key)
            self._gradients += self._bytes[key]

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 0  # a value is asked for: whether the factor of a loss is not 1
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._bytes:
            return
        self._bytes[key] = size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        self.passing = max(self.passing, self.now - self._gradients)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        size = self._bytes.pop(key, 0)
        self.now -= size
        if key in self._kept:
            self._kept.discard(key)
            self._gradients -= size


class _Kernel(torch.autograd.Function):
    """Keeps what an attention kernel keeps, and gives tensors of the right shapes."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(
            query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32)
        )
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


class _Attention(TorchFunctionMode):
    """Puts the kernel in the place of torch's own attention, which writes out its scores here."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is functional.scaled_dot_product_attention:
            return _Kernel.apply(*args[:3])  # type: ignore[no-untyped-call]
        return function(*args, **(kwargs or {}))


def _flexible(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
    """Attention of a packed row as on a GPU, where no scores are kept; (1, N, H, D)."""
    out: Tensor = _Kernel.apply(query, key, value)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2), None


@contextmanager
def _as_on(model: Any, device: str) -> Iterator[Alive]:
    """Count what lives within the block besides the model, computed as on that type of device."""
    alive = Alive([*model.parameters(), *model.buffers()])
    if device != "cpu":
        AttentionInterface.register(ATTENTION, _flexible)
    try:
        with chunks_of(device), _Attention(), alive:
            yield alive
    finally:
        AttentionInterface.register(ATTENTION, packed_attention)


def trace_training(
    model: Any,
    groups: Sequence[Group],
    loss: Callable[[Tensor, slice], Tensor],
    *,
    device: str,
) -> Trace:
    """Take a micro-batch forward and backward through a model of the meta device."""
    with _as_on(model, device) as alive:
        hooks: list[Any] = [
            parameter.register_post_accumulate_grad_hook(lambda p: alive.keeps(p.grad))
            for parameter in model.parameters()
            if parameter.requires_grad
        ]
        hooks.append(model.get_output_embeddings().register_forward_pre_hook(alive.begins_head))
        total, _ = response_loss(model, groups, loss)
        total.backward()  # type: ignore[no-untyped-call]
        del total
    for hook in hooks:
        hook.remove()
    model.zero_grad(set_to_none=True)
    return Trace(alive.peak, alive.passing, alive.at_head)


@torch.no_grad()
def trace_scoring(model: Any, groups: Sequence[Group], *, device: str) -> int:
    """Peak of scoring groups at once, bytes without the weights."""
    with _as_on(model, device) as alive:
        response_logps(model, groups)
    return alive.peak


@torch.no_grad()
def trace_prompts(model: Any, *, rows: int, tokens: int, device: str) -> tuple[int, int]:
    """Peak of taking prompts through the model, and what their cache keeps; bytes."""
    tasks = [Task(number, [0] * tokens, 0, 1) for number in range(rows)]
    with _as_on(model, device) as alive:
        logits, mask, cache = Prompts(model).run(tasks)
        del logits, mask
        kept = alive.now
        del cache
    return alive.peak, kept
