"""FlexAttention over a packed row, for devices where it compiles to one kernel.

Blocks of the mask that are empty are skipped, and those that are full need no mask. Which are which
follows from the row's segments: the mask as a whole, 2 GB of distances between 16,384 tokens, is
never made.
"""

from typing import Any

import numpy as np
import torch
import torch._dynamo
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers.integrations.flex_attention import flex_attention_forward

from spin_train.model.packing import PackedRow

__all__ = ["BLOCK", "block_mask", "flex_attention"]

# A kernel is compiled for each type, window, soft cap, kind of length, and with or without
# gradients. Past torch's limit of 8 it would make the whole mask, and say nothing that one sees.
_COMPILED = {"recompile_limit": 64, "fail_on_recompile_limit_hit": True}
# Rows of less than a block would get a kernel made for decoding, which torch 2.11 does not compile
# for heads of 16 in float32 on an H100.
_ONE_KERNEL = {"FORCE_USE_FLEX_ATTENTION": True}

BLOCK = 128
"""Queries, and keys, of a block."""


def flex_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    row: PackedRow,
    window: int | None,
    scaling: float,
    softcap: float | None,
) -> Tensor:
    """Attention of all tokens of a row at once, from (1, H, N, D) to (1, N, H, D).

    Keys and values may have fewer heads. A token sees `window` tokens, itself included.
    """
    mask = row.once(("block mask", window), lambda: block_mask(row, window))
    with torch._dynamo.config.patch(_COMPILED):
        out, _ = flex_attention_forward(
            module, query, key, value, mask, scaling, softcap, kernel_options=_ONE_KERNEL
        )
    return out


def block_mask(row: PackedRow, window: int | None) -> BlockMask:
    """Blocks of a row's mask, made from its segments; the same that `create_block_mask` finds.

    For every token and every block of 128 keys: does the token see some of them, or all? Reduced
    over the 128 queries of a block, "any sees some" makes the block present, "all see all" makes it
    full.
    """
    tokens = row.input_ids.shape[1]
    blocks = -(-tokens // BLOCK)
    first, stop = _spans(row, window)  # (2, N) each
    starts = np.arange(blocks) * BLOCK
    # For every token and block of keys: are some seen, are all? (tokens, padded to blocks; blocks)
    shape = (blocks * BLOCK, blocks)
    some, whole = np.zeros(shape, bool), np.zeros(shape, bool)
    for a, b in zip(first, stop, strict=True):
        # Span [a, b) meets block [s, s + 128) if a < s + 128 and b > s, and holds it if a <= s and
        # s + 128 <= b. (N, blocks)
        some[:tokens] |= (a[:, None] < np.minimum(b[:, None], starts + BLOCK)) & (
            b[:, None] > starts
        )
        whole[:tokens] |= (a[:, None] <= starts) & (starts + BLOCK <= b[:, None])
    present = np.logical_or.reduce(some.reshape(blocks, BLOCK, blocks), axis=1)
    full = np.logical_and.reduce(whole.reshape(blocks, BLOCK, blocks), axis=1)
    counts, places, whole_counts, whole_places = (
        row.tensor(x) for kind in (present & ~full, full) for x in _ordered(kind)
    )
    return BlockMask.from_kv_blocks(
        counts,
        places,
        whole_counts,
        whole_places,
        BLOCK_SIZE=BLOCK,
        mask_mod=row.sees(window),
        seq_lengths=(tokens, tokens),
    )


def _spans(row: PackedRow, window: int | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Keys each token sees, as spans [first, stop) of prompt and segment, each (2, N)."""
    first, stop = [], []
    for segment in row.segments:
        place = np.arange(segment.start, segment.stop)
        oldest = np.zeros_like(place)  # position of the first key in the window
        if window is not None:
            oldest = np.maximum(0, segment.before + place - segment.start - window + 1)
        prompt = segment.prompt[0]
        own = segment.start + np.maximum(0, oldest - segment.before)
        of_prompt = prompt + np.minimum(oldest, segment.before)
        # Adjacent spans are joined: a block that lies across both is seen as a whole.
        joined = (prompt + segment.before == segment.start) & (oldest < segment.before)
        first.append([of_prompt, np.where(joined, of_prompt, own)])
        stop.append([np.full_like(place, prompt + segment.before), place + 1])
    return np.concatenate(first, 1), np.concatenate(stop, 1)


def _ordered(kind: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """How many blocks of keys each block of queries has, and which ones, those first."""
    order = np.argsort(~kind, axis=1, kind="stable").astype(np.int32)
    return kind.sum(1, dtype=np.int32)[None, None], order[None, None]
