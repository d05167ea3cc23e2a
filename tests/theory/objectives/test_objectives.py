import math

import pytest
import torch
from hypothesis import given
from scipy.optimize import linprog
from torch.autograd import gradcheck

from spin_theory import (
    TabularPolicy,
    bhattacharyya,
    closed_form_update,
    optimal_value,
    optimality_gap,
    spin_loss,
    spin_objective,
    tspin_loss,
    tspin_objective,
)
from spin_theory.minima.hinge import hinge_minimum
from tests.strategies import BETAS, LOSS_TYPES, log_policies

ROUNDING = 1e-13  # relative; sums of up to 36 products whose margins reach 600


def dense_spin(policy, opponent, data, *, beta, loss_type):
    """Average over prompts of the pair loss, weighted pair by pair: (4.7) read literally."""
    prompts, responses = policy.log_probs.shape
    total = 0.0
    for x in range(prompts):
        for y in range(responses):
            for generated in range(responses):
                loss = spin_loss(
                    policy_real_logps=policy.log_probs[x, y],
                    policy_generated_logps=policy.log_probs[x, generated],
                    opponent_real_logps=opponent.log_probs[x, y],
                    opponent_generated_logps=opponent.log_probs[x, generated],
                    beta=beta,
                    loss_type=loss_type,
                )
                total += data.probs[x, y] * opponent.probs[x, generated] * loss / prompts
    return total


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@given(policies=log_policies(count=3, max_prompts=2, max_responses=3), beta=BETAS)
def test_spin_objective_is_the_expected_pair_loss(loss_type, policies, beta):
    policy, opponent, data = policies
    value = spin_objective(policy, opponent, data, beta=beta, loss_type=loss_type)
    expected = dense_spin(policy, opponent, data, beta=beta, loss_type=loss_type)
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12)


def test_spin_objective_by_hand():
    # correlation: 1 - beta * sum_y (p_data - p_t)(y) log_ratio(y)
    data = TabularPolicy.from_probs([[0.75, 0.25]])
    opponent = TabularPolicy.from_probs([[0.5, 0.5]])
    policy = TabularPolicy.from_probs([[0.8, 0.2]])
    expected = 1 - 2.0 * 0.25 * math.log(0.8 / 0.2)
    value = spin_objective(policy, opponent, data, beta=2.0, loss_type="correlation")
    assert value.item() == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@given(policies=log_policies(count=4, max_prompts=1, max_responses=3), beta=BETAS)
def test_tspin_objective_is_the_expected_triplet_loss(loss_type, policies, beta):
    policy, opponent, initial, data = policies
    responses = policy.log_probs.shape[1]
    expected = torch.tensor(0.0, dtype=torch.float64)
    for y in range(responses):
        for generated in range(responses):
            for proto in range(responses):
                weight = data.probs[0, y] * opponent.probs[0, generated] * initial.probs[0, proto]
                expected += weight * tspin_loss(
                    policy_real_logps=policy.log_probs[0, y],
                    policy_generated_logps=policy.log_probs[0, generated],
                    policy_proto_logps=policy.log_probs[0, proto],
                    beta=beta,
                    history_weight=0.3,
                    loss_type=loss_type,
                )
    value = tspin_objective(
        policy, opponent, initial, data, beta=beta, history_weight=0.3, loss_type=loss_type
    )
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_objectives_are_differentiable_in_the_logits(loss_type):
    opponent, initial, data = (TabularPolicy.random(2, 3, seed=s, smallest=0.1) for s in range(3))
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def spin(logits):
        policy = TabularPolicy.from_logits(logits)
        return spin_objective(policy, opponent, data, beta=0.7, loss_type=loss_type)

    def tspin(logits):
        policy = TabularPolicy.from_logits(logits)
        return tspin_objective(
            policy, opponent, initial, data, beta=0.7, history_weight=0.4, loss_type=loss_type
        )

    assert gradcheck(spin, logits.requires_grad_())
    assert gradcheck(tspin, logits)


