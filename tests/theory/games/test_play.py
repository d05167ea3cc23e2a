import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from spin_theory import (
    GradientSteps,
    InnerProblem,
    TabularPolicy,
    average_of_iterates,
    geometric_mixture,
    js,
    kl,
    minimiser,
    mixed_samples,
    multiplier,
    play,
    predicted_policy,
    tv,
    without_reference,
)
from spin_theory.minima.hinge import hinge_minimum
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


def test_the_hinge_game_steps_by_the_best_chains_advantages():
    game = play(START, DATA, beta=2.0, iterations=2, loss_type="hinge", solver=minimiser)
    for before, after in pairwise(game.policies):
        _, advantages = hinge_minimum(DATA, before)
        expected = TabularPolicy.from_logits(before.log_probs + advantages / 2)
        assert tv(after, expected).max() <= 1e-14


@given(policies=log_policies(count=2, max_responses=4), betas=st.lists(BETAS, max_size=3))
def test_a_tspin_game_minimises_its_own_objective_each_time(policies, betas):
    start, data = policies
    weights = [0.0, 0.1, 0.3][: len(betas)]
    game = play(
        start,
        data,
        beta=betas,
        iterations=len(betas),
        solver=minimiser,
        opponent=without_reference,
        history_weight=weights,
    )
    assert game.history_weights == tuple(weights)
    for index, beta in enumerate(betas):
        problem = InnerProblem(
            data=data,
            sampler=game.policies[index],
            reference=None,
            beta=beta,
            initial=start,
            history_weight=weights[index],
        )
        assert torch.equal(game.policies[index + 1].log_probs, minimiser(problem).log_probs)


@given(policies=log_policies(count=2), alpha=st.floats(0.3, 5.0))
def test_tspin_without_history_inverts_the_last_iterate(policies, alpha):
    # pi_{t+1} is (p_data/pi_t)^(1/alpha): twice, at alpha = 1, is where it began
    start, data = policies
    game = play(start, data, beta=alpha, iterations=1, opponent=without_reference)
    logits = (data.log_probs - start.log_probs) / alpha
    assert tv(game.policies[1], TabularPolicy.from_logits(logits)).max() <= 1e-13
    twice = play(start, data, beta=1.0, iterations=2, opponent=without_reference)
    assert tv(twice.policies[2], start).max() <= 1e-13


@given(
    policies=log_policies(count=2),
    beta=st.floats(0.6, 5.0),
    weight=st.floats(0.0, 1.0),
    iterations=st.integers(0, 6),
)
def test_the_geometric_mixture_moves_log_ratios_affinely(policies, beta, weight, iterations):
    # r_{t+1} = m [(1 - w) r_t + w r_0], r = log p_t/p_data up to constants
    start, data = policies
    game = play(
        start,
        data,
        beta=beta,
        iterations=iterations,
        opponent=partial(geometric_mixture, base_weight=weight),
    )
    first = share = 1.0  # r_t as a multiple of r_0
    for _ in range(iterations):
        share = multiplier(beta=beta) * ((1 - weight) * share + weight * first)
    logits = data.log_probs + share * (start.log_probs - data.log_probs)
    assert tv(game.policies[-1], TabularPolicy.from_logits(logits)).max() <= 1e-12


@given(policies=log_policies(count=2), beta=st.floats(0.8, 5.0), weight=st.floats(0.1, 1.0))
def test_the_geometric_mixture_rests_where_its_affine_map_does(policies, beta, weight):
    # r* = m w r_0 / (1 - m (1 - w)), not the data unless m = 0
    start, data = policies
    rule = partial(geometric_mixture, base_weight=weight)
    m = multiplier(beta=beta)
    share = m * weight / (1 - m * (1 - weight))
    logits = data.log_probs + share * (start.log_probs - data.log_probs)
    rest = TabularPolicy.from_logits(logits)
    game = play(start, data, beta=beta, iterations=150, opponent=rule)
    assert tv(game.policies[-1], rest).max() <= 1e-12


