import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_theory import TabularPolicy, optimal_value
from spin_theory.losses import penalty_named
from spin_theory.minima.infimum import infimum
from tests.strategies import log_policies


def mean_penalty(weights, scores, loss_type):
    margins = scores[:, None] - scores[None, :]
    return float((weights * penalty_named(loss_type)(margins)).sum())


@st.composite
def wins(draw):
    """Counts of who won against whom, few enough that many pairs are separable."""
    size = draw(st.integers(1, 5))
    cells = st.lists(st.integers(0, 2), min_size=size**2, max_size=size**2)
    return torch.tensor(draw(cells), dtype=torch.float64).reshape(size, size)


@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
@given(weights=wins())
def test_the_objective_falls_to_the_infimum_along_the_direction_and_never_below(loss_type, weights):
    found = infimum(weights, loss_type=loss_type)
    far = found.scores + 200 * found.direction
    assert mean_penalty(weights, far, loss_type) == pytest.approx(found.value, abs=1e-12)
    assert found.lower_bound == pytest.approx(found.value, abs=1e-12)
    values = [
        mean_penalty(weights, found.scores + step * found.direction, loss_type)
        for step in (0, 1, 2, 5)
    ]
    assert values == sorted(values, reverse=True) or found.attained
    generator = torch.Generator().manual_seed(0)
    for scale in (0.1, 1.0, 10.0):
        scores = scale * torch.randn(len(weights), generator=generator, dtype=torch.float64)
        assert mean_penalty(weights, scores, loss_type) >= found.lower_bound - 1e-12


@given(tables=log_policies(count=2, max_prompts=1))
def test_without_zeros_it_is_the_least_value_and_attained(tables):
    data, opponent = tables
    weights = data.probs[0, :, None] * opponent.probs[0, None, :]
    found = infimum(weights)
    expected = optimal_value(opponent, data).item()
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.attained


def test_a_chain_of_wins_is_pulled_apart_link_by_link():
    chain = torch.diag(torch.ones(3, dtype=torch.float64), 1)
    found = infimum(chain)
    assert found.direction.tolist() == [3.0, 2.0, 1.0, 0.0]
    assert found.value == 0.0
    assert not found.attained


def test_a_response_that_is_in_no_row_is_pushed_down():
    shares = torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64)
    opponent = TabularPolicy.from_probs([[0.2, 0.7, 0.1]]).probs[0]
    found = infimum(shares[:, None] * opponent)
    assert found.direction[1] < found.direction[0] == found.direction[2]


def test_weights_that_are_none_are_refused():
    for wrong, named in (
        (torch.ones(2), "shape"),
        (torch.ones(2, 3), "shape"),
        (-torch.ones(2, 2), ">= 0"),
        (torch.full((2, 2), math.nan), "finite"),
    ):
        with pytest.raises(ValueError, match=named):
            infimum(wrong)
    with pytest.raises(ValueError, match="loss_type must be"):
        infimum(torch.ones(2, 2), loss_type="hinge")
