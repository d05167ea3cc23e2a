import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from spin_theory import TabularPolicy, closed_form_update
from spin_theory.claims.existence import check_update_normaliser, update_exists
from tests.strategies import BETAS, log_policies


def tables_of(count):
    return tuple(TabularPolicy.random(1, 6, seed=k, smallest=0.01) for k in range(count))


@given(
    tables=log_policies(count=2),
    beta=st.floats(math.log(1e-2), math.log(1e2)).map(math.exp),
)
def test_the_updates_normaliser_is_a_renyi_divergence(tables, beta):
    assume(abs(beta - 1) > 1e-3)
    evidence = check_update_normaliser(*tables, beta=beta)
    assert evidence.holds, evidence


class Unchecked(TabularPolicy):
    def __post_init__(self):
        pass


def other_exponent(opponent, data, *, beta, loss_type):
    return closed_form_update(opponent, data, beta=beta * (1 + 1e-6))


def without_normaliser(opponent, data, *, beta, loss_type):
    return Unchecked(opponent.log_probs + (data.log_probs - opponent.log_probs) / beta)


def other_roles(opponent, data, *, beta, loss_type):
    return closed_form_update(data, opponent, beta=beta)


def other_penalty(opponent, data, *, beta, loss_type):
    return closed_form_update(opponent, data, beta=beta, loss_type="exponential")


@pytest.mark.parametrize("update", [other_exponent, without_normaliser, other_roles, other_penalty])
@given(beta=BETAS)
def test_the_normaliser_says_no_to_a_wrong_update(update, beta):
    # the check compared one sum with itself, and could not have said no
    assume(abs(beta - 1) > 1e-2)
    data, opponent = tables_of(2)
    assert not check_update_normaliser(data, opponent, beta=beta, update=update).holds


RATIOS = st.floats(0.01, 0.99)


@given(data_ratio=RATIOS, opponent_ratio=RATIOS, beta=BETAS)
def test_the_update_exists_where_its_partial_sums_settle(data_ratio, opponent_ratio, beta):
    # log of the k-th term over k: b^k (a/b)^(k/beta); far from where it is 0
    slope = math.log(opponent_ratio) + math.log(data_ratio / opponent_ratio) / beta
    assume(abs(slope) > 1e-3)
    terms = slope * torch.arange(20_000, dtype=torch.float64)
    half, whole = terms[:10_000].logsumexp(0), terms.logsumexp(0)
    settled = (whole - half).item() < 1e-3
    exists = update_exists(data_ratio=data_ratio, opponent_ratio=opponent_ratio, beta=beta)
    assert exists == settled


@given(data_ratio=RATIOS, opponent_ratio=RATIOS)
def test_at_beta_one_and_beyond_the_update_always_exists(data_ratio, opponent_ratio):
    for beta in (1.0, 1.5, 1e6):
        assert update_exists(data_ratio=data_ratio, opponent_ratio=opponent_ratio, beta=beta)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"data_ratio": 1.0}, "data_ratio must be in"),
        ({"opponent_ratio": 0.0}, "opponent_ratio must be in"),
        ({"data_ratio": math.nan}, "data_ratio must be in"),
        ({"beta": 0.0}, "beta must be finite and > 0"),
        ({"beta": math.nan}, "beta must be finite and > 0"),
    ],
)
def test_geometric_distributions_that_are_none_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        update_exists(**{"data_ratio": 0.5, "opponent_ratio": 0.5, "beta": 1.0} | parts)


@given(data_ratio=RATIOS, beta=st.floats(0.1, 0.9))
def test_where_all_terms_are_one_no_rounding_makes_the_update_exist(data_ratio, beta):
    # b^(beta - 1) a = 1: the sum is infinite, and either sign of its last bit was an answer
    opponent_ratio = data_ratio ** (1 / (1 - beta))
    assume(opponent_ratio > 0)
    assert not update_exists(data_ratio=data_ratio, opponent_ratio=opponent_ratio, beta=beta)


def test_bad_arguments_are_refused():
    two, three = TabularPolicy.random(1, 2, seed=0), TabularPolicy.random(1, 3, seed=0)
    assert check_update_normaliser(two, two, beta=1.0).holds  # of order 1
    with pytest.raises(ValueError, match="one shape"):
        check_update_normaliser(two, three, beta=2.0)
