"""Shares of a stage's state under ZeRO, cut again for another number of ranks.

Under ZeRO every rank keeps a share of the master weights and of the optimiser's state, in a few
flat tensors. A flat tensor is a row of segments. Under ZeRO 1 and 2 it has one: all parameters of a
group in a row. Under ZeRO 3 each parameter is a segment of its own. Every segment is cut into equal
shares, one per rank, and zeros fill the last ones up. So an element of a segment stands in the same
row of elements whatever the number of ranks is. Cutting again moves bits and computes nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Group", "UnknownLayoutError", "recut", "recut_state", "share_of", "sub_groups"]


class UnknownLayoutError(Exception):
    """Files hold something else than shares as this module knows them."""


@dataclass(frozen=True)
class Group:
    """A parameter group: which flat tensors it has, and the segments of each.

    `flats` are their numbers in the files, and `sizes` how many elements each whole segment has.
    """

    flats: Sequence[int]
    sizes: Sequence[Sequence[int]]


def share_of(size: int, ranks: int, *, alignment: int) -> int:
    """Elements of a segment that each of `ranks` has, fillers included.

    Examples
    --------
    >>> share_of(10, 4, alignment=1), share_of(10, 4, alignment=2)
    (3, 4)
    """
    return -(-size // (alignment * ranks)) * alignment


def sub_groups(sizes: Sequence[int], ranks: int, *, most: int) -> list[list[int]]:
    """Share out the parameters of a group, by number, over flat tensors as ZeRO 3 does.

    A flat tensor is full as soon as this rank's shares in it have `most` elements or more.

    Examples
    --------
    >>> sub_groups([6, 6, 2, 8], 2, most=4)
    [[0, 1], [2, 3]]
    >>> sub_groups([6, 6, 2, 8], 1, most=4)
    [[0], [1], [2, 3]]
    """
    shares = [share_of(size, ranks, alignment=1) for size in sizes]
    if most >= sum(shares):
        return [list(range(len(sizes)))] if sizes else []
    found: list[list[int]] = [[]]
    held = 0
    for number, share in enumerate(shares):
        found[-1].append(number)
        held += share
        if held >= most and number < len(shares) - 1:
            found.append([])
            held = 0
    return found


def recut(
    flats: Sequence[Sequence[Tensor]],
    before: Group,
    after: Group,
    *,
    rank: int,
    ranks: int,
    alignment: int,
) -> list[Tensor]:
    """Cut the flat tensors of one of `ranks` out of those of all former ranks.

    Parameters
    ----------
    flats : sequence of sequences of Tensor, each of shape (N,)
        By former rank, then by flat tensor of the group. Fillers at the end may be left out.
    before, after : Group
        The segments as they were cut, and as they are to be cut; the same ones in the same order.
    rank, ranks : int
        The new rank, and how many there are.
    alignment : int
        Every share is a multiple of so many elements.
    """
    former = len(flats)
    wholes = []  # for each segment, the parts of it that former ranks have
    for number, sizes in enumerate(before.sizes):
        offset = 0
        for size in sizes:
            share = share_of(size, former, alignment=alignment)
            filled = [max(0, min(share, size - r * share)) for r in range(former)]
            wholes.append([flats[r][number][offset : offset + filled[r]] for r in range(former)])
            if [part.numel() for part in wholes[-1]] != filled:
                raise UnknownLayoutError("a share is shorter than its parameters")
            offset += share
    pieces = iter(wholes)
    return [
        torch.cat(
            [
                _between(next(pieces), rank, share_of(size, ranks, alignment=alignment))
                for size in sizes
            ]
        )
        for sizes in after.sizes
    ]


def _between(parts: Sequence[Tensor], rank: int, share: int) -> Tensor:
    """Elements from `rank * share` on out of parts in a row, filled up with zeros to `share`."""
    start, stop = rank * share, (rank + 1) * share
    found = torch.zeros(share, dtype=parts[0].dtype)
    position = 0
    for part in parts:
        first, last = max(start, position), min(stop, position + part.numel())
        if first < last:
            found[first - start : last - start] = part[first - position : last - position]
        position += part.numel()
    return found


def recut_state(
    states: Sequence[Sequence[Mapping[str, Any]]],
    before: Group,
    after: Group,
    *,
    rank: int,
    ranks: int,
    alignment: int,
) -> list[dict[str, Any]]:
    """Cut the optimiser's state of one of `ranks` out of that of all former ranks.

    `states` holds it by former rank, then by flat tensor of the group. What has an element per
    element of the flat tensor is cut; the rest, such as the number of steps, must be the same on
    all ranks. UnknownLayoutError for anything else.
    """
    former = len(states)
    lengths = [
        sum(share_of(size, former, alignment=alignment) for size in sizes) for sizes in before.sizes
    ]
    every = [state for of_rank in states for state in of_rank]
    names = every[0].keys() if every else ()
    if any(state.keys() != names for state in every):
        raise UnknownLayoutError("ranks keep different states")
    found: list[dict[str, Any]] = [{} for _ in after.sizes]
    for name in names:
        values = [[state[name] for state in of_rank] for of_rank in states]
        if all(_is_flat(v, n) for row in values for v, n in zip(row, lengths, strict=True)):
            cut: Sequence[Any] = recut(
                values, before, after, rank=rank, ranks=ranks, alignment=alignment
            )
        else:
            one = values[0][0]
            if not all(_same(one, value) for row in values for value in row):
                raise UnknownLayoutError(f"the state {name!r} of the optimiser differs by rank")
            # Each has its own: a step that two of them shared would count twice.
            cut = [one.clone() if torch.is_tensor(one) else one for _ in after.sizes]
        for state, value in zip(found, cut, strict=True):
            state[name] = value
    return found


def _is_flat(value: Any, length: int) -> bool:
    return torch.is_tensor(value) and value.dim() == 1 and value.numel() == length


def _same(one: Any, other: Any) -> bool:
    if torch.is_tensor(one) or torch.is_tensor(other):
        tensors = torch.is_tensor(one) and torch.is_tensor(other)
        return tensors and one.dim() == other.dim() == 0 and bool(torch.equal(one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other)
