import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_theory import InnerProblem, TabularPolicy, spin_objective, tspin_objective, tv
from spin_theory.losses import penalty_named
from spin_theory.objectives.pair_sums import dense_expected_penalty
from tests.strategies import BETAS, LOSS_TYPES, log_policies

HISTORY_WEIGHTS = st.one_of(st.just(0.0), st.floats(1e-3, 10.0))
TOLERANCE = 1e-12  # relative: rounding of two orders of summation


def row_of(policy, prompt):
    return TabularPolicy(policy.log_probs[prompt : prompt + 1])


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@given(policies=log_policies(count=3), beta=BETAS)
def test_spin_is_the_problem_whose_opponent_generates_and_divides(loss_type, policies, beta):
    policy, opponent, data = policies
    problem = InnerProblem(
        data=data, sampler=opponent, reference=opponent, beta=beta, loss_type=loss_type
    )
    expected = [
        spin_objective(*(row_of(table, x) for table in policies), beta=beta, loss_type=loss_type)
        for x in range(len(data.log_probs))
    ]
    torch.testing.assert_close(
        problem.values(policy), torch.stack(expected), rtol=TOLERANCE, atol=TOLERANCE
    )


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@given(policies=log_policies(count=4), beta=BETAS, weight=HISTORY_WEIGHTS)
def test_tspin_is_the_problem_without_a_reference(loss_type, policies, beta, weight):
    policy, opponent, initial, data = policies
    problem = InnerProblem(
        data=data,
        sampler=opponent,
        reference=None,
        beta=beta,
        loss_type=loss_type,
        initial=initial,
        history_weight=weight,
    )
    expected = [
        tspin_objective(
            *(row_of(table, x) for table in policies),
            beta=beta,
            history_weight=weight,
            loss_type=loss_type,
        )
        for x in range(len(data.log_probs))
    ]
    torch.testing.assert_close(
        problem.values(policy), torch.stack(expected), rtol=TOLERANCE, atol=TOLERANCE
    )


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@given(policies=log_policies(count=4), beta=BETAS)
def test_the_sampler_generates_and_the_reference_divides(loss_type, policies, beta):
    policy, sampler, reference, data = policies
    problem = InnerProblem(
        data=data, sampler=sampler, reference=reference, beta=beta, loss_type=loss_type
    )
    log_ratios = policy.log_probs - reference.log_probs
    expected = dense_expected_penalty(
        beta * log_ratios, data.log_probs, sampler.log_probs, loss_type=loss_type
    )
    torch.testing.assert_close(problem.values(policy), expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("has_reference", [True, False])
@given(policies=log_policies(count=3), beta=BETAS)
def test_a_policy_comes_back_from_its_scores(has_reference, policies, beta):
    policy, opponent, data = policies
    problem = InnerProblem(
        data=data, sampler=opponent, reference=opponent if has_reference else None, beta=beta
    )
    assert tv(problem.policy(problem.scores(policy)), policy).max() <= 1e-14


@pytest.mark.parametrize("has_reference", [True, False])
@given(policies=log_policies(count=3), beta=BETAS, shift=st.floats(-1e3, 1e3))
def test_a_constant_per_prompt_changes_no_policy_and_no_value(has_reference, policies, beta, shift):
    policy, opponent, data = policies
    problem = InnerProblem(
        data=data, sampler=opponent, reference=opponent if has_reference else None, beta=beta
    )
    scores = problem.scores(policy)
    assert tv(problem.policy(scores + shift), policy).max() <= 1e-11  # 1e3/beta's rounding
    torch.testing.assert_close(
        problem.score_values(scores + shift), problem.values(policy), rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@given(policies=log_policies(count=4), beta=BETAS, weight=HISTORY_WEIGHTS)
def test_the_objective_is_the_sum_of_its_pair_weights(loss_type, policies, beta, weight):
    policy, opponent, initial, data = policies
    problem = InnerProblem(
        data=data,
        sampler=opponent,
        reference=None,
        beta=beta,
        loss_type=loss_type,
        initial=initial,
        history_weight=weight,
    )
    scores = problem.scores(policy)
    margins = scores[:, :, None] - scores[:, None, :]
    weights = problem.log_pair_weights().exp()
    expected = (weights * penalty_named(loss_type)(margins)).sum(dim=(-2, -1))
    torch.testing.assert_close(problem.values(policy), expected, rtol=TOLERANCE, atol=TOLERANCE)


@given(policies=log_policies(count=3), weight=HISTORY_WEIGHTS)
def test_pair_weights_sum_to_one_and_the_history_weight(policies, weight):
    data, opponent, initial = policies
    problem = InnerProblem(
        data=data,
        sampler=opponent,
        reference=None,
        beta=1.0,
        initial=initial,
        history_weight=weight,
    )
    totals = problem.log_pair_weights().exp().sum(dim=(-2, -1))
    torch.testing.assert_close(totals, torch.full_like(totals, 1 + weight), rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss_type", ["logistic", "exponential", "correlation"])
def test_values_are_differentiable_in_the_logits(loss_type):
    data, opponent, initial = (TabularPolicy.random(2, 4, seed=s, smallest=0.1) for s in range(3))
    problem = InnerProblem(
        data=data,
        sampler=opponent,
        reference=opponent,
        beta=0.7,
        loss_type=loss_type,
        initial=initial,
        history_weight=0.3,
    )
    logits = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(
        lambda table: problem.values(TabularPolicy.from_logits(table)), logits.requires_grad_()
    )


def test_a_history_term_by_hand():
    # f = log(3, 1): l(0), l(log 3), l(-log 3) = log 2, log 4/3, log 4
    # data (1/2, 1/2) and sampler (1/2, 1/2): (2 log 2 + log 4/3 + log 4) / 4 = 0.76489
    # sampler (1/2, 1/2) and initial (3/4, 1/4): (3/4 + 1/4) log 2 / 2 + log(4/3) / 8 + 3 log(4) / 8
    half, initial = (TabularPolicy.from_probs([[p, 1 - p]]) for p in (0.5, 0.75))
    problem = InnerProblem(
        data=half, sampler=half, reference=None, beta=1.0, initial=initial, history_weight=2.0
    )
    current = (2 * math.log(2) + math.log(4 / 3) + math.log(4)) / 4
    history = math.log(2) / 2 + math.log(4 / 3) / 8 + 3 * math.log(4) / 8
    assert problem.values(initial).item() == pytest.approx(current + 2 * history, rel=1e-14)


def test_bad_problems_are_refused():
    two, three = TabularPolicy.random(1, 2, seed=0), TabularPolicy.random(1, 3, seed=0)
    good = InnerProblem(data=two, sampler=two, reference=None, beta=1.0)
    for field in ("sampler", "reference", "initial"):
        with pytest.raises(ValueError, match=f"one shape.*{field}"):
            replace(good, **{field: three})
    for beta in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="beta must be"):
            replace(good, beta=beta)
    with pytest.raises(ValueError, match="loss_type must be"):
        replace(good, loss_type="square")
    for weight in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="history_weight must be"):
            replace(good, initial=two, history_weight=weight)
    with pytest.raises(ValueError, match="needs initial, which gave the proto"):
        replace(good, history_weight=0.1)
