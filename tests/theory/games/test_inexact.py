import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_theory import GradientSteps, TabularPolicy, linearise, multiplier, play, tv
from spin_theory.games.inexact import (
    descent_limit,
    fisher_eigenvalues,
    fisher_matrix,
    inexact_multiplier,
)
from tests.strategies import BETAS, LOSS_TYPES, at_most

DATA = TabularPolicy.random(1, 5, seed=1, smallest=0.05)


def by_recurrence(mu, *, beta, steps, rate, momentum, slope, curvature):
    """One eigenvector, step by step: the gradient of the objective to first order, written out.

    The policy is at log-ratio x, the opponent at 1; the scores are beta (x - 1).
    """
    policy, velocity = 1.0, 0.0
    for _ in range(steps):
        gradient = beta * mu * (slope + 2 * curvature * beta * (policy - 1))
        velocity = momentum * velocity + gradient
        policy -= rate * velocity
    return policy


@pytest.mark.parametrize(
    ("loss_type", "slope", "curvature"),
    # logistic: l' = -s(-t), l'' = s(t) s(-t), at t = 0: 1/2, 1/4
    [("logistic", 0.5, 0.25), ("hinge", 1, 0), ("exponential", 1, 1), ("correlation", 1, 0)],
)
@at_most(50)
@given(
    mu=st.floats(1e-3, 0.5),
    beta=BETAS,
    steps=st.integers(0, 20),
    rate=st.floats(1e-3, 1.0),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
)
def test_the_law_is_the_steps_of_one_eigenvector(
    loss_type, slope, curvature, mu, beta, steps, rate, momentum
):
    found = inexact_multiplier(
        torch.tensor([mu], dtype=torch.float64),
        beta=beta,
        steps=steps,
        learning_rate=rate,
        momentum=momentum,
        loss_type=loss_type,
    )
    expected = by_recurrence(
        mu,
        beta=beta,
        steps=steps,
        rate=rate,
        momentum=momentum,
        slope=slope,
        curvature=curvature,
    )
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
@given(beta=BETAS)
def test_no_number_of_steps_is_the_exact_multiplier_and_many_come_near(loss_type, beta):
    half = torch.tensor([0.5], dtype=torch.float64)
    exactly = inexact_multiplier(half, beta=beta, steps=None, loss_type=loss_type)
    assert exactly.item() == pytest.approx(multiplier(beta=beta, loss_type=loss_type))
    many = inexact_multiplier(
        half, beta=beta, steps=10_000, learning_rate=0.1 / beta**2, loss_type=loss_type
    )
    assert many.item() == pytest.approx(exactly.item())


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("optimiser", ["gd", "momentum"])
def test_the_law_is_the_spectrum_of_the_steps_differentiated(loss_type, optimiser):
    solver = GradientSteps(6, 0.4, optimiser, momentum=0.3)
    found = linearise([DATA, DATA], DATA, beta=1.7, loss_type=loss_type, solver=solver)
    law = inexact_multiplier(
        fisher_eigenvalues(DATA)[0],
        beta=1.7,
        steps=6,
        learning_rate=0.4,
        momentum=0.3 if optimiser == "momentum" else 0.0,
        loss_type=loss_type,
    )
    expected = sorted([0.0, *law.tolist()])  # constants are projected out: 0
    assert sorted(found.multipliers.real.tolist()) == pytest.approx(expected, abs=1e-12)
    assert found.multipliers.imag.abs().max() <= 1e-12


def test_the_eigenvalues_are_those_of_diag_p_minus_p_p():
    probs = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    policy = TabularPolicy(probs.log()[None])
    written = [[0.25, -0.15, -0.1], [-0.15, 0.21, -0.06], [-0.1, -0.06, 0.16]]
    matrix = torch.tensor(written, dtype=torch.float64)
    torch.testing.assert_close(fisher_matrix(policy)[0], matrix, rtol=0, atol=1e-15)
    # trace 0.62, and the sum of 2 x 2 minors: 0.03 + 0.03 + 0.03
    one, two = fisher_eigenvalues(policy)[0].tolist()
    assert one + two == pytest.approx(0.62)
    assert one * two == pytest.approx(0.09)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
def test_descent_is_stable_up_to_its_limit(loss_type, momentum):
    mu = fisher_eigenvalues(DATA)[0, -1:]
    limit = descent_limit(mu, learning_rate=0.7, momentum=momentum, loss_type=loss_type)
    for share, stable in ((0.98, True), (1.02, False)):
        found = inexact_multiplier(
            mu,
            beta=float(limit) * share,
            steps=400,
            learning_rate=0.7,
            momentum=momentum,
            loss_type=loss_type,
        )
        assert (abs(found.item()) < 1) == stable


@pytest.mark.parametrize(("share", "settles"), [(0.97, True), (1.03, False)])
def test_games_settle_at_the_data_below_descents_limit_and_off_them_above(share, settles):
    # a larger beta is less stable at one rate, against Remark 5.5
    limit = descent_limit(fisher_eigenvalues(DATA)[0, -1], learning_rate=1.0).item()
    start = TabularPolicy.from_logits(DATA.log_probs + 0.1 * torch.arange(5.0).double())
    game = play(start, DATA, beta=share * limit, iterations=300, solver=GradientSteps(30, 1.0))
    assert (float(game.tv[-1]) < 1e-10) == settles
    assert settles or float(game.tv[-20:].min()) > 0.01


def test_a_hinge_game_of_few_steps_is_stable_where_the_exact_one_is_not():
    # 1 - k eta beta mu in (-1, 1): k eta beta < 2 / mu, and mu <= 1/2
    start = TabularPolicy.from_logits(DATA.log_probs + 0.05 * torch.arange(5.0).double())
    solver = GradientSteps(3, 0.5)
    game = play(start, DATA, beta=1.0, iterations=400, loss_type="hinge", solver=solver)
    assert game.tv[-1] <= 1e-10
    assert tv(game.policies[0], DATA) > 1e-2


def test_bad_arguments_are_refused():
    mu = torch.tensor([0.5], dtype=torch.float64)
    refused = {
        "beta must be finite": {"beta": 0.0},
        "steps must be >= 0, got -1": {"steps": -1},
        "learning_rate must be finite": {"learning_rate": math.inf},
        "momentum must be in": {"momentum": 1.0},
        "loss_type must be one of": {"loss_type": "square"},
        "steps must be given for loss_type hinge": {"steps": None, "loss_type": "hinge"},
    }
    for message, parts in refused.items():
        with pytest.raises(ValueError, match=message):
            inexact_multiplier(mu, **({"beta": 1.0, "steps": 1} | parts))
    with pytest.raises(ValueError, match="learning_rate must be"):
        descent_limit(mu, learning_rate=0.0)
