"""Games of SPACE and GSIL on tables: their objective, and what they do near the data."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from spin_theory import TabularPolicy, tv
from spin_theory.games.pointwise import pointwise_curvature, pointwise_multiplier
from spin_theory.losses import GSIL_LOSSES, gsil, space
from spin_theory.objectives.pointwise import pointwise_objective
from tests.strategies import log_policies

MUS = st.floats(0.2, 8.0)


def table(*probs):
    return TabularPolicy.from_probs([list(probs)])


def solved(loss, opponent, data, *, sft_weight=0.0):
    """The exact iteration by a search that knows nothing of claims."""

    def value_and_slope(logits):
        at = torch.from_numpy(logits)[None].requires_grad_()
        policy = TabularPolicy.from_logits(at)
        value = pointwise_objective(policy, opponent, data, loss=loss, sft_weight=sft_weight)
        return value.item(), torch.autograd.grad(value, at)[0][0].numpy()

    found = minimize(
        value_and_slope, opponent.log_probs[0].numpy(), jac=True, method="BFGS", tol=1e-12
    )
    return TabularPolicy.from_logits(torch.from_numpy(found.x)[None])


def test_the_objective_by_hand():
    # KLIEP, -r + e^r': real half of ln 2 and half of -ln 2 with p = (1/2, 1/4, 1/4) and
    # p_t = (1/4, 1/2, 1/4), data (1/2, 1/2, 0+): E[-r] = 0, E[e^r'] = sum of p = 1
    policy, opponent = table(0.5, 0.25, 0.25), table(0.25, 0.5, 0.25)
    data = table(0.5 - 5e-13, 0.5 - 5e-13, 1e-12)
    value = pointwise_objective(policy, opponent, data, loss=gsil("kliep", scale=1.0))
    assert value.item() == pytest.approx(1.0, abs=1e-11)


@given(tables=log_policies(count=3, max_responses=5), mu=MUS)
def test_no_policy_is_below_the_data_in_spaces_objective(tables, mu):
    policy, opponent, data = tables
    values = [
        pointwise_objective(each, opponent, data, loss=space(mu)).item() for each in (data, policy)
    ]
    assert values[0] <= values[1] + 1e-12 * (1 + abs(values[1]))


@pytest.mark.parametrize("mu", [0.25, 1.0, 7.0])
def test_one_exact_iteration_of_space_lands_on_the_data(mu):
    opponent, data = table(0.6, 0.3, 0.1), table(0.2, 0.3, 0.5)
    assert tv(solved(space(mu), opponent, data), data) < 1e-6


def test_gsils_hinge_does_not_land_on_the_data():
    opponent, data = table(0.4, 0.35, 0.25), table(0.3, 0.35, 0.35)
    assert tv(solved(gsil("hinge", scale=1.0), opponent, data), data) > 0.05


@pytest.mark.parametrize("loss_type", GSIL_LOSSES)
def test_gsil_as_released_leaves_the_data(loss_type):
    loss = gsil(loss_type, scale=0.01, shift=2.0)
    assert pointwise_curvature(loss) < 0
    with pytest.raises(ValueError, match="the data are no minimum"):
        pointwise_multiplier(loss)
    data = table(0.2, 0.3, 0.5)
    near = TabularPolicy.from_logits(data.log_probs + torch.tensor([[0.1, -0.1, 0.0]]))
    values = [pointwise_objective(each, data, data, loss=loss).item() for each in (near, data)]
    assert values[0] < values[1]


@pytest.mark.parametrize(("scale", "weight"), [(0.6, 0.0), (2.0, 0.0), (0.4, 0.3)])
def test_an_exact_iteration_near_the_data_moves_by_the_multiplier(scale, weight):
    loss, data = gsil("bernoulli", scale=scale), table(0.2, 0.3, 0.5)
    multiplier = pointwise_multiplier(loss, sft_weight=weight)
    assert multiplier == pytest.approx(scale * (scale - 1) / (scale**2 + 2 * weight), rel=1e-12)
    step = torch.tensor([[2e-3, -1e-3, 0.0]], dtype=torch.float64)
    opponent = TabularPolicy.from_logits(data.log_probs + step)
    after = solved(loss, opponent, data, sft_weight=weight).log_probs - data.log_probs
    before = opponent.log_probs - data.log_probs
    assert after[0, 0] - after[0, 2] == pytest.approx(
        multiplier * float(before[0, 0] - before[0, 2]), abs=2e-5
    )


def test_an_sft_weight_below_0_is_refused():
    with pytest.raises(ValueError, match="sft_weight must be"):
        pointwise_curvature(space(1.0), sft_weight=-1.0)