@pytest.mark.parametrize("beta", [0.5, 0.8, 2.0, 4.0])  # at 1 each iterate after p_0 is p_data
def test_fictitious_play_closes_in_by_the_power_of_one_over_beta(beta):
    start = TabularPolicy.from_logits(DATA.log_probs + 0.01 * (START.log_probs - DATA.log_probs))
    game = play(start, DATA, beta=beta, iterations=400, opponent=average_of_iterates)
    # near the data iteration t multiplies the average's distance by 1 - (1/beta)/(t + 1)
    assert (game.tv[400] / game.tv[200]).item() == pytest.approx(2 ** (-1 / beta), rel=0.02)


@pytest.mark.parametrize("beta", [0.2, 0.3, 0.45])
def test_fictitious_play_comes_near_where_spin_diverges(beta):
    game = play(START, DATA, beta=beta, iterations=300, opponent=average_of_iterates)
    assert game.tv[300] < 1e-3 < game.tv[0]
    assert game.tv[300] < game.tv[100]


def test_the_published_schedule_of_spin_by_the_closed_form():
    # lambda 0.1 three times and then 5.0: multipliers (-9)^3 * 0.8 = -583.2
    near = TabularPolicy.from_logits(DATA.log_probs + 1e-3 * START.log_probs)
    betas = [0.1, 0.1, 0.1, 5.0]
    game = play(near, DATA, beta=betas, iterations=4)
    assert tv(game.policies[4], predicted_policy(near, DATA, betas=betas)).max() <= 1e-12
    logits = DATA.log_probs - 0.5832 * START.log_probs
    assert tv(game.policies[4], TabularPolicy.from_logits(logits)).max() <= 1e-11


@pytest.mark.parametrize("opponent", [mixed_samples, average_of_iterates, geometric_mixture])
@given(policies=log_policies(count=2, max_prompts=4, max_responses=4), beta=st.floats(0.6, 5.0))
def test_prompts_at_once_are_games_one_by_one(opponent, policies, beta):
    start, data = policies
    together = play(start, data, beta=beta, iterations=3, opponent=opponent)
    for row in range(len(data.log_probs)):
        first, target = (TabularPolicy(table.log_probs[row : row + 1]) for table in policies)
        alone = play(first, target, beta=beta, iterations=3, opponent=opponent)
        assert together.by_prompt(tv)[:, row].tolist() == pytest.approx(
            alone.tv.tolist(), rel=1e-9, abs=1e-13
        )


def test_the_same_seed_plays_the_same_game():
    solver = GradientSteps(steps=3, learning_rate=0.5, pairs=8)
    one, other, third = (
        play(START, DATA, beta=1.0, iterations=3, solver=solver, seed=seed).policies[-1].log_probs
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, other)
    assert not torch.equal(one, third)


def test_each_iteration_draws_anew():
    solver = GradientSteps(steps=1, learning_rate=1.0, pairs=1)
    # at p_t = p_data a draw moves the policy unless y = y': never twice the same way
    game = play(DATA, DATA, beta=1.0, iterations=6, solver=solver)
    moves = [
        (after.log_probs - before.log_probs).sign() for before, after in pairwise(game.policies)
    ]
    assert len({tuple(move.flatten().tolist()) for move in moves}) > 2


def test_inexact_iterations_start_from_the_last_policy():
    solver = GradientSteps(steps=1, learning_rate=0.1)
    game = play(START, DATA, beta=1.0, iterations=2, solver=solver)
    # the gradient at the opponent is -(p_data - p_t)/2, in each iteration
    for before, after in pairwise(game.policies):
        logits = before.log_probs + 0.05 * (DATA.probs - before.probs)
        assert tv(after, TabularPolicy.from_logits(logits)).max() <= 1e-14


@example(iteration=0)
@given(iteration=st.integers(0, 3))
def test_a_refusal_names_its_iteration(iteration):
    with pytest.raises(ValueError, match=f"iteration {iteration}: history_weight > 0 has no"):
        play(
            START,
            DATA,
            beta=1.0,
            iterations=4,
            opponent=without_reference,
            history_weight=[0.0] * iteration + [0.1] * (4 - iteration),
        )


