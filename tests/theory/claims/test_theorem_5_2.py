import math

import pytest
import torch
from hypothesis import assume, example, given

from spin_theory import TabularPolicy, check_theorem_5_2, closed_form_update, spin_objective, tv
from spin_theory.claims.instances import random_instance
from spin_theory.claims.theorem_5_2 import CLAIMS
from spin_theory.claims.witnesses import objective_drop_at_data
from tests.strategies import BETAS, LOSS_TYPES, log_policies

NEARLY_EQUAL = (
    TabularPolicy.from_probs([[0.5, 0.5]]),
    TabularPolicy.from_probs([[0.5 + 1e-11, 0.5 - 1e-11]]),
)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@given(policies=log_policies(count=1), beta=BETAS)
def test_theorem_5_2_sufficiency(loss_type, policies, beta):
    (data,) = policies
    evidence = check_theorem_5_2(data, data, loss_type=loss_type, betas=(beta, 1e-3, 1e3))
    assert evidence.case == "sufficiency"
    assert evidence.betas == (beta, 1e-3, 1e3)
    assert evidence.witness is None
    assert evidence.holds, evidence


@example(policies=NEARLY_EQUAL).via("the objectives differ by 1e-22, below their rounding")
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@given(policies=log_policies(count=2, min_responses=2))
def test_theorem_5_2_necessity(loss_type, policies):
    data, opponent = policies
    assume(tv(data, opponent).max() > 1e-12)
    evidence = check_theorem_5_2(data, opponent, loss_type=loss_type)
    assert evidence.case == "necessity"
    assert evidence.holds, evidence
    assert evidence.drop > 0
    at_data = spin_objective(data, opponent, data, beta=evidence.witness, loss_type=loss_type)
    assert at_data.item() == evidence.best_objective
    assert evidence.gradient_norm > 0  # theta_t is not even stationary


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@given(policies=log_policies(count=2), beta=BETAS)
def test_the_drop_is_the_difference_of_the_objectives(loss_type, policies, beta):
    data, opponent = policies
    assume(loss_type != "exponential" or beta <= 2)  # else exp(27 * beta) swamps the difference
    start, at_data = (
        spin_objective(policy, opponent, data, beta=beta, loss_type=loss_type)
        for policy in (opponent, data)
    )
    drop = objective_drop_at_data(opponent, data, beta=beta, loss_type=loss_type)
    size = 1 + at_data.abs().item()
    assert drop.item() == pytest.approx((start - at_data).item(), rel=1e-11, abs=1e-13 * size)


@pytest.mark.parametrize(
    ("loss_type", "factor"),
    # |l'(0)| beta J - l''(0) beta^2 V / 2 at beta = 1/2, with J = sum (p - q) log(p/q) = 4 d^2
    # and V = E (s - s')^2 = 8 d^2
    [("logistic", 1 - 1 / 4), ("hinge", 2), ("exponential", 2 - 1), ("correlation", 2)],
)
def test_a_drop_below_the_objectives_rounding_keeps_its_digits(loss_type, factor):
    shift = 1e-9
    data = TabularPolicy.from_probs([[0.5 + shift, 0.5 - shift]])
    opponent = TabularPolicy.from_probs([[0.5, 0.5]])
    drop = objective_drop_at_data(opponent, data, beta=0.5, loss_type=loss_type)
    assert drop.item() == pytest.approx(factor * shift**2, rel=1e-6, abs=0)


@given(policies=log_policies(count=2, min_responses=2))
def test_the_exponential_witnesses_end_at_beta_one(policies):
    data, opponent = policies
    assume(tv(data, opponent).min() > 1e-6)
    inside, outside = (
        objective_drop_at_data(opponent, data, beta=beta, loss_type="exponential")
        for beta in (1 - 1e-6, 1 + 1e-6)
    )
    assert inside > 0
    assert outside < 0


@pytest.mark.parametrize(
    ("loss_type", "beta"), [("logistic", 1.999), ("hinge", 2.718), ("correlation", 1e6)]
)
@given(policies=log_policies(count=2, min_responses=2))
def test_logistic_witnesses_reach_beyond_two_and_hinge_ones_to_e(loss_type, beta, policies):
    data, opponent = policies
    assume(tv(data, opponent).min() > 1e-6)
    assert objective_drop_at_data(opponent, data, beta=beta, loss_type=loss_type) > 0


