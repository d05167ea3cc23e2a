import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_theory import (
    GradientSteps,
    InnerProblem,
    SampledMinimiser,
    TabularPolicy,
    exact,
    fixed_point,
    linearise,
    minimise,
    minimiser,
    phase_diagram,
    play,
    tv,
    without_reference,
)
from spin_theory.games.sft import sft_multiplier, steadying_weight
from tests.strategies import BETAS, at_most

START, DATA = (TabularPolicy.random(1, 8, seed=seed, smallest=1e-3) for seed in (1, 0))


def test_a_weight_of_a_tenth_brings_the_published_beta_to_the_data():
    # SPIN at beta 0.1 multiplies by -9; with w = 0.1 by -0.09/0.21.
    steady = play(START, DATA, beta=0.1, iterations=8, solver=minimiser, sft_weight=0.1)
    plain = play(START, DATA, beta=0.1, iterations=5)
    assert steady.kl[5] < 1e-3
    assert steady.kl[8] < 1e-5
    assert plain.kl[5] > 1000


def test_below_the_steadying_weight_a_game_stays_away_from_the_data():
    weight = steadying_weight(beta=0.1)
    near = TabularPolicy.from_logits(0.999 * DATA.log_probs)
    for factor, comes_nearer in ((0.9, False), (1.1, True)):
        game = play(
            near, DATA, beta=0.1, iterations=20, solver=minimiser, sft_weight=factor * weight
        )
        assert bool(game.tv[-1] < game.tv[0]) == comes_nearer


@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
@given(beta=st.floats(1e-3, 1e3))
def test_at_the_steadying_weight_the_multiplier_is_minus_one_or_no_weight_is_needed(
    loss_type, beta
):
    weight = steadying_weight(beta=beta, loss_type=loss_type)
    m = sft_multiplier(beta=beta, sft_weight=weight, loss_type=loss_type)
    assert weight <= 1 / 16 + 1e-15
    assert m == pytest.approx(-1.0) if weight > 0 else -1 <= m < 1


@at_most(20)
@given(seed=st.integers(0, 2**30), beta=BETAS, log_weight=st.floats(math.log(1e-3), math.log(10.0)))
def test_the_minimiser_has_gradient_zero_in_forty_digits(seed, beta, log_weight):
    weight = math.exp(log_weight)
    data, opponent = (TabularPolicy.random(1, 4, seed=seed + k, smallest=1e-4) for k in (0, 1))
    found = minimise(opponent, data, beta=beta, sft_weight=weight)
    with mpmath.workdps(40):
        p, q, log_p = (
            [mpmath.mpf(value) for value in table[0].tolist()]
            for table in (data.probs, opponent.probs, found.policy.log_probs)
        )
        f = [beta * (one - mpmath.log(other)) for one, other in zip(log_p, q, strict=True)]
        norm = mpmath.fsum(map(mpmath.exp, log_p))
        for i in range(4):
            pulls = mpmath.fsum(
                p[j] * q[i] / (1 + mpmath.exp(f[j] - f[i]))
                - p[i] * q[j] / (1 + mpmath.exp(f[i] - f[j]))
                for j in range(4)
                if j != i
            )
            gradient = beta * pulls + weight * (mpmath.exp(log_p[i]) / norm - p[i])
            assert abs(gradient) < 1e-13 * (beta + weight) / min(1.0, beta)
    assert found.gap < 1e-14 * found.objective
    assert found.lower_bound <= found.objective


def test_large_tables_with_tiny_probabilities_are_certified():
    data, opponent = (TabularPolicy.random(1, 256, seed=seed, smallest=1e-12) for seed in (0, 1))
    for beta, weight in ((0.1, 0.05), (1.0, 1.0), (5.0, 1e-3)):
        for loss_type in ("logistic", "exponential"):
            found = minimise(opponent, data, beta=beta, sft_weight=weight, loss_type=loss_type)
            assert found.gap < 1e-14 * found.objective


def test_a_large_weight_is_sft_and_a_tiny_one_is_spin():
    data, opponent = DATA, START
    assert tv(minimise(opponent, data, beta=0.5, sft_weight=1e9).policy, data).max() < 1e-8
    plain = minimise(opponent, data, beta=0.5).policy
    assert tv(minimise(opponent, data, beta=0.5, sft_weight=1e-13).policy, plain).max() < 1e-9