def test_the_correlation_game_is_refused_where_it_has_no_minimum():
    with pytest.raises(ValueError, match="iteration 0: loss_type correlation has no minimum"):
        play(START, DATA, beta=1.0, iterations=2, loss_type="correlation", solver=minimiser)
    rests = play(DATA, DATA, beta=1.0, iterations=2, loss_type="correlation", solver=minimiser)
    assert (rests.tv <= 1e-15).all()


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
    with pytest.raises(ValueError, match="one number or 3 numbers, got 2"):
        play(START, DATA, beta=[1.0, 1.0], iterations=3)
    with pytest.raises(ValueError, match="history_weight must be one number or 3 numbers, got 1"):
        play(START, DATA, beta=1.0, iterations=3, history_weight=[0.1])
    with pytest.raises(ValueError, match="iterations must be >= 0"):
        play(START, DATA, beta=1.0, iterations=-1)
    with pytest.raises(ValueError, match="beta must be"):
        play(START, DATA, beta=0.0, iterations=1)
    with pytest.raises(ValueError, match="one shape"):
        play(START, TabularPolicy.random(1, 6, seed=0), beta=1.0, iterations=1)
    with pytest.raises(ValueError, match="logistic or exponential"):
        multiplier(beta=1.0, loss_type="hinge")


def test_a_game_that_outgrows_float64_keeps_its_iterates_and_says_when_and_why():
    game = play(START, DATA, beta=0.1, iterations=400)
    # |log-ratio| = 9^t * largest |log p_0/p_data|: beyond float64 where 9^t passes 1e308 / that
    largest = (START.log_probs - DATA.log_probs).abs().max().item()
    last = math.floor((math.log(1.79e308) - math.log(largest)) / math.log(9))
    assert abs(len(game.policies) - 1 - last) <= 1
    assert (
        game.stopped == f"p_{len(game.policies)} cannot be computed: its log-probs outgrow float64"
    )
    assert all(policy.log_probs.isfinite().all() for policy in game.policies)
    assert len(game.tv) == len(game.kl) == len(game.policies)
    assert play(START, DATA, beta=0.1, iterations=40).stopped is None


def test_a_game_whose_minimum_is_out_of_reach_stops_instead_of_going_on_from_elsewhere(monkeypatch):
    # Newton moves margins by at most 3 nats per step, 200 times; the log-ratio grows ninefold
    monkeypatch.setattr("spin_theory.minima.newton.MAX_STEPS", 200)
    game = play(START, DATA, beta=0.1, iterations=12, solver=minimiser)
    exact = play(START, DATA, beta=0.1, iterations=12)
    assert game.stopped.startswith(f"p_{len(game.policies)} cannot be computed: Newton")
    assert len(game.policies) > 2
    for left, right in zip(game.policies, exact.policies, strict=False):
        assert tv(left, right).max() <= 1e-9


@pytest.mark.parametrize("kind", [np.array, torch.tensor, tuple, list, lambda v: (x for x in v)])
def test_schedules_come_in_any_sequence(kind):
    values = [1.0, 2.0, 0.7]
    if kind.__name__ == "<lambda>":  # a generator has no length
        with pytest.raises(ValueError, match="beta must be a number"):
            play(START, DATA, beta=kind(values), iterations=3)
        return
    game = play(START, DATA, beta=kind(values), iterations=3)
    assert game.betas == pytest.approx((1.0, 2.0, 0.7))
    assert all(type(beta) is float for beta in game.betas)


@pytest.mark.parametrize("one", [2, np.float32(2), np.int64(2), torch.tensor(2.0), np.array(2)])
def test_one_number_of_any_kind_is_that_of_all_iterations(one):
    game = play(START, DATA, beta=one, iterations=2.0)
    assert game.betas == (2.0, 2.0)
