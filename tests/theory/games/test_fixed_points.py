import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_theory import (
    InnerProblem,
    TabularPolicy,
    cycle_length,
    fixed_point,
    geometric_mixture,
    linearise,
    minimiser,
    play,
    tv,
    without_reference,
)
from tests.strategies import BETAS, at_most, log_probs

START, DATA = (TabularPolicy.random(1, 5, seed=seed, smallest=0.05) for seed in (0, 1))


@st.composite
def data_tables(draw):
    """p_data of one prompt, where the linearised map is well conditioned."""
    responses = draw(st.integers(2, 5))
    return TabularPolicy(draw(log_probs(prompts=1, responses=responses, smallest=math.log(1e-4))))


@given(data=data_tables(), alpha=BETAS)
def test_tspin_without_history_rests_at_a_power_of_the_data(data, alpha):
    start = TabularPolicy.from_logits(torch.zeros_like(data.log_probs))
    damping = alpha / (1 + alpha)  # 1 - damping - damping/alpha = 0: one step
    rest = fixed_point(start, data, beta=alpha, opponent=without_reference, damping=damping)
    expected = TabularPolicy.from_logits(data.log_probs / (1 + alpha))
    assert tv(rest, expected).max() <= 1e-12


@at_most(15)
@given(data=data_tables(), weight=st.floats(0.05, 1.0))
def test_a_fixed_point_is_left_as_it_is(data, weight):
    start = TabularPolicy.from_logits(torch.zeros_like(data.log_probs))
    arguments = {"beta": 1.0, "opponent": without_reference, "history_weight": weight}
    rest = fixed_point(start, data, tolerance=1e-12, **arguments)
    game = play(
        start,
        data,
        iterations=1,
        solver=minimiser,
        beta=1.0,
        opponent=lambda _: without_reference([rest]),
        history_weight=weight,
    )
    assert tv(game.policies[1], rest).max() <= 1e-11


def test_spin_rests_at_the_data_and_nowhere_else():
    rest = fixed_point(START, DATA, beta=2.0)
    assert tv(rest, DATA).max() <= 1e-13


@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
@pytest.mark.parametrize("beta", [1e-3, 0.01, 0.1, 0.2, 1.0, 5.0, 1e3, 1e6])
def test_spin_rests_at_the_data_at_every_beta(beta, loss_type):
    rest = fixed_point(START, DATA, beta=beta, loss_type=loss_type)
    assert tv(rest, DATA).max() <= 1e-13


@pytest.mark.parametrize("alpha", [0.01, 0.1, 1.0, 10.0, 1e3])
def test_tspin_without_history_rests_at_a_power_of_the_data_at_every_alpha(alpha):
    rest = fixed_point(START, DATA, beta=alpha, opponent=without_reference)
    assert tv(rest, TabularPolicy.from_logits(DATA.log_probs / (1 + alpha))).max() <= 1e-12


@pytest.mark.parametrize("beta", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("weight", [0.1, 0.9])
def test_the_geometric_mixture_rests_at_its_limit_at_every_beta(beta, weight):
    # the limit is c = m w / (1 - m (1 - w)), and steps of 1/(1 - m) overshoot: they are halved
    m = 1 - 1 / beta
    rule = partial(geometric_mixture, base_weight=weight)
    rest = fixed_point(START, DATA, beta=beta, opponent=rule)
    power = m * weight / (1 - m * (1 - weight))
    expected = TabularPolicy.from_logits(
        DATA.log_probs + power * (START.log_probs - DATA.log_probs)
    )
    assert tv(rest, expected).max() <= 1e-11


def test_a_stable_fixed_point_says_nothing_about_a_far_start():
    start = TabularPolicy.from_probs([[0.001, 0.998, 0.001]])
    data = TabularPolicy.from_probs([[0.82, 0.12, 0.06]])
    rules = {"beta": 0.7, "opponent": without_reference, "history_weight": 1.0}
    rest = fixed_point(start, data, **rules)
    assert linearise([start, rest], data, **rules).spectral_radius == pytest.approx(0.809, abs=1e-3)
    game = play(start, data, iterations=200, solver=minimiser, **rules)
    assert cycle_length(game.policies) == 2
    ends = sorted(float(tv(policy, rest)) for policy in game.policies[-2:])
    assert ends == pytest.approx([0.24, 0.78], abs=0.01)


def test_a_fixed_point_out_of_reach_is_refused(monkeypatch):
    monkeypatch.setattr("spin_theory.games.fixed_points.MOST_ITERATIONS", 2)
    with pytest.raises(ValueError, match="no fixed point within 2 steps: the last one moved by"):
        fixed_point(START, DATA, beta=4.0, damping=0.5)
    for damping in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="damping must be in"):
            fixed_point(START, DATA, beta=1.0, damping=damping)


@pytest.mark.parametrize("damping", [None, 0.1])
@pytest.mark.parametrize("weight", [7.0, 10.0])
def test_a_long_way_on_which_steps_grow_first_is_gone(weight, damping):
    start = TabularPolicy.from_logits(torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64))
    uniform = TabularPolicy.from_probs([[1 / 3] * 3])
    found = fixed_point(
        start,
        uniform,
        beta=1.0,
        opponent=without_reference,
        history_weight=weight,
        damping=damping,
    )
    problem = InnerProblem(
        data=uniform,
        sampler=found,
        reference=None,
        beta=1.0,
        initial=start,
        history_weight=weight,
    )
    assert tv(minimiser(problem), found).max() <= 1e-12
