import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from spin_theory.losses import penalty_named
from spin_theory.minima.newton import log_pulls, newton
from tests.strategies import SMALLEST_LOG_PROB, log_probs

SMOOTH = ["logistic", "exponential"]


@st.composite
def log_weights(draw, *, smallest=SMALLEST_LOG_PROB, max_responses=6, missing=True):
    """Weights (1, Y, Y) of a strongly connected graph, no product of tables; pairs may miss."""
    responses = draw(st.integers(2, max_responses))
    cells = st.floats(smallest, 0.0)
    if missing:
        cells = st.one_of(cells, st.just(-math.inf))
    row = st.lists(cells, min_size=responses, max_size=responses)
    rows = draw(st.lists(row, min_size=responses, max_size=responses))
    table = torch.tensor(rows, dtype=torch.float64)
    for index in range(responses):  # a cycle through all responses
        table[index, (index + 1) % responses] = draw(st.floats(smallest, 0.0))
    return table[None]


def rounding(log_weights):
    """Bound on what rounding does to scores: a score may hang on links of little weight alone."""
    links = log_weights.clone()
    links.diagonal(dim1=-2, dim2=-1).fill_(-math.inf)
    weakest = min(links.amax(-1).min(), links.amax(-2).min()) - links.max()
    return 1e-9 + 1e-15 / weakest.exp().item()


def total(scores, log_weights, loss_type):
    margins = scores[:, :, None] - scores[:, None, :]
    return (log_weights.exp() * penalty_named(loss_type)(margins)).sum(dim=(-2, -1))


@pytest.mark.parametrize("loss_type", SMOOTH)
@given(log_weights=log_weights())
def test_at_the_end_what_pulls_a_response_up_pushes_it_down(loss_type, log_weights):
    solution = newton(log_weights, loss_type=loss_type)
    table = log_weights.clone()
    table.diagonal(dim1=-2, dim2=-1).fill_(-math.inf)
    pulls = log_pulls(solution.scores, table, loss_type)[0].exp()
    up, down = pulls.sum(dim=-1), pulls.sum(dim=-2)
    assert ((up - down).abs() <= 1e-9 * torch.maximum(up, down)).all()
    # sums of at most 6 pulls of size 1, taken in another order here
    torch.testing.assert_close(solution.gradient, down - up, rtol=0, atol=1e-14)
    assert (solution.gradient.abs() <= 1e-12).all()


@pytest.mark.parametrize("loss_type", SMOOTH)
@given(log_weights=log_weights(smallest=math.log(1e-3)))
def test_a_general_minimiser_finds_nothing_lower(loss_type, log_weights):
    solution = newton(log_weights, loss_type=loss_type)

    def value_and_gradient(flat):
        scores = torch.tensor(flat, dtype=torch.float64)[None].requires_grad_()
        value = total(scores, log_weights, loss_type).sum()
        return value.item(), torch.autograd.grad(value, scores)[0][0].numpy()

    zeros = torch.zeros(log_weights.shape[1], dtype=torch.float64).numpy()
    found = minimize(value_and_gradient, zeros, jac=True, options={"gtol": 1e-12})
    value = total(solution.scores, log_weights, loss_type).item()
    assert value <= found.fun * (1 + 1e-14)
    assert value == pytest.approx(found.fun, rel=1e-8)  # BFGS comes that far


@pytest.mark.parametrize("loss_type", SMOOTH)
@given(log_weights=log_weights(), seed=st.integers(0, 99))
def test_no_scores_nearby_are_better(loss_type, log_weights, seed):
    solution = newton(log_weights, loss_type=loss_type)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(solution.scores.shape, generator=generator, dtype=torch.float64)
    least = total(solution.scores, log_weights, loss_type)
    for scale in (1e-3, 0.1, 10.0):
        moved = total(solution.scores + scale * noise, log_weights, loss_type)
        assert least <= moved * (1 + 1e-13)


@pytest.mark.parametrize("loss_type", SMOOTH)
@given(tables=log_probs(prompts=6, responses=4))
def test_a_batch_gives_what_its_rows_give_alone(loss_type, tables):
    weights = tables[:3, :, None] + tables[3:, None, :]
    together = newton(weights, loss_type=loss_type)
    alone = [newton(weights[row : row + 1], loss_type=loss_type) for row in range(3)]
    scores = torch.cat([solution.scores for solution in alone])
    torch.testing.assert_close(together.scores, scores, rtol=0, atol=1e-9)
    # the last step is one that rounding alone takes, or does not take
    assert abs(together.steps - max(solution.steps for solution in alone)) <= 1


