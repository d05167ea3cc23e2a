import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from spin_theory import (
    GradientSteps,
    TabularPolicy,
    average_of_iterates,
    exact,
    geometric_mixture,
    last_iterate,
    minimiser,
    play,
)
from spin_theory.claims.games import (
    check_averaged_play,
    check_geometric_mixture,
    check_iterates,
    check_mixing,
)
from spin_theory.games.rates import mixing_multipliers
from tests.strategies import BETAS, log_policies, log_probs

SMOOTH = ["logistic", "exponential"]
LINEAR_BETAS = st.one_of(
    st.sampled_from([0.1, 1.0, 5.0]), st.floats(math.log(0.05), math.log(1000.0)).map(math.exp)
)
"""Published ones, and any: rounding grows like 1/beta, and below 0.05 exceeds the tolerance."""

WIDE_LOG_RATIO = (
    TabularPolicy.from_probs([[1 - 2e-12, 1e-12, 1e-12]]),
    TabularPolicy.from_probs([[0.2, 0.3, 0.5]]),
)


@st.composite
def data_near_which_games_are_linear(draw):
    responses = draw(st.integers(2, 8))
    return TabularPolicy(draw(log_probs(prompts=1, responses=responses, smallest=math.log(1e-3))))


def tables_of(count):
    return tuple(TabularPolicy.random(1, 6, seed=k, smallest=0.01) for k in range(count))


def patch(monkeypatch, name, function):
    monkeypatch.setattr(f"spin_theory.claims.games.{name}", function)


@pytest.mark.parametrize("loss_type", SMOOTH)
@example(tables=WIDE_LOG_RATIO, betas=[1.0, 0.1, 0.1, 0.1, 0.1, 0.1]).via(
    "at beta = 1 rounding is left, and five more iterations multiply it by 9 each"
)
@given(tables=log_policies(count=2), betas=st.lists(BETAS, max_size=6))
def test_all_iterates_have_a_closed_form(loss_type, tables, betas):
    evidence = check_iterates(*tables, betas=betas, loss_type=loss_type)
    assert evidence.holds, evidence


@pytest.mark.parametrize("loss_type", SMOOTH)
@given(tables=log_policies(count=2), betas=st.lists(st.floats(0.5, 10.0), min_size=1, max_size=2))
def test_searched_iterates_are_the_closed_forms(loss_type, tables, betas):
    evidence = check_iterates(*tables, betas=betas, loss_type=loss_type, solver=minimiser)
    assert evidence.holds, evidence


def wrong_beta(problem, **state):
    return exact(replace(problem, beta=problem.beta * (1 + 1e-6)))


def wrong_penalty(problem, **state):
    return exact(replace(problem, loss_type="exponential"))


def to_the_data(problem, **state):
    return problem.data


def without_the_opponent(problem, **state):
    return exact(replace(problem, reference=None))


def swapped_roles(problem, **state):
    return exact(replace(problem, data=problem.sampler, sampler=problem.data))


def not_moving(problem, *, start, generator):
    return start


WRONG_SOLVERS = [
    wrong_beta,
    wrong_penalty,
    to_the_data,
    without_the_opponent,
    swapped_roles,
    not_moving,
    GradientSteps(steps=30, learning_rate=1.0),
]


@pytest.mark.parametrize("solver", WRONG_SOLVERS)
@pytest.mark.parametrize("betas", [[0.3], [2.0, 5.0], [0.7, 0.1, 0.1, 4.0]])
def test_iterates_say_no_to_a_wrong_solver(solver, betas):
    assert not check_iterates(*tables_of(2), betas=betas, solver=solver).holds


@pytest.mark.parametrize("wrong_at", range(4))
def test_iterates_say_no_to_one_wrong_iteration(wrong_at):
    calls = iter(range(4))

    def wrong_once(problem, **state):
        return (wrong_beta if next(calls) == wrong_at else exact)(problem, **state)

    betas = [0.2, 3.0, 0.7, 4.0]
    assert not check_iterates(*tables_of(2), betas=betas, solver=wrong_once).holds


def test_iterates_say_no_to_a_wrong_multiplier(monkeypatch):
    monkeypatch.setattr(
        "spin_theory.games.rates.multiplier", lambda *, beta, loss_type: 1 - 1 / (beta + 1e-6)
    )
    assert not check_iterates(*tables_of(2), betas=[2.0]).holds


@pytest.mark.parametrize("loss_type", SMOOTH)
@given(data=data_near_which_games_are_linear(), beta=LINEAR_BETAS, seed=st.integers(0, 2**32))
def test_mixed_samples_follow_their_recurrence_near_the_data(loss_type, data, beta, seed):
    evidence = check_mixing(data, beta=beta, loss_type=loss_type, seed=seed)
    assert evidence.holds, evidence


def test_mixing_says_no_where_the_last_iterate_alone_generates(monkeypatch):
    patch(monkeypatch, "mixed_samples", last_iterate)
    assert not check_mixing(tables_of(1)[0], beta=1.5).holds


@pytest.mark.parametrize("half", [0.4, 0.6])
def test_mixing_says_no_to_wrong_multipliers(half, monkeypatch):
    patch(monkeypatch, "mixing_multipliers", lambda **_: mixing_multipliers(beta=1 / (2 * half)))
    assert not check_mixing(tables_of(1)[0], beta=1.0).holds


