"""Rotary frequencies that depend on the longest row of a batch, taken row by row.

LongRoPE has one set of frequencies for rows up to a length and another beyond it, and dynamic NTK
has one for every length. transformers looks at the largest position of the whole batch, so that a
long row changes the log-probs of the short ones next to it, and dynamic NTK also keeps the
frequencies for the next batch. Here each row gets those that it has alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from spin_train.model.head import replaced_forward

__all__ = ["frequencies_by_row", "longest_with_fixed_frequencies"]

_DEPENDENT = ("dynamic", "longrope")


@contextmanager
def frequencies_by_row(module: nn.Module, lengths: Sequence[int]) -> Iterator[None]:
    """Within the block, rotary embeddings see the rows of a batch one by one.

    `lengths` are those of the rows, which are padded on the right; none, where all share one row
    and nothing is done. Models whose frequencies are fixed are left alone too.
    """
    with ExitStack() as stack:
        for rotary in module.modules() if lengths else ():
            if _depends_on_length(rotary):
                stack.enter_context(replaced_forward(rotary, _by_row(rotary, lengths)))
                stack.callback(_forget_length, rotary)
        yield


def longest_with_fixed_frequencies(settings: Any) -> int | None:
    """Tokens up to which no frequency depends on a row's length; None without such a limit.

    `settings` is a model's configuration for text.
    """
    rope = getattr(settings, "rope_parameters", None) or {}
    limits = []
    for part in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if any(name in str(part.get("rope_type", "")) for name in _DEPENDENT):
            own = part.get("original_max_position_embeddings")
            limits.append(own or settings.max_position_embeddings)
    return min(limits, default=None)


def _depends_on_length(rotary: nn.Module) -> bool:
    kinds = getattr(rotary, "rope_type", None)
    kinds = list(kinds.values()) if isinstance(kinds, dict) else [kinds]
    return any(name in str(kind) for kind in kinds for name in _DEPENDENT)


def _by_row(rotary: nn.Module, lengths: Sequence[int]) -> Any:
    forward = rotary.forward

    def by_row(x: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        columns = position_ids.shape[-1]
        parts = []
        for number, length in enumerate(lengths):
            own = position_ids[min(number, len(position_ids) - 1), None, :length]
            _forget_length(rotary)
            row = forward(x, own, *args, **kwargs)  # cosines and sines, (1, length, D) each
            parts.append([pad(part, (0, 0, 0, columns - length)) for part in row])
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    return by_row


def _forget_length(rotary: Any) -> None:
    """Let dynamic NTK take the next row's length, longer or shorter than the last one's."""
    for name in list(vars(rotary)):
        if name.endswith("max_seq_len_cached"):
            setattr(rotary, name, 0)