def test_hinge_witnesses_end_at_e_where_the_log_odds_are_one():
    data = TabularPolicy.from_logits(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    opponent = TabularPolicy.from_probs([[0.5, 0.5]])
    inside, outside = (
        objective_drop_at_data(opponent, data, beta=beta, loss_type="hinge")
        for beta in (math.e - 1e-6, math.e + 1e-6)
    )
    assert inside > 0
    assert outside < 0


def test_logistic_witnesses_end_just_above_two_for_close_policies():
    data = TabularPolicy.from_probs([[0.51, 0.49]])
    opponent = TabularPolicy.from_probs([[0.5, 0.5]])
    assert objective_drop_at_data(opponent, data, beta=2.01) < 0


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_theorem_5_2_says_no_to_an_objective_with_swapped_roles(loss_type):
    def swapped(policy, opponent, data, **problem):
        return spin_objective(policy, data, opponent, **problem)

    data, opponent = (TabularPolicy.random(2, 6, seed=seed, smallest=0.1) for seed in (0, 1))
    assert not check_theorem_5_2(data, opponent, loss_type=loss_type, objective=swapped).holds


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_theorem_5_2_says_no_to_an_objective_with_another_beta(loss_type):
    def doubled(policy, opponent, data, *, beta, **problem):
        return spin_objective(policy, opponent, data, beta=2 * beta, **problem)

    data, opponent = (TabularPolicy.random(2, 6, seed=seed, smallest=0.1) for seed in (0, 1))
    assert not check_theorem_5_2(data, opponent, loss_type=loss_type, objective=doubled).holds


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_theorem_5_2_says_no_to_an_objective_that_moves_the_data(loss_type):
    # a pull towards the uniform policy: the data are no longer stationary
    def tilted(policy, opponent, data, **problem):
        return spin_objective(policy, opponent, data, **problem) - 1e-6 * policy.log_probs.mean()

    data = TabularPolicy.random(2, 6, seed=0)
    evidence = check_theorem_5_2(data, data, loss_type=loss_type, objective=tilted)
    assert not evidence.holds
    assert evidence.gradient_norm > evidence.tolerance


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_theorem_5_2_says_no_to_a_constant_that_is_added(loss_type):
    def raised(policy, opponent, data, **problem):
        return spin_objective(policy, opponent, data, **problem) + 1e-6

    data = TabularPolicy.random(2, 6, seed=0)
    assert not check_theorem_5_2(data, data, loss_type=loss_type, objective=raised).holds


def test_bad_arguments_are_refused():
    two, three = TabularPolicy.random(1, 2, seed=0), TabularPolicy.random(1, 3, seed=0)
    with pytest.raises(ValueError, match="one shape"):
        check_theorem_5_2(two, three)
    with pytest.raises(ValueError, match="beta must be"):
        check_theorem_5_2(two, two, betas=(0.0,))
    with pytest.raises(ValueError, match="betas must hold"):
        check_theorem_5_2(two, two, betas=())
    with pytest.raises(ValueError, match="loss_type must be"):
        check_theorem_5_2(two, two, loss_type="square")
    with pytest.raises(ValueError, match="prompt_probs must"):
        check_theorem_5_2(two, two, prompt_probs=torch.ones(2))


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_each_claim_is_about_the_case_in_its_name(claim):
    draw = random_instance(0)
    for name, case in claim.cases.items():
        evidence = case(draw, closed_form_update).evidence
        assert f"5.2 {evidence.case}, {evidence.loss_type}" == name
        if evidence.case == "sufficiency":
            assert evidence.betas == (draw.beta,)


def constant(policy, opponent, data, *, beta, loss_type="logistic", prompt_probs=None):
    return math.log(2) + 0 * policy.log_probs.sum()


@pytest.mark.parametrize("shift", [1.0, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12])
def test_a_constant_objective_is_rejected_however_near_the_opponent_is(shift):
    half = TabularPolicy.from_probs([[0.5, 0.5]])
    near = TabularPolicy.from_logits(torch.tensor([[0.0, shift]], dtype=torch.float64))
    assert check_theorem_5_2(half, near).holds
    evidence = check_theorem_5_2(half, near, objective=constant)
    assert evidence.case == "necessity"
    assert not evidence.holds


def test_an_objective_without_a_gradient_is_rejected():
    def number(*_, **__):
        return torch.tensor(math.log(2), dtype=torch.float64)

    data, opponent = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    assert not check_theorem_5_2(data, opponent, objective=number).holds
