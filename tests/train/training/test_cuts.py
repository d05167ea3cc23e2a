"""Shares cut again: every element of every parameter where DeepSpeed looks for it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_train.training.cuts import (
    Group,
    UnknownLayoutError,
    recut,
    recut_state,
    share_of,
    sub_groups,
)

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=6)
RANKS = st.integers(1, 5)


def whole_tensors(sizes):
    """Elements that all differ, by segment."""
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return [torch.arange(end - size, end) + 1.0 for size, end in zip(sizes, ends, strict=True)]


def written_by(rank, ranks, wholes, parts, alignment):
    """The slow way: fill each segment up, and chunk it."""
    flats = []
    for part in parts:
        segments = []
        for i in part:
            size = share_of(wholes[i].numel(), ranks, alignment=alignment)
            filled = torch.nn.functional.pad(wholes[i], (0, size * ranks - wholes[i].numel()))
            segments.append(filled.chunk(ranks)[rank])
        flats.append(torch.cat(segments))
    return flats


def grouped(sizes, ranks, most, alignment):
    """Numbers of the segments of each flat tensor, and the group of them."""
    one = [[i] for i in range(len(sizes))]
    parts = one if alignment > 1 else sub_groups(sizes, ranks, most=most)
    return parts, Group(range(len(parts)), [[sizes[i] for i in part] for part in parts])


@given(SIZES, RANKS, RANKS, st.integers(1, 60), st.sampled_from([1, 2]))
def test_each_rank_gets_what_as_many_ranks_would_have_written(sizes, before, after, most, aligned):
    wholes = whole_tensors(sizes)
    parts, old = grouped(sizes, before, most, aligned)
    former = [written_by(rank, before, wholes, parts, aligned) for rank in range(before)]
    parts, new = grouped(sizes, after, most, aligned)
    for rank in range(after):
        found = recut(former, old, new, rank=rank, ranks=after, alignment=aligned)
        wanted = written_by(rank, after, wholes, parts, aligned)
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_what_stands_in_fillers_is_not_kept():
    former = [[torch.tensor([1.0, 2.0])], [torch.tensor([3.0, 99.0])]]
    group = Group([0], [[3]])
    found = [recut(former, group, group, rank=r, ranks=3, alignment=1)[0] for r in range(3)]
    assert torch.cat(found).tolist() == [1.0, 2.0, 3.0]
    assert recut(former, group, group, rank=0, ranks=1, alignment=2)[0].tolist() == [1, 2, 3, 0]


def test_a_share_that_is_too_short_is_refused():
    former = [[torch.tensor([1.0])], [torch.tensor([3.0])]]
    group = Group([0], [[3]])
    with pytest.raises(UnknownLayoutError, match="shorter than its parameters"):
        recut(former, group, group, rank=0, ranks=1, alignment=1)


def state(*values, step=3.0, **more):
    return {"step": torch.tensor(step), "square_avg": torch.tensor(values), **more}


def cut(states, sizes=((2, 4),), after=((2, 4),), rank=0, ranks=1):
    before = Group(range(len(sizes)), sizes)
    return recut_state(
        states, before, Group(range(len(after)), after), rank=rank, ranks=ranks, alignment=1
    )


def test_state_by_element_is_cut_and_the_rest_is_kept():
    states = [[state(1.0, 3.0, 4.0, lazy=None)], [state(2.0, 5.0, 6.0, lazy=None)]]
    (found,) = cut(states)
    assert found["square_avg"].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert found["step"].item() == 3.0
    assert found["lazy"] is None


def test_no_two_flat_tensors_share_a_step():
    """DeepSpeed's universal checkpoint lets them, and AdamW counts it up for each of them."""
    states = [[state(1.0, 3.0, 4.0)], [state(2.0, 5.0, 6.0)]]
    first, second = cut(states, after=((2,), (4,)))
    first["step"] += 1
    assert second["step"].item() == 3.0


@pytest.mark.parametrize(
    "other",
    [
        {"step": 4.0},
        {"scale": torch.tensor([1.0, 2.0])},
        {"scale": 2.0},
    ],
)
def test_state_that_differs_by_rank_is_refused(other):
    """Such as Adafactor's root mean square, which is that of a share."""
    mine = {"scale": 1.0} if "scale" in other else {}
    states = [[state(1.0, 3.0, 4.0, **mine)], [state(2.0, 5.0, 6.0, **other)]]
    with pytest.raises(UnknownLayoutError, match="differs by rank"):
        cut(states)


def test_state_that_only_some_ranks_have_is_refused():
    states = [[state(1.0, 3.0, 4.0)], [state(2.0, 5.0, 6.0, more=1)]]
    with pytest.raises(UnknownLayoutError, match="different states"):
        cut(states)