@pytest.mark.parametrize("loss_type", SMOOTH)
@given(log_weights=log_weights(), scale=st.floats(0.0, 20.0), seed=st.integers(0, 99))
def test_the_start_does_not_change_the_answer(loss_type, log_weights, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    start = scale * torch.randn(log_weights.shape[:2], generator=generator, dtype=torch.float64)
    near = newton(log_weights, loss_type=loss_type, start=start)
    far = newton(log_weights, loss_type=loss_type)
    torch.testing.assert_close(near.scores, far.scores, rtol=0, atol=rounding(log_weights))
    again = newton(log_weights, loss_type=loss_type, start=far.scores)
    assert again.steps <= 3  # one to see that nothing moves; what rounding moves stalls at once


@pytest.mark.parametrize(("loss_type", "share"), [("logistic", 1.0), ("exponential", 0.5)])
@given(tables=log_probs(prompts=2, responses=5))
def test_products_have_the_closed_form(loss_type, share, tables):
    data, opponent = tables[:1], tables[1:]
    weights = data[:, :, None] + opponent[:, None, :]
    expected = share * (data - opponent)
    expected = expected - expected.mean(dim=-1, keepdim=True)
    scores = newton(weights, loss_type=loss_type).scores
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("loss_type", SMOOTH)
@given(log_weights=log_weights(), factor=st.floats(-50.0, 50.0))
def test_scaling_all_weights_moves_no_score(loss_type, log_weights, factor):
    one = newton(log_weights, loss_type=loss_type).scores
    other = newton(log_weights + factor, loss_type=loss_type).scores
    torch.testing.assert_close(one, other, rtol=0, atol=rounding(log_weights))


@pytest.mark.parametrize("loss_type", SMOOTH)
@given(log_weights=log_weights(missing=False))
def test_transposed_weights_turn_the_scores_around(loss_type, log_weights):
    one = newton(log_weights, loss_type=loss_type).scores
    other = newton(log_weights.mT, loss_type=loss_type).scores
    torch.testing.assert_close(one, -other, rtol=0, atol=rounding(log_weights))


@pytest.mark.parametrize("loss_type", SMOOTH)
@given(log_weights=log_weights())
def test_the_order_of_weights_in_memory_does_not_matter(loss_type, log_weights):
    turned = log_weights.mT.contiguous().mT
    assert not turned.is_contiguous()
    one, other = (newton(weights, loss_type=loss_type) for weights in (log_weights, turned))
    assert one.steps == other.steps
    torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("loss_type", "share"), [("logistic", 1.0), ("exponential", 0.5)])
def test_two_responses_by_hand(loss_type, share):
    # least where W_12 |l'(t)| = W_21 |l'(-t)|: logistic e^t = W_12/W_21 = 4, exponential e^2t = 4
    weights = torch.tensor([[[0.3, 0.8], [0.2, 7.0]]], dtype=torch.float64)
    scores = newton(weights.log(), loss_type=loss_type).scores
    half = share * math.log(4) / 2
    torch.testing.assert_close(scores, torch.tensor([[half, -half]], dtype=torch.float64))


@pytest.mark.parametrize("loss_type", SMOOTH)
def test_symmetric_weights_need_one_step_to_see_that_nothing_moves(loss_type):
    table = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    solution = newton((table + table.T)[None], loss_type=loss_type)
    assert solution.steps == 1
    assert solution.scores.abs().max() <= 1e-14  # 4 differences of pulls, over their curvature


def test_one_response_takes_no_step():
    solution = newton(torch.zeros(2, 1, 1, dtype=torch.float64), loss_type="logistic")
    assert solution.steps == 0
    assert torch.equal(solution.scores, torch.zeros(2, 1, dtype=torch.float64))
    assert torch.equal(solution.gradient, torch.zeros(2, 1, dtype=torch.float64))


def test_weights_are_left_as_they_were():
    weights = torch.zeros(1, 3, 3, dtype=torch.float64)
    newton(weights, loss_type="logistic")
    assert torch.equal(weights, torch.zeros(1, 3, 3, dtype=torch.float64))


@pytest.mark.parametrize("loss_type", SMOOTH)
@given(margin=st.floats(-30.0, 30.0))
def test_pulls_are_the_penaltys_derivatives(loss_type, margin):
    scores = torch.tensor([[margin, 0.0]], dtype=torch.float64)
    log_pull, log_curvature = log_pulls(
        scores, torch.zeros(1, 2, 2, dtype=torch.float64), loss_type
    )
    variable = torch.tensor(margin, dtype=torch.float64, requires_grad=True)
    value = penalty_named(loss_type)(variable)
    (slope,) = torch.autograd.grad(value, variable, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, variable)
    assert log_pull[0, 0, 1].exp().item() == pytest.approx(-slope.item(), rel=1e-12)
    assert log_curvature[0, 0, 1].exp().item() == pytest.approx(curvature.item(), rel=1e-3)


def test_the_logistic_curvature_lives_on_where_autograds_is_zero():
    scores = torch.tensor([[100.0, 0.0]], dtype=torch.float64)
    _, log_curvature = log_pulls(scores, torch.zeros(1, 2, 2, dtype=torch.float64), "logistic")
    assert log_curvature[0, 0, 1].item() == pytest.approx(-100.0)
