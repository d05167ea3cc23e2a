import pytest
import torch
from torch.autograd import gradcheck

from spin_theory.objectives.objectives import average_penalty
from spin_theory.objectives.pair_sums import expected_penalty
from tests.strategies import LOSS_TYPES, draw_table


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("reach", [3.0, 50.0])
def test_gradcheck(loss_type, reach):
    tables = draw_table(prompts=2, responses=9, reach=reach, smallest=-3.0, shape="spread", seed=5)
    if loss_type == "exponential":
        tables = (tables[0] / reach, *tables[1:])

    def of(scores):
        return expected_penalty(scores, *tables[1:], loss_type=loss_type)

    assert gradcheck(of, tables[0].requires_grad_())


SECOND = {  # l''(t), written out
    "logistic": lambda t: 1 / (2 * torch.cosh(t / 2)) ** 2,
    "hinge": torch.zeros_like,
    "exponential": lambda t: torch.exp(-t),
    "correlation": torch.zeros_like,
}


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("average", [expected_penalty, average_penalty])
@pytest.mark.parametrize(("responses", "reach"), [(3, 1.0), (4, 90.0), (600, 3.0), (1, 1.0)])
def test_second_derivatives_are_right_for_every_size_and_penalty(
    average, loss_type, responses, reach
):
    tables = draw_table(
        prompts=1, responses=responses, reach=reach, smallest=-3.0, shape="spread", seed=0
    )
    scores = tables[0].requires_grad_()
    real, generated = (table[0].exp() for table in tables[1:])
    (gradient,) = torch.autograd.grad(
        average(scores, *tables[1:], loss_type=loss_type).sum(), scores, create_graph=True
    )
    vector = torch.linspace(-1.0, 2.0, responses, dtype=torch.float64)[None]
    (product,) = torch.autograd.grad(gradient, scores, vector, retain_graph=True)
    # d^2/df^2 of sum p_i q_j l(f_i - f_j): the Laplacian of C + C^T, C_ij = p_i q_j l''(f_i - f_j)
    margins = (scores[0, :, None] - scores[0, None, :]).detach()
    both = torch.outer(real, generated) * SECOND[loss_type](margins)
    both = both + both.T
    expected = (both * (vector[0, :, None] - vector[0, None, :])).sum(-1)
    torch.testing.assert_close(product[0], expected, rtol=1e-11, atol=1e-300)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_third_derivative_is_refused(loss_type):
    tables = draw_table(prompts=1, responses=3, reach=1.0, smallest=-1.0, shape="spread", seed=0)
    logits = tables[0].requires_grad_()
    # through a softmax, whose own curvature would otherwise pass for the whole
    values = expected_penalty(logits.log_softmax(dim=-1), *tables[1:], loss_type=loss_type)
    (gradient,) = torch.autograd.grad(values.sum(), logits, create_graph=True)
    (second,) = torch.autograd.grad(gradient[0, 0], logits, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated only twice"):
        second[0, 0].backward()
