import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_theory import LogLinearClass, TabularPolicy, minimise_within, spin_objective
from spin_theory.claims.resting_point import check_fixed_point_is_sft
from spin_theory.minima.within import trust_newton
from tests.strategies import BETAS, at_most, log_probs

SMOOTH = ["logistic", "exponential"]


def patch(monkeypatch, name, function):
    monkeypatch.setattr(f"spin_theory.claims.resting_point.{name}", function)


@st.composite
def families(draw, *, max_features=3, max_responses=5):
    """Log-linear classes whose features no response, and no prompt, repeats by intent."""
    seed = draw(st.integers(0, 2**32))
    shape = [draw(st.integers(1, 3)), draw(st.integers(2, max_responses))]
    features = torch.randn(
        *shape,
        draw(st.integers(1, max_features)),
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.float64,
    )
    return LogLinearClass(features * draw(st.floats(0.1, 3.0)))


@st.composite
def families_with_data(draw):
    family = draw(families())
    prompts, responses = family.features.shape[:2]
    return family, TabularPolicy(draw(log_probs(prompts=prompts, responses=responses)))


def members_of_a_class():
    family = LogLinearClass(torch.arange(24, dtype=torch.float64).sin().reshape(2, 4, 3))
    return family, torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.3, 0.1, -1.0]).double()


@pytest.mark.parametrize("loss_type", SMOOTH)
@at_most(30)
@given(drawn=families_with_data(), beta=BETAS)
def test_spin_rests_where_sft_does(loss_type, drawn, beta):
    evidence = check_fixed_point_is_sft(*drawn, beta=beta, loss_type=loss_type)
    assert evidence.holds, evidence
    assert evidence.numbers["misfit"] >= 0


def test_a_class_without_the_data_rests_away_from_them_and_one_with_them_does_not():
    family, real, _ = members_of_a_class()
    inside = check_fixed_point_is_sft(family, family.policy(real), beta=0.5)
    outside = check_fixed_point_is_sft(
        family, TabularPolicy.random(2, 4, seed=0, smallest=0.1), beta=0.5
    )
    assert inside.holds
    assert inside.numbers["misfit"] < 1e-15
    assert outside.holds
    assert outside.numbers["misfit"] > 0.01


@pytest.mark.parametrize("wrong", ["stopped early", "moved"])
def test_the_fixed_point_says_no_to_sft_that_is_not_solved(wrong, monkeypatch):
    def unsolved(value, gradient, hessian, start):
        if wrong == "stopped early":
            return start - 0.1 * gradient(start)
        return trust_newton(value, gradient, hessian, start) * (1 + 1e-6)

    monkeypatch.setattr("spin_theory.minima.resting.trust_newton", unsolved)
    family, _, _ = members_of_a_class()
    data = TabularPolicy.random(2, 4, seed=0, smallest=0.1)
    assert not check_fixed_point_is_sft(family, data, beta=0.5).holds


def test_the_fixed_point_says_no_to_an_iteration_that_moves_on(monkeypatch):
    def elsewhere(family, start, data, **rules):
        return minimise_within(family, start + 1e-3, data, **rules | {"beta": 3.0})

    patch(monkeypatch, "minimise_within", elsewhere)
    family, _, _ = members_of_a_class()
    data = TabularPolicy.random(2, 4, seed=0, smallest=0.1)
    assert not check_fixed_point_is_sft(family, data, beta=0.5).holds


def test_the_fixed_point_says_no_to_an_objective_that_is_not_spins(monkeypatch):
    def tilted(policy, *tables, **rules):
        return spin_objective(policy, *tables, **rules) + 1e-6 * policy.log_probs[0, 0]

    patch(monkeypatch, "spin_objective", tilted)
    family, _, _ = members_of_a_class()
    data = TabularPolicy.random(2, 4, seed=0, smallest=0.1)
    assert not check_fixed_point_is_sft(family, data, beta=0.5).holds


def test_bad_arguments_are_refused():
    coin = LogLinearClass(torch.tensor([[[1.0], [0.0]]], dtype=torch.float64))
    data = TabularPolicy.random(1, 2, seed=0)
    with pytest.raises(ValueError, match="one shape"):
        check_fixed_point_is_sft(coin, TabularPolicy.random(1, 3, seed=0), beta=1.0)
    with pytest.raises(ValueError, match="one shape"):
        check_fixed_point_is_sft(coin, TabularPolicy.random(2, 2, seed=0), beta=1.0)
    with pytest.raises(ValueError, match="beta must be finite"):
        check_fixed_point_is_sft(coin, data, beta=0.0)
    with pytest.raises(ValueError, match="logistic or exponential"):
        check_fixed_point_is_sft(coin, data, beta=1.0, loss_type="hinge")
