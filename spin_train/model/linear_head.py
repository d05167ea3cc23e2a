"""A linear head in chunks of logits, with hand-written gradients (`spin_train.model.head`).

Examples are taken in blocks: as many as fit into one chunk, or a single longer one in several
chunks. Shapes: T tokens, C tokens of a chunk, W channels, V words.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["chunks_of", "linear_logps", "linear_loss", "most_rows", "wide"]

# Bytes of logits alive at once. On CPUs fewer are taken when examples are put together; a longer
# example is still taken whole if it fits. Products are slow under 500 rows: 1,024 rows of 32,000
# float32 logits with both gradients took 295 ms by 256 rows, 274 by 512, 268 at once.
_MOST_BYTES = 2**29
_TOGETHER_BYTES = {"cpu": 2**26}
# Rows of logits that become probabilities at a time on CPUs: few enough to stay in the cache.
_CACHED_ROWS = 64

_rooms: list[Tensor] = []


def linear_logps(
    head: nn.Linear, hidden: Tensor, targets: Tensor, scale: float, cap: float | None
) -> Tensor:
    """Log-probs (T,) of the targets; to be called where the head's weight is whole (ZeRO-3).

    Logits are multiplied by `scale` and softly capped at `cap`.
    """
    linear = _Linear(head, targets, scale, cap)
    if torch.is_grad_enabled():
        apply: Any = _LinearLogps.apply
        logps: Tensor = apply(hidden, head.weight, head.bias, linear, most_rows(head, hidden))
        return logps
    with _borrowed_room(hidden.device) as linear.room:
        chunks = _chunks(0, len(hidden), _rows_together(head, hidden))
        return torch.cat([linear.logps(hidden, chunk) for chunk in chunks])


def linear_loss(
    head: nn.Linear,
    hidden: Tensor,
    targets: Tensor,
    scale: float,
    cap: float | None,
    stops: Sequence[int],
    loss: Callable[[Tensor, slice], Tensor],
) -> Tensor:
    """Loss of examples, its gradient taken at once, to be called where the head's weight is whole.

    `stops` and `loss` are those of `spin_train.model.head.chunked_loss`.
    """
    together, most = _rows_together(head, hidden), most_rows(head, hidden)
    blocks = list(_blocks(stops, together, most))
    linear = _Linear(head, targets, scale, cap)
    apply: Any = _LinearLoss.apply
    total: Tensor = apply(hidden, head.weight, head.bias, linear, blocks, loss)
    return total


def most_rows(head: Any, hidden: Tensor) -> int:
    """Count the rows of V logits, in the type of `hidden`, that may be alive at once."""
    return max(1, _MOST_BYTES // _bytes_a_row(head, hidden))


def wide(logits: Tensor) -> Tensor:
    """Take logits as float32, or as float64 where they are float64."""
    return logits if logits.dtype == torch.float64 else logits.float()


@contextmanager
def chunks_of(device: str) -> Iterator[None]:
    """Within the block, cut tensors of the meta device as a type of device would, such as `cpu`."""
    before = _TOGETHER_BYTES.get("meta")
    _TOGETHER_BYTES["meta"] = _TOGETHER_BYTES.get(device, _MOST_BYTES)
    try:
        yield
    finally:
        if before is None:
            del _TOGETHER_BYTES["meta"]
        else:
            _TOGETHER_BYTES["meta"] = before


def _bytes_a_row(head: Any, hidden: Tensor) -> int:
    return len(head.weight) * hidden.element_size()


def _rows_together(head: Any, hidden: Tensor) -> int:
    together = _TOGETHER_BYTES.get(hidden.device.type, _MOST_BYTES)
    return max(1, together // _bytes_a_row(head, hidden))


def _chunks(start: int, stop: int, rows: int) -> list[slice]:
    return [slice(place, min(place + rows, stop)) for place in range(start, stop, rows)]


def _blocks(stops: Sequence[int], together: int, most: int) -> Iterator[tuple[slice, list[slice]]]:
    """Cut into blocks of examples with so many tokens together, or of one; these into chunks."""
    start = first = 0
    for number, stop in enumerate(stops, start=1):
        if number == len(stops) or stops[number] - start > together:
            yield slice(first, number), _chunks(start, stop, most)
            start, first = stop, number


@contextmanager
def _borrowed_room(device: torch.device) -> Iterator[Tensor | None]:
    """Borrow memory for the logits of a chunk, which stays with the process.

    New memory must be mapped page by page: 40 of 130 ms for 1,024 x 32,000 float32 logits. A second
    caller gets a fresh buffer while the first uses the old one.
    """
    if device.type != "cpu":  # there torch's allocator keeps what it has
        yield None
        return
    try:
        room = _rooms.pop()
    except IndexError:
        with torch.inference_mode(mode=False):  # or no backward pass could write there
            room = torch.empty(_TOGETHER_BYTES["cpu"], dtype=torch.uint8)
    try:
        yield room
    finally:
        _rooms[:] = [room]


@dataclass
class _Gradients:
    """What the backward pass returns, summed so far."""

    hidden: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None

    def of_parameters(self, head: nn.Linear) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of weight and bias in the types of the parameters."""
        weight = None if self.weight is None else self.weight.to(head.weight.dtype)
        return weight, None if self.bias is None else self.bias.to(head.bias.dtype)


