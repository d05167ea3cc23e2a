import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from spin_theory import InnerProblem, TabularPolicy, closed_form_update, kl
from spin_theory.claims.iteration import (
    check_likelihood_rises,
    check_opponent_update,
    check_start_value,
)
from spin_theory.minima.closed_forms import opponent_update
from spin_theory.minima.minimise import minimise
from tests.strategies import BETAS, LOSS_TYPES, log_policies

WIDE_BETAS = st.floats(math.log(1e-3), math.log(1e3)).map(math.exp)
ONE_RESPONSE = (TabularPolicy.from_probs([[1.0]]),) * 3


class Unchecked(TabularPolicy):
    def __post_init__(self):
        pass


def tables_of(count, responses=6):
    return tuple(TabularPolicy.random(1, responses, seed=k, smallest=0.01) for k in range(count))


@given(
    tables=log_policies(count=3), beta=WIDE_BETAS, size=st.floats(-3.0, 3.0).map(lambda x: 10**x)
)
def test_the_opponents_update_maximises_advantage_minus_divergence(tables, beta, size):
    opponent, other, scores = tables
    evidence = check_opponent_update(opponent, size * scores.log_probs, other, beta=beta)
    assert evidence.holds, evidence


@given(tables=log_policies(count=3), beta=BETAS)
def test_no_policy_has_more_than_the_maximum(tables, beta):
    opponent, other, scores = tables
    maximum = check_opponent_update(opponent, scores.log_probs, other, beta=beta).numbers["maximum"]
    value = (other.probs * scores.log_probs).sum(-1) - beta * kl(other, opponent)
    assert value.mean() <= maximum + 1e-12 * (1 + abs(maximum) + value.abs().max())


def other_exponent(opponent, advantages, *, beta):
    return opponent_update(opponent, advantages, beta=beta * (1 + 1e-6))


def other_sign(opponent, advantages, *, beta):
    return opponent_update(opponent, -advantages, beta=beta)


def without_opponent(opponent, advantages, *, beta):
    return TabularPolicy.from_logits(advantages / beta)


def of_the_squared_opponent(opponent, advantages, *, beta):
    return TabularPolicy.from_logits(2 * opponent.log_probs + advantages / beta)


def without_normaliser(opponent, advantages, *, beta):
    return Unchecked(opponent_update(opponent, advantages, beta=beta).log_probs + 1e-6)


@pytest.mark.parametrize(
    "update",
    [other_exponent, other_sign, without_opponent, of_the_squared_opponent, without_normaliser],
)
@given(beta=BETAS)
def test_the_opponents_update_says_no_to_a_wrong_one(update, beta):
    opponent, other, scores = tables_of(3)
    evidence = check_opponent_update(opponent, scores.log_probs, other, beta=beta, update=update)
    assert not evidence.holds


def table_class(theta):
    return torch.log_softmax(theta.reshape(2, 3), dim=-1)


@pytest.mark.parametrize(("loss_type", "least_beta"), [("logistic", 1.0), ("exponential", 0.5)])
@given(tables=log_policies(count=2), factor=st.floats(0.0, 7.0).map(math.exp))
def test_an_exact_iteration_raises_the_likelihood_from_beta_one_on(
    loss_type, least_beta, tables, factor
):
    evidence = check_likelihood_rises(*tables, beta=least_beta * factor, loss_type=loss_type)
    assert evidence.holds, evidence
    assert evidence.numbers["change"] >= -1e-12


@given(tables=log_policies(count=2), beta=st.floats(1.0, 10.0))
def test_the_search_raises_the_likelihood_as_the_closed_form_does(tables, beta):
    def searched(*tables, **parameters):
        return minimise(*tables, **parameters).policy

    assert check_likelihood_rises(*tables, beta=beta, update=searched).holds


@given(tables=log_policies(count=2), beta=BETAS)
def test_the_change_is_that_of_the_expected_log_prob_of_real_responses(tables, beta):
    data, opponent = tables
    updated = closed_form_update(opponent, data, beta=beta)
    expected = (data.probs * (updated.log_probs - opponent.log_probs)).sum(dim=-1)
    found = check_likelihood_rises(data, opponent, beta=beta)
    size = 1 + expected.abs().max().item()
    assert found.numbers["change"] == pytest.approx(expected.mean().item(), abs=1e-12 * size)
    assert found.holds == (expected.min().item() >= -1e-12 * size) or expected.abs().min() < 1e-9


