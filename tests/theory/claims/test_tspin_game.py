import math
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from spin_theory import TabularPolicy, fixed_point, last_iterate, without_reference
from spin_theory.claims.tspin_game import check_tspin_fixed_point, check_tspin_update
from spin_theory.minima.closed_forms import exact
from spin_theory.minima.minimise import minimise_problem
from tests.strategies import BETAS, at_most, log_policies, log_probs

SMOOTH = ["logistic", "exponential"]
ONE_RESPONSE = (TabularPolicy.from_probs([[1.0]]),) * 3


def tables_of(count, responses=6):
    return tuple(TabularPolicy.random(1, responses, seed=k, smallest=0.01) for k in range(count))


def patch(monkeypatch, name, function):
    monkeypatch.setattr(f"spin_theory.claims.tspin_game.{name}", function)


@pytest.mark.parametrize("loss_type", SMOOTH)
@example(tables=ONE_RESPONSE[:2], beta=1.0)
@given(tables=log_policies(count=2), beta=BETAS)
def test_the_update_without_history_has_a_closed_form(loss_type, tables, beta):
    evidence = check_tspin_update(*tables, beta=beta, loss_type=loss_type)
    assert evidence.holds, evidence


def wrong_beta(problem):
    return exact(replace(problem, beta=problem.beta * (1 + 1e-6)))


def of_spin(problem):
    return exact(replace(problem, reference=problem.sampler))


def swapped_roles(problem):
    return exact(replace(problem, data=problem.sampler, sampler=problem.data))


def to_the_data(problem):
    return problem.data


def other_penalty(problem):
    return exact(replace(problem, loss_type="exponential"))


@pytest.mark.parametrize("update", [wrong_beta, of_spin, swapped_roles, to_the_data, other_penalty])
@given(beta=BETAS)
def test_the_update_says_no_to_a_wrong_one(update, beta):
    evidence = check_tspin_update(*tables_of(2), beta=beta, update=update)
    assert not evidence.holds
    assert evidence.numbers["gap"] <= 1e-20  # the minimiser is right


def test_the_update_says_no_where_the_minimiser_is_not_certified(monkeypatch):
    monkeypatch.setattr("spin_theory.minima.newton.MAX_STEPS", 1)

    def searched(problem):
        return minimise_problem(problem).policy

    assert not check_tspin_update(*tables_of(2), beta=1.0, update=searched).holds


@st.composite
def starts_and_data(draw):
    responses = draw(st.integers(2, 6))
    return tuple(
        TabularPolicy(draw(log_probs(prompts=1, responses=responses, smallest=math.log(1e-3))))
        for _ in range(2)
    )


@pytest.mark.parametrize("loss_type", SMOOTH)
@at_most(15)
@given(tables=starts_and_data(), beta=BETAS)
def test_without_history_the_game_rests_at_a_power_of_the_data(loss_type, tables, beta):
    evidence = check_tspin_fixed_point(*tables, beta=beta, loss_type=loss_type)
    assert evidence.holds, evidence


@pytest.mark.parametrize("loss_type", SMOOTH)
@at_most(15)
@given(
    tables=starts_and_data(),
    beta=BETAS,
    weight=st.floats(math.log(1e-3), math.log(10.0)).map(math.exp),
)
def test_history_steadies_the_game(loss_type, tables, beta, weight):
    evidence = check_tspin_fixed_point(
        *tables, beta=beta, history_weight=weight, loss_type=loss_type
    )
    assert evidence.holds, evidence


def test_at_the_published_alpha_history_makes_a_contraction_that_misses_the_data():
    start, data = tables_of(2)
    plain = check_tspin_fixed_point(start, data, beta=1.0).numbers
    steadied = check_tspin_fixed_point(start, data, beta=1.0, history_weight=0.1).numbers
    assert plain["spectral_radius"] == pytest.approx(1, abs=1e-10)
    assert 0.4 < steadied["spectral_radius"] < 0.95
    assert min(plain["tv"], steadied["tv"]) > 0.01


def test_the_game_rests_at_the_data_only_where_they_are_uniform():
    uniform = TabularPolicy.from_probs([[0.25] * 4])
    start = TabularPolicy.random(1, 4, seed=0, smallest=0.1)
    assert check_tspin_fixed_point(start, uniform, beta=1.0).numbers["tv"] < 1e-12


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_the_fixed_point_says_no_to_a_policy_that_moves(weight, monkeypatch):
    def off(start, data, **rules):
        point = fixed_point(start, data, **rules)
        return TabularPolicy.from_logits(point.log_probs * (1 + 1e-6))

    patch(monkeypatch, "fixed_point", off)
    assert not check_tspin_fixed_point(*tables_of(2), beta=1.0, history_weight=weight).holds


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_the_fixed_point_says_no_to_the_data(weight, monkeypatch):
    # where SPIN rests
    patch(monkeypatch, "fixed_point", lambda start, data, **rules: data)
    assert not check_tspin_fixed_point(*tables_of(2), beta=1.0, history_weight=weight).holds


def test_the_fixed_point_says_no_to_the_multipliers_of_spin(monkeypatch):
    patch(monkeypatch, "without_reference", last_iterate)
    assert not check_tspin_fixed_point(*tables_of(2), beta=2.0).holds


@pytest.mark.parametrize("loss_type", SMOOTH)
def test_the_fixed_point_says_no_to_another_multiplier(loss_type, monkeypatch):
    class Other:
        spectral_radius = (0.5 if loss_type == "logistic" else 0.25) * (1 + 1e-6)  # at alpha = 2

    patch(monkeypatch, "linearise", lambda *_, **__: Other)
    assert not check_tspin_fixed_point(*tables_of(2), beta=2.0, loss_type=loss_type).holds


def test_the_fixed_point_says_no_to_a_history_that_does_not_steady(monkeypatch):
    class Neutral:
        spectral_radius = 1.0 + 1e-6

    patch(monkeypatch, "linearise", lambda *_, **__: Neutral)
    assert not check_tspin_fixed_point(*tables_of(2), beta=1.0, history_weight=0.1).holds


def test_the_fixed_point_says_no_to_an_error_that_is_nan(monkeypatch):
    patch(monkeypatch, "tv", lambda *_: torch.tensor([math.nan]))
    assert not check_tspin_fixed_point(*tables_of(2), beta=1.0).holds
    assert not check_tspin_update(*tables_of(2), beta=1.0).holds


def test_the_rule_of_the_fixed_point_is_t_spins():
    start, data = tables_of(2)
    point = fixed_point(start, data, beta=2.0, opponent=without_reference)
    expected = TabularPolicy.from_logits(data.log_probs / 3)
    torch.testing.assert_close(point.probs, expected.probs, rtol=1e-11, atol=1e-14)


def test_bad_arguments_are_refused():
    two, three = TabularPolicy.random(1, 2, seed=0), TabularPolicy.random(1, 3, seed=0)
    prompts = TabularPolicy.random(2, 3, seed=0)
    with pytest.raises(ValueError, match="linear programme"):
        check_tspin_update(two, two, beta=1.0, loss_type="hinge")
    with pytest.raises(ValueError, match="one shape"):
        check_tspin_update(two, three, beta=1.0)
    with pytest.raises(ValueError, match="one prompt"):
        check_tspin_fixed_point(prompts, prompts, beta=1.0)
    with pytest.raises(ValueError, match="history_weight must be"):
        check_tspin_fixed_point(three, three, beta=1.0, history_weight=-0.1)
