import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spin_theory import (
    InnerProblem,
    SampledMinimiser,
    TabularPolicy,
    power,
    samples_for,
)
from spin_theory.claims.samples import (
    check_hardest_js,
    check_power,
    check_sampled_minimiser,
    check_samples_for,
)
from spin_theory.hardest import hardest_js
from spin_theory.minima.minimise import minimiser
from tests.strategies import at_most, log_policies


@given(tables=log_policies(count=2))
def test_two_responses_are_hardest(tables):
    evidence = check_hardest_js(*tables)
    assert evidence.holds, evidence


@pytest.mark.parametrize(
    "wrong",
    [
        lambda tv: 0.0,  # below all, and reached by none
        lambda tv: tv**2 / 2,  # Pinsker's for one pair of distributions, where no pair is a tie
        lambda tv: 1.001 * hardest_js(tv),
        lambda tv: hardest_js(tv) / math.log(2),  # in bits
    ],
)
def test_another_least_value_is_noticed(wrong):
    data, opponent = (TabularPolicy.random(3, 4, seed=seed, smallest=0.1) for seed in (0, 1))
    assert not check_hardest_js(data, opponent, least=wrong).holds


@at_most(20)
@given(tv=st.floats(0.0, 0.99), confidence=st.floats(0.05, 0.6))
def test_power_holds_where_few_samples_can_prove_something(tv, confidence):
    evidence = check_power(tv=tv, confidence=confidence)
    assert evidence.holds, evidence


@pytest.mark.parametrize(
    "wrong",
    [
        lambda **rules: power(**rules) + 1e-6,
        lambda **rules: power(**rules | {"confidence": 0.51}),
        lambda **rules: power(**rules | {"samples": 16}),  # as if no half were spent on tuning
        lambda **rules: power(**rules | {"tv": 0.71}),
    ],
)
def test_another_power_is_noticed(wrong):
    assert not check_power(tv=0.7, confidence=0.5, claimed=wrong).holds


def test_another_number_of_pairs_is_noticed():
    opponent, data = (TabularPolicy.random(1, 4, seed=seed, smallest=0.1) for seed in (0, 1))
    rules = {"beta": 0.7, "distance": 0.02}
    assert check_samples_for(opponent, data, **rules).holds
    for wrong in (
        lambda *tables, **rules: samples_for(*tables, **rules) + 1,
        lambda *tables, **rules: samples_for(*tables, **rules) - 1,
        lambda *tables, **rules: round(math.sqrt(samples_for(*tables, **rules))),
    ):
        assert not check_samples_for(opponent, data, **rules, claimed=wrong).holds


@pytest.mark.parametrize("pairs", [1, 30, 400])
def test_the_minimiser_of_sampled_pairs_is_one_or_says_that_there_is_none(pairs):
    data, opponent = (TabularPolicy.random(1, 4, seed=seed, smallest=0.1) for seed in (0, 1))
    problem = InnerProblem(data=data, sampler=opponent, reference=opponent, beta=0.7)
    found = [check_sampled_minimiser(problem, pairs=pairs, seed=seed) for seed in range(20)]
    assert all(evidence.holds for evidence in found)
    exist = sum(evidence.numbers["exists"] for evidence in found)
    assert (exist == 0) == (pairs == 1)
    assert pairs != 30 or 0 < exist < 20


def test_a_solver_that_does_not_minimise_the_pairs_is_noticed():
    data, opponent = (TabularPolicy.random(1, 4, seed=seed, smallest=0.1) for seed in (0, 1))
    problem = InnerProblem(data=data, sampler=opponent, reference=opponent, beta=0.7)

    def exact(pairs):
        return lambda problem, **_: minimiser(problem)

    def never(pairs):
        return SampledMinimiser(1)

    for wrong in (exact, never):
        assert not check_sampled_minimiser(problem, pairs=400, seed=0, solver=wrong).holds