def inverse_ratio(opponent, data, *, beta, loss_type):
    log_ratio = opponent.log_probs - data.log_probs
    return TabularPolicy.from_logits(opponent.log_probs + log_ratio / beta)


def overshooting(opponent, data, *, beta, loss_type):
    return closed_form_update(opponent, data, beta=0.05)


def one_prompt_only(opponent, data, *, beta, loss_type):
    updated = closed_form_update(opponent, data, beta=beta).log_probs.clone()
    updated[1] = 2 * opponent.log_probs[1] - updated[1]
    return TabularPolicy.from_logits(updated)


@pytest.mark.parametrize("update", [inverse_ratio, overshooting, one_prompt_only])
@given(beta=st.floats(1.0, 10.0), seed=st.integers(0, 50))
def test_likelihood_rises_says_no_to_a_wrong_update(update, beta, seed):
    data, opponent = (TabularPolicy.random(2, 6, seed=seed + k, smallest=0.1) for k in (0, 100))
    assert not check_likelihood_rises(data, opponent, beta=beta, update=update).holds


def test_the_likelihood_falls_in_most_tables_at_a_tenth_some_at_a_half_none_from_one_on():
    data, opponent = (TabularPolicy.random(300, 8, seed=seed, smallest=1e-3) for seed in (0, 1))
    fell = {
        beta: int((kl(data, closed_form_update(opponent, data, beta=beta)) > before).sum())
        for before in [kl(data, opponent)]
        for beta in (0.1, 0.5, 1.0, 2.0, 5.0)
    }
    assert fell[0.1] > 200
    assert 10 < fell[0.5] < 150
    assert fell[1.0] == fell[2.0] == fell[5.0] == 0


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@example(tables=ONE_RESPONSE[:2], beta=1.0, weight=0.1)
@given(tables=log_policies(count=2), beta=WIDE_BETAS, weight=st.floats(0.0, 10.0))
def test_the_start_value_does_not_depend_on_the_tables(loss_type, tables, beta, weight):
    evidence = check_start_value(*tables, beta=beta, history_weight=weight, loss_type=loss_type)
    assert evidence.holds, evidence


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("reference", [None, TabularPolicy.from_probs([[0.7, 0.2, 0.1]])])
def test_the_start_value_says_no_to_another_reference(reference, loss_type, monkeypatch):
    def with_reference(**parts):
        return InnerProblem(**parts | {"reference": reference})

    monkeypatch.setattr("spin_theory.claims.iteration.InnerProblem", with_reference)
    data, opponent = tables_of(2, responses=3)
    assert not check_start_value(data, opponent, beta=1.0, loss_type=loss_type).holds


def test_the_start_value_says_no_to_a_forgotten_history_term(monkeypatch):
    def without_history(**parts):
        return InnerProblem(**parts | {"history_weight": 0.0})

    monkeypatch.setattr("spin_theory.claims.iteration.InnerProblem", without_history)
    data, opponent = tables_of(2)
    assert not check_start_value(data, opponent, beta=1.0, history_weight=0.1).holds
    assert check_start_value(data, opponent, beta=1.0).holds


def test_bad_arguments_are_refused():
    two, three = TabularPolicy.random(1, 2, seed=0), TabularPolicy.random(1, 3, seed=0)
    with pytest.raises(ValueError, match="one shape"):
        check_opponent_update(two, two.log_probs, three, beta=1.0)
    with pytest.raises(ValueError, match="advantages must have the opponent's shape"):
        check_opponent_update(two, three.log_probs, two, beta=1.0)
    with pytest.raises(ValueError, match="beta must be finite"):
        check_opponent_update(two, two.log_probs, two, beta=0.0)
    with pytest.raises(ValueError, match="linear programme"):
        check_likelihood_rises(two, two, beta=1.0, loss_type="hinge")
    with pytest.raises(ValueError, match="one shape"):
        check_start_value(two, three, beta=1.0)
    with pytest.raises(ValueError, match="history_weight must be"):
        check_start_value(two, two, beta=1.0, history_weight=-1.0)
