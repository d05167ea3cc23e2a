import math

import pytest
import torch
from hypothesis import given

from spin_theory import TabularPolicy
from spin_theory.policies import prompt_average
from tests.strategies import log_policies


@given(policies=log_policies(count=1))
def test_probabilities_of_each_prompt_sum_to_one(policies):
    (policy,) = policies
    torch.testing.assert_close(
        policy.probs.sum(dim=-1), torch.ones(len(policy.log_probs)).double(), rtol=0, atol=1e-14
    )


def test_from_probs_takes_the_logarithm():
    found = TabularPolicy.from_probs([[0.25, 0.75]]).log_probs[0, 0].item()
    assert found == pytest.approx(math.log(0.25), rel=1e-15)  # another library's logarithm


def test_from_logits_normalises_in_float64_and_is_differentiable():
    logits = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    policy = TabularPolicy.from_logits(logits)
    assert policy.log_probs.dtype == torch.float64
    (gradient,) = torch.autograd.grad(policy.log_probs[0, 0], logits)
    expected = torch.tensor([[1.0, 0.0, 0.0]]) - policy.probs.detach().float()
    torch.testing.assert_close(gradient, expected)


def test_random_policies_reach_down_to_the_smallest_probability():
    policy = TabularPolicy.random(1, 256, seed=0, smallest=1e-12)
    assert 1e-16 < policy.probs.min().item() < 1e-12
    assert torch.equal(
        policy.log_probs, TabularPolicy.random(1, 256, seed=0, smallest=1e-12).log_probs
    )


def test_a_zero_probability_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="every response must have a positive probability"):
        TabularPolicy(torch.tensor([[0.0, -math.inf]], dtype=torch.float64))
    with pytest.raises(ValueError, match="probs must be positive"):
        TabularPolicy.from_probs([[1.0, 0.0]])


def test_a_log_prob_whose_probability_underflows_is_kept():
    policy = TabularPolicy.from_logits(torch.tensor([[0.0, -1e10]], dtype=torch.float64))
    assert policy.log_probs[0, 1].item() == -1e10
    assert policy.probs[0, 1].item() == 0.0


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (torch.zeros(3, dtype=torch.float64), "shape"),
        (torch.zeros(2, 0, dtype=torch.float64), "shape"),
        (torch.zeros(2, 1), "float64"),
        (torch.tensor([[math.nan, 0.0]], dtype=torch.float64), "finite"),
        (torch.tensor([[-0.5, -0.5]], dtype=torch.float64), "sum to one"),
    ],
)
def test_tables_that_are_not_policies_are_refused(table, message):
    with pytest.raises(ValueError, match=message):
        TabularPolicy(table)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": 0, "responses": 2}, "prompts must be >= 1"),
        ({"prompts": 1, "responses": 2, "smallest": 0.0}, "smallest"),
        ({"prompts": 1, "responses": 2, "smallest": 1.5}, "smallest"),
    ],
)
def test_random_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        TabularPolicy.random(**arguments, seed=0)


def test_prompt_average_by_hand():
    values = torch.tensor([1.0, 3.0, math.inf], dtype=torch.float64)
    assert prompt_average(values[:2], None).item() == 2.0
    # 0.25 * 1 + 0.75 * 3, and a prompt that never comes does not count
    assert prompt_average(values, torch.tensor([0.25, 0.75, 0.0])).item() == 2.5


@pytest.mark.parametrize("weights", [[0.5, 0.4], [1.5, -0.5], [1.0], [math.nan, 0.5]])
def test_prompt_probs_that_are_no_distribution_are_refused(weights):
    with pytest.raises(ValueError, match="prompt_probs must"):
        prompt_average(torch.ones(2, dtype=torch.float64), torch.tensor(weights))
