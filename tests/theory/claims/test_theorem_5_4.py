import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from spin_theory import TabularPolicy, check_theorem_5_4, closed_form_update, tv
from spin_theory.minima.minimise import minimise
from tests.strategies import BETAS, log_policies


@given(policies=log_policies(count=2), beta=BETAS)
def test_theorem_5_4_update_is_the_minimiser(policies, beta):
    data, opponent = policies
    evidence = check_theorem_5_4(data, opponent, beta=beta)
    assert evidence.holds, evidence


def wrong_exponent(opponent, data, *, beta, loss_type="logistic"):
    return closed_form_update(opponent, data, beta=beta * (1 + 1e-6), loss_type=loss_type)


def swapped_roles(opponent, data, *, beta, loss_type="logistic"):
    return closed_form_update(data, opponent, beta=beta, loss_type=loss_type)


def inverse_ratio(opponent, data, *, beta, loss_type="logistic"):
    log_ratio = opponent.log_probs - data.log_probs
    return TabularPolicy.from_logits(opponent.log_probs + log_ratio / beta)


def other_penalty(opponent, data, *, beta, loss_type="logistic"):
    return closed_form_update(opponent, data, beta=beta, loss_type="exponential")


@pytest.mark.parametrize("update", [wrong_exponent, swapped_roles, inverse_ratio, other_penalty])
@given(beta=BETAS, seed=st.integers(0, 100))
def test_theorem_5_4_says_no_to_a_wrong_update(update, beta, seed):
    assume(abs(beta - 1) > 1e-3)
    data, opponent = (TabularPolicy.random(1, 6, seed=seed + k, smallest=0.1) for k in (0, 1000))
    evidence = check_theorem_5_4(data, opponent, beta=beta, update=update)
    assert not evidence.holds
    assert evidence.gap <= 1e-25  # it is the update that is wrong, not the minimiser


def test_theorem_5_4_says_no_to_a_wrong_exponent_near_a_point_mass():
    # both updates are (1, 0) to 1e-20: total variation sees no difference
    data = TabularPolicy.from_logits(torch.tensor([[0.0, -10.0]], dtype=torch.float64))
    opponent = TabularPolicy.from_logits(torch.tensor([[-1.0, 0.0]], dtype=torch.float64))

    def twice(opponent, data, *, beta, loss_type="logistic"):
        return closed_form_update(opponent, data, beta=2 * beta, loss_type=loss_type)

    assert check_theorem_5_4(data, opponent, beta=0.1).holds
    exact, wrong = (closed_form_update(opponent, data, beta=beta) for beta in (0.1, 0.2))
    assert tv(exact, wrong).max() < 1e-12
    assert not check_theorem_5_4(data, opponent, beta=0.1, update=twice).holds


def test_an_unnormalised_update_is_refused_and_would_be_seen():
    class Unchecked(TabularPolicy):
        def __post_init__(self):
            pass

    data, opponent = (TabularPolicy.random(1, 6, seed=seed) for seed in (0, 1))
    table = opponent.log_probs + (data.log_probs - opponent.log_probs) / 0.5
    with pytest.raises(ValueError, match="sum to one"):
        TabularPolicy(table)
    evidence = check_theorem_5_4(data, opponent, beta=0.5, update=lambda *_, **__: Unchecked(table))
    assert not evidence.holds


def test_theorem_5_4_says_no_where_the_minimiser_is_not_certified(monkeypatch):
    # an update that agrees with a minimiser that stopped too early proves nothing
    monkeypatch.setattr("spin_theory.minima.newton.MAX_STEPS", 3)
    data, opponent = (TabularPolicy.random(1, 6, seed=seed) for seed in (0, 1))
    found = minimise(opponent, data, beta=1.0).policy
    evidence = check_theorem_5_4(data, opponent, beta=1.0, update=lambda *_, **__: found)
    assert evidence.gap > evidence.tolerance
    assert not evidence.holds


def test_bad_arguments_are_refused():
    two = TabularPolicy.random(1, 2, seed=0)
    with pytest.raises(ValueError, match="linear programme"):
        check_theorem_5_4(two, two, beta=1.0, loss_type="hinge")
