import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_theory import TabularPolicy, closed_form_update, cycle_length, mixed_samples, play, tv
from spin_theory.games.iterates import observed_multipliers
from tests.strategies import QUICK, log_policies

START, DATA = (TabularPolicy.random(1, 5, seed=seed, smallest=0.05) for seed in (0, 1))


@given(period=st.integers(2, 5), rounds=st.integers(8, 12))
def test_a_cycle_has_its_least_period(period, rounds):
    states = [TabularPolicy.random(1, 4, seed=seed) for seed in range(period)]
    assert cycle_length(states * rounds) == period


def test_a_settling_game_has_period_one_and_a_drifting_one_none():
    settled = play(START, DATA, beta=2.0, iterations=120).policies
    assert cycle_length(settled) == 1
    assert cycle_length(settled[:12]) is None


@pytest.mark.parametrize("beta", [1e8, 1e9, 1e10, 1e12])
def test_a_game_that_creeps_has_not_settled(beta):
    # multiplier 1 - 1/beta: every step is tiny, and the data are as far as ever
    start, data = (TabularPolicy.random(1, 8, seed=seed, smallest=1e-3) for seed in (0, 1))
    assert cycle_length(play(start, data, beta=beta, iterations=10).policies) is None
    late = [0.7] + [beta] * 40  # one real step first
    assert cycle_length(play(start, data, beta=late, iterations=41).policies) is None


@pytest.mark.parametrize("beta", [0.1, 0.3, 0.45, 0.499])
def test_a_game_that_diverges_is_in_no_cycle(beta):
    # soon it alternates between two point masses, at no distance in total variation
    start, data = (TabularPolicy.random(1, 8, seed=seed, smallest=1e-3) for seed in (0, 1))
    game = play(start, data, beta=beta, iterations=60)
    assert cycle_length(game.policies) is None


def test_a_game_that_never_moved_shows_nothing():
    assert cycle_length([DATA] * 20) is None


@given(policies=log_policies(count=2, min_responses=2))
def test_spin_at_beta_one_half_cycles_in_two(policies):
    start, data = policies
    if tv(start, data).min() > 1e-6:
        game = play(start, data, beta=0.5, iterations=8)
        once = closed_form_update(start, data, beta=0.5)
        moved = (once.log_probs - start.log_probs).abs().max() > 1e-9
        assert cycle_length(game.policies) == (2 if moved else None)


def mixing_game(*, size, beta, iterations):
    """Mixed samples from a start `size` normal log-ratios away from the data."""
    data = TabularPolicy.random(1, 6, seed=14, smallest=1e-2)
    generator = torch.Generator().manual_seed(14)
    noise = torch.randn(1, 6, generator=generator, dtype=torch.float64)
    start = TabularPolicy.from_logits(data.log_probs + size * noise)
    return play(start, data, beta=beta, iterations=iterations, opponent=mixed_samples)


def test_mixing_at_beta_0_51_looks_like_a_cycle_of_four_from_a_far_start():
    # the multipliers are 0.99 e^(+-i 89.4 degrees): a quarter turn, hardly damped
    late = mixing_game(size=10.0, beta=0.51, iterations=400).policies[-100:]
    assert all(tv(one, other).max() <= 1e-3 for one, other in zip(late, late[4:], strict=False))
    # 0.99 a step shrinks too slowly to be at its end: what is still to come is 100 times as much
    assert cycle_length(late, tolerance=1e-3) is None


@pytest.mark.parametrize("size", [10.0] if QUICK else [1e-3, 1.0, 10.0, 100.0])
def test_mixing_at_beta_0_51_converges_in_the_end(size):
    game = mixing_game(size=size, beta=0.51, iterations=3000)
    assert game.tv[-1] <= 1e-6
    assert cycle_length(game.policies, tolerance=1e-3) == 1


def test_mixing_at_beta_one_half_goes_round_in_four_near_the_data():
    # r^2 + 1 = 0: multipliers +-i, neither damped nor growing to first order
    game = mixing_game(size=1e-8, beta=0.5, iterations=40)
    assert cycle_length(game.policies, tolerance=1e-13) == 4
    assert tv(game.policies[0], game.policies[2]).max() > 1e-9


@pytest.mark.parametrize("beta", [0.3, 0.45])
def test_mixing_below_beta_one_half_leaves_the_data(beta):
    game = mixing_game(size=1e-6, beta=beta, iterations=100)
    assert game.tv[-1] > 10 * game.tv[0]


def test_mixing_at_beta_1_converges_from_the_same_far_start():
    assert mixing_game(size=10.0, beta=1.0, iterations=200).tv[-1] <= 1e-12


@pytest.mark.parametrize("order", [1, 2])
def test_iterates_that_differ_by_rounding_say_nothing_of_the_multipliers(order):
    # at beta = 1 all iterates after the first are the data: the ratio of their last bits was fitted
    game = play(START, DATA, beta=1.0, iterations=8)
    found = observed_multipliers(game.policies, DATA, order=order)
    assert max(map(abs, found)) <= 1e-6
    last_bits = [TabularPolicy(DATA.log_probs * (1 + k * 1e-15)) for k in range(5)]
    with pytest.raises(ValueError, match="must deviate from the limit by more than rounding"):
        observed_multipliers(last_bits, DATA, order=order)


def test_too_few_iterates_are_refused():
    three = TabularPolicy.random(1, 3, seed=0)
    with pytest.raises(ValueError, match="more policies than order, got 1 and 1"):
        observed_multipliers([three], three)
    with pytest.raises(ValueError, match="must deviate from the limit"):
        observed_multipliers([three, three], three)