@given(policies=log_policies(count=2), beta=BETAS)
def test_the_gradient_at_the_opponent_points_at_the_data(policies, beta):
    # beta l'(0) (p_data - p_t), in the logits: SPIN's first step is SFT's, scaled
    opponent, data = policies
    for loss_type, slope in (("logistic", -0.5), ("exponential", -1.0), ("correlation", -1.0)):
        logits = opponent.log_probs.clone().requires_grad_()
        policy = TabularPolicy.from_logits(logits)
        value = spin_objective(policy, opponent, data, beta=beta, loss_type=loss_type)
        (gradient,) = torch.autograd.grad(value, logits)
        expected = beta * slope * (data.probs - opponent.probs) / len(logits)
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)


def test_prompts_are_averaged_with_their_probabilities():
    policy, opponent, data = (TabularPolicy.random(2, 4, seed=seed) for seed in range(3))

    def of_prompt(x):
        tables = (TabularPolicy(p.log_probs[x : x + 1]) for p in (policy, opponent, data))
        return spin_objective(*tables, beta=0.5)

    weights = torch.tensor([0.2, 0.8], dtype=torch.float64)
    value = spin_objective(policy, opponent, data, beta=0.5, prompt_probs=weights)
    torch.testing.assert_close(value, 0.2 * of_prompt(0) + 0.8 * of_prompt(1))


def test_the_exponential_objective_survives_margins_that_overflow_pair_by_pair():
    # p_data(y) exp(-f(y)) = exp(-800 + 800): the pair's loss alone is infinite
    table = torch.tensor([[0.0, -800.0]], dtype=torch.float64)
    data, opponent = TabularPolicy.from_logits(table), TabularPolicy.from_probs([[0.5, 0.5]])
    policy = TabularPolicy.from_logits(table)
    value = spin_objective(policy, opponent, data, beta=1.0, loss_type="exponential")
    assert value.item() == pytest.approx(1.0)  # (1 + 1)(1/2 + 1/2 exp(-800))


@pytest.mark.parametrize("loss_type", ["logistic", "hinge", "exponential"])
@given(policies=log_policies(count=3), beta=BETAS)
def test_no_policy_goes_below_the_optimal_value(loss_type, policies, beta):
    policy, opponent, data = policies
    value = spin_objective(policy, opponent, data, beta=beta, loss_type=loss_type)
    bound = optimal_value(opponent, data, loss_type=loss_type)
    assert value >= bound * (1 - ROUNDING)


@given(policies=log_policies(count=2), beta=BETAS)
def test_the_logistic_optimal_value_is_log_2_minus_js_of_the_pairs(policies, beta):
    opponent, data = policies
    pairs = data.probs[:, :, None] * opponent.probs[:, None, :]  # P; Q is its transpose
    middle = (pairs + pairs.mT) / 2
    divergence = (pairs * (pairs / middle).log()).sum(dim=(1, 2))  # KL(P || M) = KL(Q || M)
    expected = math.log(2) - divergence.mean()
    torch.testing.assert_close(optimal_value(opponent, data), expected, rtol=1e-11, atol=1e-13)


@given(policies=log_policies(count=2, max_prompts=1, max_responses=5))
def test_the_hinge_minimum_is_that_of_the_linear_programme(policies):
    data, opponent = policies
    values, advantages = hinge_minimum(data, opponent)
    weights = (data.probs[0][:, None] * opponent.probs[0]).numpy()
    responses = len(weights)
    # minimise sum P_ij slack_ij with slack_ij >= 0 and slack_ij + f_i - f_j >= 1
    rows, bounds = [], []
    for i in range(responses):
        for j in range(responses):
            row = [0.0] * (responses + responses**2)
            row[i] -= 1.0
            row[j] += 1.0
            row[responses + i * responses + j] = -1.0
            rows.append(row)
            bounds.append(-1.0)
    result = linprog(
        [0.0] * responses + list(weights.ravel()),
        A_ub=rows,
        b_ub=bounds,
        bounds=[(None, None)] * responses + [(0, None)] * responses**2,
    )
    assert values.item() == pytest.approx(result.fun, abs=1e-6)  # HiGHS' own tolerance
    order = (data.log_probs - opponent.log_probs)[0].argsort(stable=True)
    assert (advantages[0, order].diff() >= 0).all()


