import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_theory import TabularPolicy, spin_objective
from spin_theory.claims.first_step import check_first_step_is_sft
from spin_theory.objectives.pair_sums import expected_penalty
from tests.strategies import LOSS_TYPES

WIDE_BETAS = st.floats(math.log(1e-3), math.log(1e3)).map(math.exp)


def table_class(theta):
    return torch.log_softmax(theta.reshape(2, 3), dim=-1)


def log_linear_class(theta):
    features = torch.linspace(-2.0, 3.0, 2 * 3 * 6, dtype=torch.float64).sin().reshape(2, 3, 6)
    return torch.log_softmax(features @ theta, dim=-1)


def network(theta):
    inputs = torch.linspace(-1.0, 1.0, 2 * 3 * 3, dtype=torch.float64).cos().reshape(2, 3, 3)
    # Between -1 and 1: where a network saturates scores vanish, and their rounding does not.
    first, last = torch.tanh(theta / 20).split(3)
    hidden = torch.tanh(inputs @ first)
    return torch.log_softmax(last[0] * hidden + last[1] * hidden**2 + last[2] * inputs[..., 0], -1)


CLASSES = [table_class, log_linear_class, network]
PARAMETERS = st.lists(st.floats(-20.0, 20.0), min_size=6, max_size=6).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


@st.composite
def data_tables(draw):
    cells = st.floats(math.log(1e-12), 0.0)
    rows = draw(st.lists(st.lists(cells, min_size=3, max_size=3), min_size=2, max_size=2))
    return TabularPolicy.from_logits(torch.tensor(rows, dtype=torch.float64))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("log_probs", CLASSES)
@given(theta=PARAMETERS, data=data_tables(), beta=WIDE_BETAS, weight=st.floats(0.0, 1.0))
def test_the_first_step_is_sft_in_any_class(log_probs, loss_type, theta, data, beta, weight):
    evidence = check_first_step_is_sft(
        log_probs,
        theta,
        data,
        beta=beta,
        loss_type=loss_type,
        prompt_probs=torch.tensor([weight, 1 - weight], dtype=torch.float64),
    )
    assert evidence.holds, evidence


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_the_first_step_of_one_response_is_no_step(loss_type):
    # gradient, sft and all scores are 0: the relative error was 0/0, and the check said no
    def only_response(theta):
        return torch.log_softmax(theta[None], dim=-1)

    data, theta = TabularPolicy.from_probs([[1.0]]), torch.ones(1, dtype=torch.float64)
    evidence = check_first_step_is_sft(only_response, theta, data, beta=1.0, loss_type=loss_type)
    assert evidence.holds
    assert evidence.numbers["gradient_norm"] == 0


def test_the_learning_rate_is_scaled_by_beta_and_the_slope():
    data, theta = TabularPolicy.random(2, 3, seed=0), torch.ones(6, dtype=torch.float64)
    evidence = check_first_step_is_sft(table_class, theta, data, beta=0.3)
    assert evidence.numbers["learning_rate_scale"] == pytest.approx(0.3 / 2, rel=1e-15)


def swapped_roles(policy, opponent, data, **problem):
    return spin_objective(policy, data, opponent, **problem)


def other_beta(policy, opponent, data, *, beta, **problem):
    return spin_objective(policy, opponent, data, beta=beta * (1 + 1e-6), **problem)


def opposite(policy, opponent, data, **problem):
    return -spin_objective(policy, opponent, data, **problem)


def tilted(policy, opponent, data, **problem):
    return spin_objective(policy, opponent, data, **problem) + 1e-6 * policy.log_probs[0, 0]


def at_another_temperature(policy, opponent, data, *, beta, loss_type, prompt_probs):
    # y' from p_t^0.9: the opponent's score has mean zero under its own samples only
    scores = beta * (policy.log_probs - opponent.log_probs)
    colder = torch.log_softmax(0.9 * opponent.log_probs, dim=-1)
    return expected_penalty(scores, data.log_probs, colder, loss_type=loss_type).mean()


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize(
    "objective", [swapped_roles, other_beta, opposite, tilted, at_another_temperature]
)
def test_the_first_step_says_no_to_a_wrong_objective(objective, loss_type, monkeypatch):
    monkeypatch.setattr("spin_theory.claims.first_step.spin_objective", objective)
    data, theta = TabularPolicy.random(2, 3, seed=0), torch.arange(6, dtype=torch.float64) / 3
    evidence = check_first_step_is_sft(table_class, theta, data, beta=0.7, loss_type=loss_type)
    assert not evidence.holds


def test_the_first_step_says_no_to_a_wrong_slope(monkeypatch):
    monkeypatch.setattr("spin_theory.claims.first_step.penalty_slope", lambda _: -1.0)
    data, theta = TabularPolicy.random(2, 3, seed=0), torch.ones(6, dtype=torch.float64)
    assert not check_first_step_is_sft(table_class, theta, data, beta=1.0).holds
    assert check_first_step_is_sft(table_class, theta, data, beta=1.0, loss_type="hinge").holds


def test_bad_arguments_are_refused():
    three = TabularPolicy.random(1, 3, seed=0)
    theta = torch.zeros(6, dtype=torch.float64)
    with pytest.raises(ValueError, match="beta must be finite"):
        check_first_step_is_sft(table_class, theta, three, beta=math.nan)
    with pytest.raises(ValueError, match="one shape"):
        check_first_step_is_sft(table_class, theta, three, beta=1.0)
    with pytest.raises(ValueError, match="loss_type must be"):
        check_first_step_is_sft(
            table_class, theta, TabularPolicy.random(2, 3, seed=0), beta=1.0, loss_type="square"
        )
    with pytest.raises(ValueError, match="sum to one"):
        check_first_step_is_sft(lambda theta: theta.reshape(2, 3), theta, three, beta=1.0)
