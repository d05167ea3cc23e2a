import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_theory import TabularPolicy, closed_form_update, effective_beta, play, tv
from spin_theory.games.rates import iterations_to, mixing_multipliers
from spin_theory.tolerances import EQUAL_TV
from tests.strategies import BETAS, log_policies

START, DATA = (TabularPolicy.random(1, 5, seed=seed, smallest=0.05) for seed in (0, 1))


@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
@given(
    policies=log_policies(count=2, max_responses=4),
    beta=st.floats(0.55, 4.0),
    epsilon=st.floats(math.log(1e-6), 0.0).map(math.exp),
)
def test_iterations_to_are_those_of_the_game(loss_type, policies, beta, epsilon):
    start, data = policies
    needed = iterations_to(start, data, beta=beta, epsilon=epsilon, loss_type=loss_type)
    game = play(start, data, beta=beta, iterations=needed + 4, loss_type=loss_type)
    largest = game.by_prompt(tv).amax(dim=-1)
    assert (largest[needed:] <= epsilon * (1 + 1e-6) + 1e-12).all()
    assert needed == 0 or largest[needed - 1] >= epsilon * (1 - 1e-6) - 1e-12


def test_iterations_to_counts_thousands_without_playing():
    needed = iterations_to(START, DATA, beta=1e4, epsilon=1e-9)
    # |m|^t = (1 - 1e-4)^t: each factor of 10 takes 2.3e4 iterations
    more = iterations_to(START, DATA, beta=1e4, epsilon=1e-10)
    assert more - needed == pytest.approx(math.log(10) * 1e4, rel=1e-3)


@pytest.mark.parametrize("beta", [0.1, 0.3, 0.5])
def test_a_log_ratio_that_does_not_contract_never_comes_near(beta):
    assert iterations_to(START, DATA, beta=beta, epsilon=1e-6) is None
    assert iterations_to(DATA, DATA, beta=beta, epsilon=1e-6) == 0


@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
@given(policies=log_policies(count=2, min_responses=2), beta=BETAS)
def test_the_effective_beta_of_an_exact_iteration_is_its_beta(loss_type, policies, beta):
    opponent, data = policies
    if tv(opponent, data).min() < 1e-6:
        return
    updated = closed_form_update(opponent, data, beta=beta, loss_type=loss_type)
    found = effective_beta(opponent, updated, data, loss_type=loss_type)
    torch.testing.assert_close(found, torch.full_like(found, beta), rtol=1e-6, atol=0)


def test_the_effective_beta_of_no_move_is_infinite_and_of_a_retreat_negative():
    assert effective_beta(START, START, DATA).item() == math.inf
    away = TabularPolicy.from_logits(1.5 * START.log_probs - 0.5 * DATA.log_probs)
    assert effective_beta(START, away, DATA).item() == pytest.approx(-2.0)


def test_what_is_at_the_data_but_for_rounding_has_no_effective_beta():
    # one step at beta = 1 reaches the data; the next moved by rounding alone: beta was -0.6 or so
    arrived = play(START, DATA, beta=1.0, iterations=2).policies
    last_bit = TabularPolicy(DATA.log_probs * (1 + 1e-15))
    for policy in (arrived[2], DATA, last_bit):
        assert math.isnan(effective_beta(last_bit, policy, DATA).item())
    moved = TabularPolicy(START.log_probs * (1 + 1e-15))
    assert effective_beta(START, moved, DATA).item() == math.inf


def test_no_distance_below_rounding_is_waited_for():
    # total variation stops falling at some 1e-17: the search went on for ever
    needed = iterations_to(START, DATA, beta=2.0, epsilon=1e-300)
    assert needed == iterations_to(START, DATA, beta=2.0, epsilon=EQUAL_TV)


def test_bad_arguments_are_refused():
    two = TabularPolicy.random(2, 3, seed=0)
    three = TabularPolicy.random(1, 3, seed=0)
    with pytest.raises(ValueError, match="epsilon must be > 0"):
        iterations_to(three, three, beta=1.0, epsilon=0.0)
    for refused in (
        lambda: iterations_to(two, three, beta=1.0, epsilon=0.1),
        lambda: effective_beta(two, three, three),
    ):
        with pytest.raises(ValueError, match="one shape"):
            refused()
    for refused in (mixing_multipliers, partial(iterations_to, START, DATA, epsilon=0.1)):
        with pytest.raises(ValueError, match="beta must be"):
            refused(beta=0.0)
        with pytest.raises(ValueError, match="logistic or exponential"):
            refused(beta=1.0, loss_type="hinge")
