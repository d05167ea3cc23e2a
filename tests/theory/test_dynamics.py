import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_theory import (
    TabularPolicy,
    js,
    kl,
    minimiser,
    multiplier,
    play,
    predicted_policy,
    tv,
)
from tests.strategies import BETAS, log_policies

START, DATA = (TabularPolicy.random(2, 6, seed=seed, smallest=1e-3) for seed in (0, 1))


@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
@given(
    policies=log_policies(count=2),
    betas=st.lists(BETAS, min_size=0, max_size=5),
)
def test_iterates_are_where_the_closed_form_predicts(loss_type, policies, betas):
    start, data = policies
    game = play(start, data, beta=betas, iterations=len(betas), loss_type=loss_type)
    predicted = predicted_policy(start, data, betas=betas, loss_type=loss_type)
    # Log-ratios grow by up to 9 with each iteration, and their rounding with them.
    torch.testing.assert_close(
        game.policies[-1].log_probs, predicted.log_probs, rtol=1e-10, atol=1e-10
    )


@given(policies=log_policies(count=2, max_responses=4), beta=st.floats(0.6, 5.0))
def test_playing_by_the_minimiser_gives_the_same_game(policies, beta):
    start, data = policies
    exact = play(start, data, beta=beta, iterations=3)
    searched = play(start, data, beta=beta, iterations=3, solver=minimiser)
    for left, right in zip(exact.policies, searched.policies, strict=True):
        assert tv(left, right).max() <= 1e-12


def test_the_hinge_game_is_played_by_the_minimiser():
    game = play(START, DATA, beta=1.0, iterations=2, loss_type="hinge", solver=minimiser)
    assert len(game.policies) == 3


def test_beta_one_reaches_the_data_in_one_step():
    game = play(START, DATA, beta=1.0, iterations=3)
    assert game.policies[0] is START
    assert game.tv[0] > 0.1
    assert (game.tv[1:] < 1e-14).all()


def test_beta_one_half_cycles():
    game = play(START, DATA, beta=0.5, iterations=8)
    assert tv(game.policies[8], START).max() < 1e-13
    assert tv(game.policies[7], game.policies[1]).max() < 1e-13
    assert tv(game.policies[1], START).min() > 0.1


def test_beta_below_one_half_ends_between_two_point_masses():
    policies = play(START, DATA, beta=0.1, iterations=6).policies
    ratio = START.log_probs - DATA.log_probs  # 9^6 times its size: nothing else is left
    for iterate, extreme in ((policies[6], ratio.argmax(-1)), (policies[5], ratio.argmin(-1))):
        assert torch.equal(iterate.probs.argmax(-1), extreme)
        assert (iterate.probs.amax(-1) > 1 - 1e-12).all()


def test_a_large_beta_contracts_by_its_multiplier():
    game = play(START, DATA, beta=2.0, iterations=40)
    # KL is quadratic in the log-ratio near the data: factor m^2 = 1/4
    assert (game.kl[40] / game.kl[39]).item() == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize(
    ("beta", "loss_type", "expected"),
    [
        (0.1, "logistic", -9.0),
        (5.0, "logistic", 0.8),
        (0.5, "exponential", 0.0),
        (0.25, "exponential", -1.0),
    ],
)
def test_multipliers_by_hand(beta, loss_type, expected):
    assert multiplier(beta=beta, loss_type=loss_type) == pytest.approx(expected)


def test_divergences_are_from_the_data_and_averaged_over_prompts():
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64)
    game = play(START, DATA, beta=3.0, iterations=2, prompt_probs=weights)
    for found, distance in ((game.kl, kl), (game.tv, tv), (game.js, js)):
        expected = [(weights * distance(DATA, policy)).sum() for policy in game.policies]
        torch.testing.assert_close(found, torch.stack(expected))


def test_a_schedule_sets_the_beta_of_each_iteration():
    game = play(START, DATA, beta=[2.0, 1.0], iterations=2)
    assert game.betas == (2.0, 1.0)
    assert game.tv[1] > 1e-3
    assert game.tv[2] < 1e-14


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="a number or 3 of them, got 2"):
        play(START, DATA, beta=[1.0, 1.0], iterations=3)
    with pytest.raises(ValueError, match="iterations must be >= 0"):
        play(START, DATA, beta=1.0, iterations=-1)
    with pytest.raises(ValueError, match="beta must be"):
        play(START, DATA, beta=0.0, iterations=1)
    with pytest.raises(ValueError, match="one shape"):
        play(START, TabularPolicy.random(1, 6, seed=0), beta=1.0, iterations=1)
    with pytest.raises(ValueError, match="logistic or exponential"):
        multiplier(beta=1.0, loss_type="hinge")


def test_a_game_that_outgrows_float64_says_in_which_iteration():
    with pytest.raises(ValueError, match=r"iteration \d+: log_probs must be finite"):
        play(START, DATA, beta=0.1, iterations=400)
