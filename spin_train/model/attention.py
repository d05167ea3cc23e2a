"""Attention in a packed row (`spin_train.model.packing`): responses do not see each other.

It enters models through transformers' own extension point, `AttentionInterface`, so any model whose
layers ask there can use it. On CPUs the (N, N) mask is never made: the segments of the row attend
one by one, each to the tokens that it sees. On GPUs it is FlexAttention (`spin_train.model.flex`).

A segment is a prompt or one response. Its last token sees K keys: its prompt (unless it is one) and
itself. Two kinds of segments are treated apart:

- small, K <= 64: padded to one batch (S, Q, K), because a call costs more than so few products;
- large: one after the other, cut into blocks of 256 queries, of which each meets only the keys up
  to its own end, so that little above the diagonal is computed in vain.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from spin_train.model.packing import PackedRow, Segment

__all__ = ["ATTENTION", "packed_attention"]

ATTENTION = "spin_train_packed"
"""Name among transformers' attention implementations."""

# Segments of at most this many keys are padded to one batch; single calls would cost most.
_SMALL = 64
# Queries per block, so that little above the diagonal is computed for nothing.
_QUERY_BLOCK = 256
# Attention probabilities are kept for the backward pass up to so many keys per head channel, where
# they take about a third of the other activations; beyond it they are computed again.
_KEPT_KEYS = 16
# Arguments of transformers that have no effect here.
_HARMLESS = {"is_causal", "position_ids", "cache_position", "use_cache", "output_attentions"}
_HARMLESS |= {"output_router_logits"}


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row: PackedRow,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention within a packed row, as transformers calls it in every layer.

    `query` is (1, H, N, D); `key` and `value` may have fewer heads. `row` comes from the call of
    the model and says who sees whom, so `attention_mask` is None. A token sees `sliding_window`
    tokens, itself included. The output is (1, N, H, D); there are no weights to return.
    NotImplementedError if the layer asks for anything that is not done here.
    """
    unknown = [name for name, given in others.items() if given is not None]
    unknown = [name for name in unknown if name not in _HARMLESS]
    chunked = getattr(getattr(module, "config", None), "attention_chunk_size", None)
    if unknown or dropout or chunked:
        asked = unknown[0] if unknown else "dropout" if dropout else "attention in chunks"
        raise NotImplementedError(f"{asked} in the attention of a packed row")
    settings = sliding_window, query.shape[-1] ** -0.5 if scaling is None else scaling, softcap
    if query.is_cuda:
        from spin_train.model.flex import flex_attention  # compiles, where there is a device for it

        return flex_attention(module, query, key, value, row, *settings), None
    queries, keys, values = (x[0].transpose(0, 1) for x in (query, key, value))  # (N, H, D)
    small, large = _split(row)
    parts = []  # (tokens, H, D) of each kind of segment
    if small:
        parts.append(_small_attention(queries, keys, values, row, *settings))
    if large:
        apply: Any = _LargeAttention.apply
        parts.append(apply(queries, keys, values, row, *settings))
    out = parts[0]
    if small:
        places = row.once("places", lambda: _places_after_split(row))
        out = torch.cat([part.flatten(1) for part in parts])  # padded queries among them
        out = functional.embedding(places, out).view(queries.shape)
    return out[None], None


def _split(row: PackedRow) -> tuple[list[Segment], list[Segment]]:
    """Small segments and large ones."""
    small = [segment for segment in row.segments if segment.keys <= _SMALL]
    return small, [segment for segment in row.segments if segment.keys > _SMALL]


def _places_after_split(row: PackedRow) -> Tensor:
    """Where each token's output is, (N,): first the small segments' batch, then the large ones."""
    small, _ = _split(row)
    width = max(segment.stop - segment.start for segment in small)
    boxed, behind = 0, len(small) * width
    places: list[int] = []
    for segment in row.segments:
        size = segment.stop - segment.start
        if segment.keys <= _SMALL:
            places += range(boxed, boxed + size)
            boxed += width
        else:
            places += range(behind, behind + size)
            behind += size
    return row.tensor(places)


def _small_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    row: PackedRow,
    window: int | None,
    scaling: float,
    softcap: float | None,
) -> Tensor:
    """Attention of the S small segments in one batch, (S * Q, H, D)."""
    of_queries, of_keys, distance = row.once("box", lambda: _box(row))
    q, k, v = (  # as an embedding: its backward pass is quicker than that of indexing
        functional.embedding(places, x.flatten(1)).view(*places.shape, *x.shape[1:]).transpose(1, 2)
        for places, x in ((of_queries, queries), (of_keys, keys), (of_keys, values))
    )
    # q (S, H, Q, D), k and v (S, H', K, D); bias (S, 1, Q, K)
    bias = row.once(("box", window, q.dtype), lambda: _bias(distance, window, q.dtype)[:, None])
    if softcap is None:
        out = functional.scaled_dot_product_attention(q, k, v, bias, scale=scaling, enable_gqa=True)
    else:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        # cap tanh(scaling q k^T / cap), (S, H, Q, K)
        scores = softcap * torch.tanh(q @ k.transpose(-1, -2) * (scaling / softcap))
        out = (scores + bias).softmax(-1) @ v
    return out.transpose(1, 2).flatten(0, 1)


def _box(row: PackedRow) -> tuple[Tensor, Tensor, Tensor]:
    """Places of queries (S, Q) and keys (S, K) of small segments, and distances (S, Q, K)."""
    small, _ = _split(row)
    width, most = max(s.stop - s.start for s in small), max(s.keys for s in small)
    # Padding repeats some token of the row; its output is never read.
    keys = [(s.places() + [s.start] * most)[:most] for s in small]
    queries = [([*range(s.start, s.stop)] + [s.start] * width)[:width] for s in small]
    # A padded query gets the last position: it must see some key, or softmax gives nan.
    positions = row.tensor([[min(s.before + i, s.keys - 1) for i in range(width)] for s in small])
    distance = positions[:, :, None] - torch.arange(most, device=row.device)  # (S, Q, K)
    return row.tensor(queries), row.tensor(keys), distance


def _bias(distance: Tensor, window: int | None, dtype: torch.dtype) -> Tensor:
    """0 where a query sees the key so far before it, -inf elsewhere."""
    seen = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)


@dataclass(frozen=True)
class _Block:
    """Queries [start, stop) of a large segment, and the spans of the row that they see."""

    start: int
    stop: int
    spans: list[tuple[int, int]]

    @property
    def keys(self) -> int:
        return sum(stop - start for start, stop in self.spans)

    def gather(self, tokens: Tensor) -> Tensor:
        """Take (K, H', D) of (N, H', D), as (H', K, D)."""
        parts = [tokens[start:stop] for start, stop in self.spans]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).transpose(0, 1)

    def scatter(self, tokens: Tensor, added: Tensor) -> None:
        """Add (H', K, D) to the tokens it was gathered from."""
        sizes = [stop - start for start, stop in self.spans]
        for (start, stop), part in zip(self.spans, torch.split(added, sizes, 1), strict=True):
            tokens[start:stop] += part.transpose(0, 1)