def test_mixing_says_no_to_a_wrong_recurrence(monkeypatch):
    patch(monkeypatch, "multiplier", lambda **_: 0.1)
    assert not check_mixing(tables_of(1)[0], beta=1.0).holds


def test_mixing_says_no_far_from_the_data(monkeypatch):
    patch(monkeypatch, "NEARBY", 0.1)
    assert not check_mixing(tables_of(1)[0], beta=1.0).holds


@pytest.mark.parametrize("loss_type", SMOOTH)
@given(
    tables=log_policies(count=2),
    beta=BETAS,
    base_weight=st.floats(0.0, 1.0),
    iterations=st.integers(0, 6),
)
def test_the_geometric_mixture_has_a_closed_form(loss_type, tables, beta, base_weight, iterations):
    evidence = check_geometric_mixture(
        *tables, beta=beta, base_weight=base_weight, iterations=iterations, loss_type=loss_type
    )
    assert evidence.holds, evidence


@given(beta=st.floats(0.3, 10.0), base_weight=st.floats(0.0, 1.0))
def test_the_geometric_mixture_ends_at_its_limit(beta, base_weight):
    start, data = tables_of(2)
    numbers = check_geometric_mixture(start, data, beta=beta, base_weight=base_weight).numbers
    assume(abs(numbers["multiplier"]) < 0.7)
    game = play(
        start,
        data,
        beta=beta,
        iterations=100,
        opponent=lambda policies: geometric_mixture(policies, base_weight=base_weight),
    )
    limit = data.log_probs + numbers["limit"] * (start.log_probs - data.log_probs)
    expected = TabularPolicy.from_logits(limit)
    torch.testing.assert_close(game.policies[-1].probs, expected.probs, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("solver", WRONG_SOLVERS)
@pytest.mark.parametrize("beta", [0.3, 2.0])
def test_the_geometric_mixture_says_no_to_a_wrong_solver(solver, beta):
    evidence = check_geometric_mixture(
        *tables_of(2), beta=beta, base_weight=0.3, loss_type="logistic", solver=solver
    )
    assert not evidence.holds


@pytest.mark.parametrize("rule", ["another weight", "plain", "the weights swapped"])
def test_the_geometric_mixture_says_no_to_another_opponent(rule, monkeypatch):
    def wrong(policies, *, base_weight):
        if rule == "another weight":
            return geometric_mixture(policies, base_weight=base_weight * (1 + 1e-6))
        if rule == "plain":
            return last_iterate(policies)
        return geometric_mixture(policies, base_weight=1 - base_weight)

    patch(monkeypatch, "geometric_mixture", wrong)
    assert not check_geometric_mixture(*tables_of(2), beta=0.7, base_weight=0.3).holds


@pytest.mark.parametrize("loss_type", SMOOTH)
@given(data=data_near_which_games_are_linear(), beta=LINEAR_BETAS, seed=st.integers(0, 2**32))
def test_fictitious_play_follows_its_factors_near_the_data(loss_type, data, beta, seed):
    evidence = check_averaged_play(data, beta=beta, loss_type=loss_type, seed=seed)
    assert evidence.holds, evidence


@pytest.mark.parametrize("beta", [0.1, 0.3, 0.45, 1.0, 3.0])
def test_fictitious_play_approaches_the_data_at_every_beta(beta):
    start, data = (TabularPolicy.random(1, 6, seed=seed, smallest=0.5) for seed in (0, 1))
    game = play(start, data, beta=beta, iterations=200, opponent=average_of_iterates)
    average = average_of_iterates(game.policies).sampler
    assert (average.log_probs - data.log_probs).abs().max() < 0.2


def test_averaged_play_says_no_to_plain_play(monkeypatch):
    def plain(policies):
        return last_iterate(policies)

    patch(monkeypatch, "average_of_iterates", plain)
    assert not check_averaged_play(tables_of(1)[0], beta=1.5).holds


def test_averaged_play_says_no_to_a_wrong_multiplier(monkeypatch):
    patch(monkeypatch, "multiplier", lambda **_: 0.4)
    assert not check_averaged_play(tables_of(1)[0], beta=2.0).holds


@pytest.mark.parametrize("check", [check_averaged_play, check_mixing])
def test_one_response_has_no_deviation_to_check(check):
    with pytest.raises(ValueError, match="at least 2 responses"):
        check(TabularPolicy.from_probs([[1.0]]), beta=1.0)


def test_bad_arguments_are_refused():
    two, three = TabularPolicy.random(1, 2, seed=0), TabularPolicy.random(1, 3, seed=0)
    prompts = TabularPolicy.random(2, 3, seed=0)
    with pytest.raises(ValueError, match="one shape"):
        check_iterates(two, three, betas=[1.0])
    with pytest.raises(ValueError, match="beta must be finite"):
        check_iterates(two, two, betas=[1.0, 0.0])
    with pytest.raises(ValueError, match="linear programme"):
        check_iterates(two, two, betas=[1.0], loss_type="hinge")
    with pytest.raises(ValueError, match="one prompt"):
        check_mixing(prompts, beta=1.0)
    with pytest.raises(ValueError, match="beta must be finite"):
        check_mixing(three, beta=-1.0)
    with pytest.raises(ValueError, match="base_weight must be"):
        check_geometric_mixture(two, two, beta=1.0, base_weight=1.5)
    with pytest.raises(ValueError, match="beta must be finite"):
        check_averaged_play(three, beta=0.0)