def test_the_data_stay_the_fixed_point_of_spin_and_draw_that_of_tspin_nearer():
    for beta in (0.1, 1.0, 5.0):
        found = fixed_point(START, DATA, beta=beta, sft_weight=0.3)
        assert tv(found, DATA).max() < 1e-12
        distances = [
            float(
                tv(
                    fixed_point(
                        START,
                        DATA,
                        beta=beta,
                        opponent=without_reference,
                        history_weight=0.1,
                        sft_weight=weight,
                    ),
                    DATA,
                )
            )
            for weight in (0.0, 0.1, 1.0, 10.0)
        ]
        assert distances == sorted(distances, reverse=True)
        assert 0 < distances[-1] < distances[0] / 2


@pytest.mark.parametrize("opponent", [None, without_reference])
def test_the_linearised_iteration_is_that_of_differences(opponent):
    data, at = (TabularPolicy.random(1, 4, seed=seed, smallest=0.1) for seed in (0, 1))
    rules = {"beta": 0.4, "sft_weight": 0.2, "history_weight": 0.0}
    if opponent is not None:
        rules |= {"opponent": opponent}
    matrix = linearise([at, at], data, **rules).matrix

    def after(log_probs):
        policy = TabularPolicy.from_logits(log_probs[None])
        game = play(policy, data, iterations=1, solver=minimiser, **rules)
        moved = game.policies[1].log_probs[0]
        return moved - moved.mean()

    step = 1e-5
    eye = torch.eye(4, dtype=torch.float64)
    columns = [
        (after(at.log_probs[0] + step * e) - after(at.log_probs[0] - step * e)) / (2 * step)
        for e in eye
    ]
    torch.testing.assert_close(torch.stack(columns, dim=1), matrix, rtol=0, atol=1e-8)


def test_many_steps_reach_the_minimiser_and_sampled_pairs_come_near():
    data, opponent = (TabularPolicy.random(1, 4, seed=seed, smallest=0.1) for seed in (0, 1))
    problem = InnerProblem(
        data=data, sampler=opponent, reference=opponent, beta=0.5, sft_weight=0.2
    )
    right = minimiser(problem)
    generator = torch.Generator().manual_seed(0)
    steps = GradientSteps(2000, learning_rate=1.0)
    assert tv(steps(problem, start=opponent, generator=generator), right).max() < 1e-10
    for solver, near in (
        (GradientSteps(300, learning_rate=1.0, pairs=100_000), 0.02),
        (SampledMinimiser(pairs=100_000), 0.02),
    ):
        assert tv(solver(problem, start=opponent, generator=generator), right).max() < near


def test_a_sample_without_a_response_has_no_minimum_and_ends_the_game():
    data = TabularPolicy.from_probs([[1e-9, 1 - 1e-9]])
    game = play(
        data, data, beta=1.0, iterations=2, solver=SampledMinimiser(pairs=20), sft_weight=0.1
    )
    assert len(game.policies) == 1
    assert "have no minimum" in game.stopped


def test_closed_forms_know_what_they_do_not_solve():
    problem = InnerProblem(data=DATA, sampler=START, reference=START, beta=1.0, sft_weight=0.1)
    with pytest.raises(ValueError, match="sft_weight > 0 has no closed form"):
        exact(problem)
    with pytest.raises(ValueError, match="hinge has no search with an SFT term"):
        minimise(START, DATA, beta=1.0, loss_type="hinge", sft_weight=0.1)
    with pytest.raises(ValueError, match="sft_weight must be finite and >= 0"):
        minimise(START, DATA, beta=1.0, sft_weight=-0.1)
    with pytest.raises(ValueError, match="has a kink"):
        sft_multiplier(beta=1.0, sft_weight=0.1, loss_type="hinge")


def test_a_correlation_game_that_leaves_the_simplex_keeps_its_iterates():
    start, data = (TabularPolicy.from_probs([[p, 1 - p]]) for p in (0.6, 0.7))
    game = play(start, data, beta=1.0, iterations=9, loss_type="correlation", sft_weight=0.6)
    # 0.7 - (1/0.6)^t (-1)^t 0.1 leaves (0, 1) at t = 3
    assert [round(float(p.probs[0, 0]), 4) for p in game.policies] == [0.6, 0.8667, 0.4222]
    assert "no minimum with sft_weight 0.6" in game.stopped


def test_the_phase_diagram_takes_an_sft_weight():
    rules = {"betas": [0.1], "inner_steps": [3, None], "games": 8, "iterations": 6}
    plain, steady = phase_diagram(**rules), phase_diagram(**rules, sft_weight=0.2)
    assert plain.diverged[0, 1] == 1
    assert steady.diverged[0, 1] == 0
    assert steady.change[0, 0] < plain.change[0, 0]
    assert steady.stable[0].tolist() == [1.0, 1.0]
