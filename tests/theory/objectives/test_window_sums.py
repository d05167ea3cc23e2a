import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from spin_theory.objectives.window_sums import (
    running_sums,
    running_sums_of_the_others,
    sorted_order,
)


def double(rows):
    return torch.tensor(rows, dtype=torch.float64)


@given(
    rows=st.integers(1, 40).flatmap(
        lambda size: st.lists(
            st.lists(st.floats(-1e9, 1e9), min_size=size, max_size=size), min_size=1, max_size=4
        )
    )
)
@example(rows=[[0.0, -0.0, 5e-324, -5e-324, -1.0, -2.0, 1.0, 2.0]]).via("signs of the bits")
def test_the_order_sorts_every_row(rows):
    scores = double(rows)
    assert torch.equal(scores.gather(-1, sorted_order(scores)), scores.sort(dim=-1).values)


def test_many_rows_are_sorted_as_few_are():
    scores = torch.randn(300, 301, generator=torch.Generator().manual_seed(0)).double()
    assert torch.equal(scores.gather(-1, sorted_order(scores)), scores.sort(dim=-1).values)


@given(size=st.integers(1, 70), exponents=st.lists(st.integers(-300, 300), min_size=70))
def test_window_sums_are_those_of_a_loop(size, exponents):
    weights = [2.0**exponent for exponent in exponents[:size]]
    lasts = sorted(max(i, (i * 7 + exponents[0]) % size) for i in range(size))
    sums = running_sums(double([weights]))
    others = running_sums_of_the_others(double([weights]), torch.tensor([lasts]))
    for i, last in enumerate(lasts):
        assert sums[0, i].item() == pytest.approx(math.fsum(weights[: i + 1]), rel=1e-14, abs=0.0)
        expected = math.fsum(weights[:i] + weights[i + 1 : last + 1])
        assert others[0, i].item() == pytest.approx(expected, rel=1e-14, abs=0.0)


def test_a_million_equal_weights_are_added_to_fourteen_digits():
    weights = torch.full((1, 10**6), 1e-6, dtype=torch.float64)
    counts = torch.arange(1, 10**6 + 1, dtype=torch.float64)
    # one after the other they would be off by 1.3e-11
    assert (running_sums(weights)[0] / counts * 1e6 - 1).abs().max() <= 3e-14
