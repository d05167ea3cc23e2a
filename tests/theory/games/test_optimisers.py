import pytest
import torch

from spin_theory.games.optimisers import OPTIMISERS

TORCH = {
    "gd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.7),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.1),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_each_rule_takes_the_steps_of_torch(name):
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    gradients[:, 0] *= 1e-9  # of the size of epsilon
    gradients[:, 1] = 0.0
    theirs = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    ours, optimiser, update = torch.zeros(3, dtype=torch.float64), TORCH[name]([theirs]), None
    update = OPTIMISERS[name](0.7)
    for gradient in gradients:
        theirs.grad = gradient
        optimiser.step()
        ours = ours - 0.1 * update(gradient)
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_each_rule_starts_afresh(name):
    gradient = torch.tensor([2.0], dtype=torch.float64)
    first = OPTIMISERS[name](0.9)(gradient)
    assert torch.equal(OPTIMISERS[name](0.9)(gradient), first)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_each_rule_is_differentiable(name):
    def moved(gradients):
        update = OPTIMISERS[name](0.9)
        return sum(update(gradient) for gradient in gradients)

    generator = torch.Generator().manual_seed(1)
    gradients = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(moved, (gradients,))


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_an_adaptive_rule_at_gradient_zero_is_descent_at_a_rate_of_one_over_epsilon(name):
    # sqrt has an infinite slope there, but the update is g / (|g| + epsilon)
    gradient = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(OPTIMISERS[name](0.9)(gradient).sum(), gradient)
    torch.testing.assert_close(slope, torch.full_like(slope, 1e8))