def _blocks(row: PackedRow, window: int | None) -> list[_Block]:
    """Cut the queries of the large segments into blocks."""
    blocks = []
    for segment in _split(row)[1]:
        prompt = segment.prompt[0]
        for start in range(segment.start, segment.stop, _QUERY_BLOCK):
            stop = min(start + _QUERY_BLOCK, segment.stop)
            position = segment.before + start - segment.start
            # Position of the oldest key that the first query of the block sees.
            first = 0 if window is None else max(0, position - window + 1)
            spans = [
                (prompt + min(first, segment.before), prompt + segment.before),
                (segment.start + max(0, first - segment.before), stop),
            ]
            blocks.append(_Block(start, stop, [span for span in spans if span[1] > span[0]]))
    return blocks


class _LargeAttention(torch.autograd.Function):
    """Attention of the large segments one after another, (tokens, H, D).

    Per block of Q queries and K keys, with q, k, v of one key head:

        P = softmax(scaling q k^T + bias)                       out = P v
        grad v = P^T g      S = P * (g v^T - rowsum(P * g v^T))    grad q = scaling S k
                                                                grad k = scaling S^T q

    and S times the slope 1 - tanh^2 under a soft cap. Written by hand because autograd would fill a
    gradient as long as the row for every slice of it, and with matrix products because SDPA under
    the row's mask took 20 ms on a CPU thread where this took 13, in bfloat16 22 and 9 (prompt 384,
    two responses of 128, 4 heads of 64, with the backward pass).
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        row: PackedRow,
        window: int | None,
        scaling: float,
        softcap: float | None,
    ) -> Tensor:
        settings = row, window, scaling, softcap
        few = softcap is None and any(ctx.needs_input_grad)
        kept, parts = [], []
        for block in row.once(("blocks", window), lambda: _blocks(row, window)):
            k, v = block.gather(keys), block.gather(values)  # (H', K, D)
            q = _fold(queries[block.start : block.stop], len(k))  # (H', H / H' * Q, D)
            probs, _ = _probs(block, q, k, *settings)
            parts.append(_unfold(probs @ v, queries.shape[1]))
            keep = few and block.keys <= _KEPT_KEYS * q.shape[-1]
            kept.append(probs if keep else None)
        # Saved tensors are freed under activation checkpointing; attributes of ctx would stay.
        ctx.save_for_backward(queries, keys, values, *kept)
        ctx.settings = settings
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, *kept_by_block = ctx.saved_tensors  # to be asked for once only
        row, window, scaling, _ = ctx.settings
        of_queries, of_keys, of_values = (torch.zeros_like(x) for x in (queries, keys, values))
        blocks = row.once(("blocks", window), lambda: _blocks(row, window))
        sizes = [block.stop - block.start for block in blocks]
        for block, kept, grad in zip(
            blocks, kept_by_block, torch.split(grads[0], sizes), strict=True
        ):
            k, v = block.gather(keys), block.gather(values)
            q, grad = (_fold(x, len(k)) for x in (queries[block.start : block.stop], grad))
            probs, slope = (kept, None) if kept is not None else _probs(block, q, k, *ctx.settings)
            block.scatter(of_values, probs.transpose(1, 2) @ grad)  # P^T g
            # S = P * (g v^T - rowsum(P * g v^T)), (H', H / H' * Q, K)
            of_scores = torch._softmax_backward_data(grad @ v.transpose(1, 2), probs, -1, q.dtype)
            if slope is not None:
                of_scores *= slope
            of_queries[block.start : block.stop] = _unfold(of_scores @ k, queries.shape[1])
            block.scatter(of_keys, of_scores.transpose(1, 2) @ q)
        return of_queries.mul_(scaling), of_keys.mul_(scaling), of_values, None, None, None, None


def _probs(
    block: _Block,
    q: Tensor,
    k: Tensor,
    row: PackedRow,
    window: int | None,
    scaling: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor | None]:
    """Attention probabilities (H', H / H' * Q, K) of a block, and the slope of its soft cap."""
    size = block.stop - block.start

    def make() -> Tensor:
        places = torch.arange(block.keys, device=q.device)
        # The block's queries are its last keys, so distances are those of places. (Q, K)
        bias = _bias(places[block.keys - size :, None] - places, window, q.dtype)
        return bias if q.shape[1] == size else bias.repeat(q.shape[1] // size, 1)

    bias = row.once((size, block.keys, window, q.dtype), make)
    if softcap is None:
        scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=scaling)
        return torch.softmax(scores, -1, out=scores), None
    capped = torch.tanh(q @ k.transpose(1, 2) * (scaling / softcap))
    return (bias + softcap * capped).softmax(-1), 1 - capped * capped


def _fold(queries: Tensor, key_heads: int) -> Tensor:
    """Bring queries (Q, H, D) that share a key head together, (H', H / H' * Q, D).

    Query head i belongs to key head i // (H / H'), as in grouped-query attention.
    """
    size, heads, channels = queries.shape
    shared = queries.reshape(size, key_heads, heads // key_heads, channels)
    return shared.permute(1, 2, 0, 3).flatten(1, 2)


def _unfold(folded: Tensor, heads: int) -> Tensor:
    """Undo `_fold`."""
    key_heads, _, channels = folded.shape
    shared = folded.reshape(key_heads, heads // key_heads, -1, channels)
    return shared.permute(2, 0, 1, 3).flatten(1, 2)


AttentionInterface.register(ATTENTION, packed_attention)