@dataclass
class _Linear:
    """A linear head with a target for each of T hidden states, its gradients by hand."""

    head: nn.Linear
    targets: Tensor
    scale: float
    cap: float | None
    kept: tuple[Tensor, Tensor] | None = None
    """Probabilities (C, V) of a chunk, for its gradient, and slopes of the cap, (C, 1)."""
    room: Tensor | None = None
    """Bytes reused for the logits of each chunk on CPUs; None elsewhere."""

    def logps(self, hidden: Tensor, chunk: slice, *, keep: bool = False) -> Tensor:
        """Log-probs (C,) of a chunk.

        log p_t = z_t - max z - log sum exp(z - max z). With `keep` the probabilities stay for
        `pull`, and under a soft cap both they and the targets' onehot are multiplied by its slope 1
        - tanh^2.
        """
        logits, targets = self._logits(hidden[chunk]), self.targets[chunk]
        logps, slopes = [], []
        rows = _CACHED_ROWS if logits.device.type == "cpu" else len(logits)
        for start in range(0, len(logits), rows):
            part, chosen = logits[start : start + rows], targets[start : start + rows, None]
            values = wide(part)  # (rows, V); the same memory where logits are wide
            if self.scale != 1:
                values *= self.scale
            slope = None
            if self.cap is not None:
                slope = torch.tanh(values / self.cap)
                values = self.cap * slope
                slope = 1 - slope * slope
            largest, logit = values.amax(-1, keepdim=True), values.gather(-1, chosen)  # (rows, 1)
            probs = torch.softmax(values, -1, out=values)
            # log sum exp = largest - log p(largest), and p(largest) >= 1 / V cannot underflow.
            logps.append((logit - largest + probs.amax(-1, keepdim=True).log()).squeeze(-1))
            slopes.append(torch.ones_like(logit) if slope is None else slope.gather(-1, chosen))
            if keep:
                part.copy_(probs if slope is None else probs.mul_(slope))
        if keep:
            self.kept = logits, torch.cat(slopes)
        return torch.cat(logps)

    def pull(self, hidden: Tensor, chunks: list[slice], grads: Tensor, into: _Gradients) -> None:
        """Add the gradient of a loss, given its slopes (T',) in the log-probs of the chunks.

        Only the last chunk's probabilities are kept; those of the others are computed again.
        """
        for chunk in reversed(chunks):
            if self.kept is None:
                self.logps(hidden, chunk, keep=True)
            assert self.kept is not None
            (probs, slope), self.kept = self.kept, None
            states, targets = hidden[chunk], self.targets[chunk]
            weight, bias = self.head.weight, self.head.bias
            first = chunks[0].start
            # g times the scale, (C, 1); the slope of the cap is in the probabilities already.
            of_chunk = grads[chunk.start - first : chunk.stop - first, None] * self.scale
            of_target = of_chunk * slope  # (C, 1), on the target's logit
            grad = of_chunk.to(hidden.dtype)
            # grad h = g (W[t] - p W), (C, W)
            into.hidden[chunk] = of_target * weight[targets] - grad * (probs @ weight)
            if weight.requires_grad:
                # grad W = onehot^T (g h) - p^T (g h), (V, W)
                alone = len(states) == len(hidden)
                into.weight = _minus_product(into.weight, probs, grad * states, one_term=alone)
                add = (of_target * states).to(into.weight.dtype)
                into.weight.index_add_(0, targets, add)
            if bias is not None and bias.requires_grad:
                if into.bias is None:
                    into.bias = wide(torch.zeros_like(bias))
                into.bias -= (grad.T @ probs)[0]  # (V,)
                into.bias.index_add_(0, targets, of_target[:, 0].to(into.bias.dtype))
            del probs  # before the next chunk's

    def _logits(self, states: Tensor) -> Tensor:
        weight, bias = self.head.weight.T, self.head.bias
        size = len(states) * weight.shape[1] * states.element_size()
        out = None
        if self.room is not None and size <= len(self.room):
            out = self.room[:size].view(states.dtype).view(len(states), -1)
        if bias is None:
            return torch.mm(states, weight, out=out)
        return torch.addmm(bias, states, weight, out=out)


