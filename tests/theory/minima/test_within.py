import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_theory import (
    LogLinearClass,
    TabularPolicy,
    closed_form_update,
    minimise,
    minimise_within,
    spin_objective,
    tv,
)
from spin_theory.minima.within import as_vector, trust_newton
from tests.strategies import BETAS, at_most, log_probs

SMOOTH = ["logistic", "exponential"]


@st.composite
def moderate_policies(draw):
    """Two policies on which the objective's curvature is far above its gradient's rounding."""
    responses = draw(st.integers(2, 5))
    return tuple(
        TabularPolicy(draw(log_probs(prompts=1, responses=responses, smallest=math.log(1e-3))))
        for _ in range(2)
    )


@given(
    seed=st.integers(0, 2**32),
    theta=st.lists(st.floats(-50.0, 50.0), min_size=3, max_size=3),
)
def test_log_odds_are_linear_in_the_features(seed, theta):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    parameters = torch.tensor(theta, dtype=torch.float64)
    table = LogLinearClass(features).policy(parameters).log_probs
    odds, expected = (each[:, :1] - each for each in (table, features @ parameters))
    torch.testing.assert_close(odds, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss_type", SMOOTH)
@at_most(25)
@given(
    tables=moderate_policies(),
    beta=st.floats(0.5, 10.0),
)
def test_a_class_of_all_tables_has_the_closed_form_as_minimum(loss_type, tables, beta):
    data, opponent = tables
    family = LogLinearClass(torch.eye(data.log_probs.shape[1], dtype=torch.float64)[None])
    found = minimise_within(family, opponent.log_probs[0], data, beta=beta, loss_type=loss_type)
    expected = closed_form_update(opponent, data, beta=beta, loss_type=loss_type)
    assert tv(found.policy, expected).max() <= 1e-6
    assert found.gradient_norm <= 1e-9


@pytest.mark.parametrize("loss_type", SMOOTH)
@given(seed=st.integers(0, 2**32), beta=BETAS, step=st.floats(-1.0, 1.0))
def test_no_member_is_below_the_minimum_of_the_class(loss_type, seed, beta, step):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 5, 2, generator=generator, dtype=torch.float64)
    family, data = LogLinearClass(features), TabularPolicy.random(2, 5, seed=0, smallest=0.05)
    start = torch.randn(2, generator=generator, dtype=torch.float64)
    found = minimise_within(family, start, data, beta=beta, loss_type=loss_type)
    other = family.policy(found.parameters + step * torch.tensor([1.0, -0.5]).double())
    value = spin_objective(other, family.policy(start), data, beta=beta, loss_type=loss_type)
    assert value >= found.objective - 1e-13
    assert found.gradient_norm <= 1e-10 * (1 + beta)


def test_trust_newton_says_by_its_gradient_where_it_stopped():
    centre = np.array([3.0, -1.0])
    found = trust_newton(
        lambda x: float(np.cosh(x - centre).sum()),
        lambda x: np.sinh(x - centre),
        lambda x: np.diag(np.cosh(x - centre)),
        np.zeros(2),
    )
    np.testing.assert_allclose(found, centre, rtol=4e-16, atol=0)  # up to a unit in the last place


def test_a_tensor_is_handed_over_without_its_gradient():
    tensor = torch.ones(2, dtype=torch.float64, requires_grad=True)
    assert as_vector(tensor).dtype == np.float64


@pytest.mark.parametrize("features", [torch.zeros(1, 2, 3), torch.zeros(2, 3, dtype=torch.float64)])
def test_features_of_another_kind_are_refused(features):
    with pytest.raises(ValueError, match="features must be float64 of shape"):
        LogLinearClass(features)


@pytest.mark.parametrize("size", [(2,), (), (1, 3)])
def test_parameters_that_are_not_one_for_each_feature_are_refused(size):
    family = LogLinearClass(torch.zeros(1, 2, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"parameters must have shape \(3,\)"):
        family.policy(torch.zeros(size, dtype=torch.float64))


def test_bad_arguments_are_refused():
    family = LogLinearClass(torch.zeros(1, 2, 1, dtype=torch.float64))
    theta, data = torch.zeros(1, dtype=torch.float64), TabularPolicy.random(1, 2, seed=0)
    with pytest.raises(ValueError, match="beta must be finite"):
        minimise_within(family, theta, data, beta=math.inf)
    with pytest.raises(ValueError, match="logistic or exponential"):
        minimise_within(family, theta, data, beta=1.0, loss_type="hinge")
    with pytest.raises(ValueError, match="one shape"):
        minimise_within(family, theta, TabularPolicy.random(1, 3, seed=0), beta=1.0)


@pytest.mark.parametrize("loss_type", SMOOTH)
@pytest.mark.parametrize("weight", [0.05, 0.5, 20.0])
def test_an_sft_term_in_a_class_of_all_tables_has_the_tables_minimum(loss_type, weight):
    opponent, data = (TabularPolicy.random(1, 5, seed=seed, smallest=0.05) for seed in (0, 1))
    family = LogLinearClass(torch.eye(5, dtype=torch.float64)[None])
    rules = {"beta": 0.4, "loss_type": loss_type, "sft_weight": weight}
    found = minimise_within(family, opponent.log_probs[0], data, **rules)
    expected = minimise(opponent, data, **rules)
    assert tv(found.policy, expected.policy).max() <= 1e-10
    assert found.objective == pytest.approx(expected.objective, rel=1e-12)
    assert found.gradient_norm <= 1e-10


def test_an_sft_term_leaves_no_gradient_in_a_smaller_class():
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(3, 6, 2, generator=generator, dtype=torch.float64)
    family, data = LogLinearClass(features), TabularPolicy.random(3, 6, seed=2, smallest=0.05)
    start = torch.tensor([0.5, -1.0], dtype=torch.float64)
    found = minimise_within(family, start, data, beta=0.3, sft_weight=0.2)
    theta = found.parameters.clone().requires_grad_()
    value = spin_objective(
        family.policy(theta), family.policy(start), data, beta=0.3, sft_weight=0.2
    )
    (gradient,) = torch.autograd.grad(value, theta)
    assert gradient.norm() <= 1e-12
    assert found.objective == pytest.approx(value.item(), rel=1e-14)
    without = minimise_within(family, start, data, beta=0.3)
    assert (without.parameters - found.parameters).norm() > 0.1


def test_an_sft_weight_below_0_is_refused():
    family = LogLinearClass(torch.eye(2, dtype=torch.float64)[None])
    half = TabularPolicy.from_probs([[0.5, 0.5]])
    with pytest.raises(ValueError, match="sft_weight must be"):
        minimise_within(family, half.log_probs[0], half, beta=1.0, sft_weight=-0.1)
