import pytest
import torch
from hypothesis import given

from spin_theory import PENALTIES, InnerProblem, Penalty, TabularPolicy
from spin_theory.games.gradients import logit_gradient
from spin_theory.policies import pair_log_probs, pairwise_differences
from tests.strategies import BETAS, LOSS_TYPES, at_most, log_policies

SQUARED_HINGE = Penalty("squared_hinge", lambda margin: (1 - margin).clamp(min=0).square())


def written_out(problem, logits):
    """Objective of each prompt as a plain sum over pairs, (X,), from logits (X, Y)."""
    policy = logits.log_softmax(-1)
    scores = problem.beta * (policy - (problem.reference.log_probs if problem.reference else 0))
    margins = pairwise_differences(scores)
    weights = pair_log_probs(problem.data.log_probs, problem.sampler.log_probs).exp()
    if problem.history_weight:
        proto = pair_log_probs(problem.sampler.log_probs, problem.initial.log_probs).exp()
        weights = weights + problem.history_weight * proto
    return (weights * problem.penalty(margins)).sum(dim=(-2, -1))


@pytest.mark.parametrize("loss_type", [*LOSS_TYPES, "squared_hinge"])
@pytest.mark.parametrize("triplets", [False, True])
@at_most(25)
@given(policies=log_policies(count=4), beta=BETAS)
def test_the_gradient_is_that_of_the_sum_over_pairs(loss_type, triplets, policies, beta):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PENALTIES, "squared_hinge", SQUARED_HINGE)
        data, sampler, initial, at = policies
        problem = InnerProblem(
            data=data,
            sampler=sampler,
            reference=None if triplets else sampler,
            beta=beta,
            loss_type=loss_type,
            initial=initial,
            history_weight=0.3 if triplets else 0.0,
        )
        logits = (at.log_probs / 4).requires_grad_()  # margins that the exponential can bear
        (expected,) = torch.autograd.grad(written_out(problem, logits).sum(), logits)
        found = logit_gradient(problem)(logits.detach().T).T
        scale = float(expected.abs().max()) + beta
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize("loss_type", ["logistic", "exponential", "squared_hinge"])
def test_the_gradient_is_differentiable_in_logits_and_tables(loss_type, monkeypatch):
    monkeypatch.setitem(PENALTIES, "squared_hinge", SQUARED_HINGE)

    def gradient(logits, real, generated):
        data, sampler = (TabularPolicy.from_logits(table) for table in (real, generated))
        problem = InnerProblem(
            data=data, sampler=sampler, reference=sampler, beta=0.7, loss_type=loss_type
        )
        return logit_gradient(problem)(logits.T)

    tables = [
        TabularPolicy.random(2, 3, seed=seed, smallest=0.1).log_probs.requires_grad_()
        for seed in range(3)
    ]
    assert torch.autograd.gradcheck(gradient, tables)


def test_a_pair_of_great_cost_and_no_weight_costs_nothing():
    # exp(-t) alone overflows at t = -800; its pair has the weight e^-900
    data = TabularPolicy.from_logits(torch.tensor([[-900.0, 0.0]], dtype=torch.float64))
    half = TabularPolicy.from_probs([[0.5, 0.5]])
    problem = InnerProblem(
        data=data, sampler=half, reference=half, beta=1.0, loss_type="exponential"
    )
    logits = torch.tensor([[-800.0], [0.0]], dtype=torch.float64)
    assert logit_gradient(problem)(logits).isfinite().all()