def _minus_product(total: Tensor | None, probs: Tensor, grads: Tensor, *, one_term: bool) -> Tensor:
    """Subtract probs^T grads, (V, W), from a sum, float32 at least where it has several terms."""
    if total is None and (one_term or probs.dtype in (torch.float32, torch.float64)):
        return (probs.T @ grads).neg_()
    if total is None:
        return -(probs.T @ grads).float()
    if total.dtype == probs.dtype:
        return total.addmm_(probs.T, grads, alpha=-1)
    return total.sub_(probs.T @ grads)


class _LinearLogps(torch.autograd.Function):
    """Log-probs; the backward pass takes their gradient."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, linear: _Linear, rows: int
    ) -> Tensor:
        chunks = _chunks(0, len(hidden), rows)
        logps = [linear.logps(hidden, chunk, keep=chunk is chunks[-1]) for chunk in chunks]
        # Weight and bias are saved so that autograd notices a change before the backward pass.
        ctx.save_for_backward(hidden, weight, bias)
        ctx.of = linear, chunks
        return torch.cat(logps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, *_ = ctx.saved_tensors
        linear, chunks = ctx.of
        into = _Gradients(torch.empty_like(hidden))
        linear.pull(hidden, chunks, grads[0], into)
        return into.hidden, *into.of_parameters(linear.head), None, None


class _LinearLoss(torch.autograd.Function):
    """A loss; the forward pass takes its gradient, which the backward pass returns."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        linear: _Linear,
        blocks: list[tuple[slice, list[slice]]],
        loss: Callable[[Tensor, slice], Tensor],
    ) -> Tensor:
        into = _Gradients(torch.empty_like(hidden))
        losses = []
        with _borrowed_room(hidden.device) as linear.room:
            for examples, chunks in blocks:
                parts = [linear.logps(hidden, chunk, keep=chunk is chunks[-1]) for chunk in chunks]
                logps = torch.cat(parts).requires_grad_()
                with torch.enable_grad():
                    of_block = loss(logps, examples)
                (grads,) = torch.autograd.grad(of_block, logps)  # g, (T',)
                linear.pull(hidden, chunks, grads, into)
                losses.append(of_block.detach())
            linear.room = None
        ctx.gradients = into.hidden, *into.of_parameters(linear.head)
        return torch.stack(losses).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError(
                "backward was already called on this loss, which freed its gradients"
            )
        factor = grads[0]
        if factor.is_cuda or factor != 1:  # reading the factor would wait for a GPU
            for gradient in gradients:
                if gradient is not None:
                    gradient *= factor
        return *gradients, None, None, None