@given(policies=log_policies(count=2))
def test_the_hinge_minimum_is_above_the_cheap_bound_and_tight_for_two_responses(policies):
    data, opponent = policies
    values, _ = hinge_minimum(data, opponent)
    pairs = data.probs[:, :, None] * opponent.probs[:, None, :]
    cheap = 1 - (pairs - pairs.mT).abs().sum(dim=(1, 2)) / 2
    assert (values >= cheap - 1e-14).all()
    if data.log_probs.shape[1] == 2:
        torch.testing.assert_close(values, cheap, rtol=1e-9, atol=1e-14)


def test_the_exponential_optimal_value_is_the_squared_overlap():
    opponent, data = TabularPolicy.random(1, 5, seed=0), TabularPolicy.random(1, 5, seed=1)
    value = optimal_value(opponent, data, loss_type="exponential")
    torch.testing.assert_close(value, bhattacharyya(data, opponent)[0] ** 2)


def test_the_correlation_objective_has_no_lower_bound_unless_the_opponent_is_the_data():
    opponent, data = TabularPolicy.random(1, 5, seed=0), TabularPolicy.random(1, 5, seed=1)
    assert optimal_value(opponent, data, loss_type="correlation").item() == -math.inf
    assert optimal_value(data, data, loss_type="correlation").item() == 1.0
    last_bit = TabularPolicy(data.log_probs * (1 + 1e-15))  # what rests is normalised again
    assert optimal_value(last_bit, data, loss_type="correlation").item() == 1.0


@pytest.mark.parametrize("loss_type", ["logistic", "exponential", "hinge"])
@given(policies=log_policies(count=3), beta=BETAS)
def test_the_gap_is_objective_minus_optimal_value(loss_type, policies, beta):
    policy, opponent, data = policies
    problem = {"beta": beta, "loss_type": loss_type}
    value = spin_objective(policy, opponent, data, **problem)
    gap = optimality_gap(policy, opponent, data, **problem)
    least = optimal_value(opponent, data, loss_type=loss_type)
    torch.testing.assert_close(gap, value - least, rtol=1e-9, atol=1e-13 * (1 + value.item()))


@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
def test_a_gap_below_rounding_keeps_its_digits(loss_type):
    # the gap is quadratic near the minimum: a hundredth of the way costs a ten-thousandth
    opponent, data = (TabularPolicy.random(1, 6, seed=seed, smallest=0.01) for seed in (0, 1))
    best = closed_form_update(opponent, data, beta=1.0, loss_type=loss_type).log_probs
    direction = torch.randn(1, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gaps = [
        optimality_gap(
            TabularPolicy.from_logits(best + size * direction),
            opponent,
            data,
            beta=1.0,
            loss_type=loss_type,
        ).item()
        for size in (1e-7, 1e-9)
    ]
    assert gaps[1] < 1e-16
    assert gaps[0] / gaps[1] == pytest.approx(1e4, rel=1e-4)


def test_bad_arguments_are_refused():
    two, three = TabularPolicy.random(1, 2, seed=0), TabularPolicy.random(1, 3, seed=0)
    with pytest.raises(ValueError, match=r"data \(1, 3\)"):
        spin_objective(two, two, three, beta=1.0)
    with pytest.raises(ValueError, match="beta must be"):
        spin_objective(two, two, two, beta=0.0)
    with pytest.raises(ValueError, match="loss_type must be"):
        spin_objective(two, two, two, beta=1.0, loss_type="square")
    with pytest.raises(ValueError, match="prompt_probs must"):
        spin_objective(two, two, two, beta=1.0, prompt_probs=torch.ones(2))
    with pytest.raises(ValueError, match="history_weight must be"):
        tspin_objective(two, two, two, two, beta=1.0, history_weight=-1.0)
