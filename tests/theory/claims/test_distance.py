import math

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from spin_theory import TabularPolicy, js, kl, spin_loss, spin_objective, tv
from spin_theory.claims.distance import check_degeneracy, check_distance_bounds, pair_policies
from tests.strategies import BETAS, LOSS_TYPES, log_policies

ONE_RESPONSE = (TabularPolicy.from_probs([[1.0]]),) * 3
NEARLY_EQUAL = (
    TabularPolicy.from_probs([[0.5, 0.5]]),
    TabularPolicy.from_probs([[0.5 + 1e-12, 0.5 - 1e-12]]),
)
LAST_BIT = (NEARLY_EQUAL[0], TabularPolicy(NEARLY_EQUAL[0].log_probs * (1 + 1e-15)))


def tables_of(count):
    return tuple(TabularPolicy.random(1, 6, seed=k, smallest=0.01) for k in range(count))


def patch(monkeypatch, name, function):
    monkeypatch.setattr(f"spin_theory.claims.distance.{name}", function)


@st.composite
def margins_and_tables(draw):
    data, opponent = draw(log_policies(count=2))
    prompts, responses = data.log_probs.shape
    cells = st.one_of(st.floats(-5.0, 5.0), st.floats(-1e6, 1e6))
    values = draw(st.lists(cells, min_size=prompts * responses**2, max_size=prompts * responses**2))
    square = torch.tensor(values, dtype=torch.float64).reshape(prompts, responses, responses)
    return data, opponent, square - square.mT


@given(drawn=margins_and_tables())
def test_any_antisymmetric_margin_bounds_the_distance_from_below(drawn):
    evidence = check_distance_bounds(*drawn)
    assert evidence.holds, evidence
    assert evidence.numbers["meter"] <= 2 * math.log(2) * evidence.numbers["tv"] + 1e-12


@given(tables=log_policies(count=2))
def test_the_bound_is_tight_at_the_log_ratios(tables):
    data, opponent = tables
    scores = data.log_probs - opponent.log_probs
    evidence = check_distance_bounds(data, opponent, scores[:, :, None] - scores[:, None, :])
    assert evidence.holds
    tight = js(*pair_policies(data, opponent)).mean().item()
    assert evidence.numbers["meter"] == pytest.approx(tight, abs=1e-13)


@pytest.mark.parametrize("margin", [1e-3, 9.0])
def test_the_bounds_say_no_to_a_margin_that_is_not_antisymmetric(margin):
    data, opponent = NEARLY_EQUAL
    assert not check_distance_bounds(data, opponent, torch.full((1, 2, 2), margin).double()).holds


def test_the_bounds_say_no_to_a_meter_above_its_divergence_though_below_the_distance():
    # meter log 2 > JS(P, Q), and log 2 / (2 log 2) = 1/2 < TV
    data, opponent = (TabularPolicy.from_probs([[p, 1 - p]]) for p in (0.9, 0.1))
    evidence = check_distance_bounds(data, opponent, torch.full((1, 2, 2), 40.0).double())
    assert evidence.numbers["meter"] < 2 * math.log(2) * evidence.numbers["tv"]
    assert not evidence.holds


def test_the_bounds_say_no_to_a_distance_that_is_too_small(monkeypatch):
    patch(monkeypatch, "tv", lambda *pair: 0.1 * tv(*pair))
    data, opponent = tables_of(2)
    scores = data.log_probs - opponent.log_probs
    margins = scores[:, :, None] - scores[:, None, :]
    assert not check_distance_bounds(data, opponent, margins).holds


def test_the_bounds_say_no_to_margins_chosen_after_the_pairs_were_seen():
    # the larger of the two orders: a margin with the benefit of hindsight
    data, opponent = (TabularPolicy.random(1, 4, seed=seed, smallest=0.5) for seed in (0, 1))
    scores = 5 * (data.log_probs - opponent.log_probs)
    margins = (scores[:, :, None] - scores[:, None, :]).abs()
    assert not check_distance_bounds(data, opponent, margins).holds


def test_the_bounds_say_no_to_a_margin_that_is_nan():
    margins = torch.full((1, 2, 2), math.nan, dtype=torch.float64)
    assert not check_distance_bounds(*NEARLY_EQUAL, margins).holds


@pytest.mark.parametrize("other", [kl, lambda p, q: tv(p, q) * 2])
def test_the_bounds_say_no_to_another_divergence(other, monkeypatch):
    patch(monkeypatch, "js", other)
    data, opponent = (TabularPolicy.random(1, 6, seed=seed) for seed in (0, 1))
    assert not check_distance_bounds(data, opponent, torch.zeros(1, 6, 6).double()).holds


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@example(tables=ONE_RESPONSE[:2], beta=1.0)
@example(tables=NEARLY_EQUAL, beta=1.0)
@example(tables=LAST_BIT, beta=1.0).via("all log-ratios are equal: no gap, but a distance")
@given(tables=log_policies(count=2), beta=BETAS)
def test_where_the_opponent_is_the_data(loss_type, tables, beta):
    data, other = tables
    value = spin_objective(other, data, data, beta=beta, loss_type=loss_type)
    assume(bool(value.isfinite()))
    evidence = check_degeneracy(data, other, beta=beta, loss_type=loss_type)
    assert evidence.holds, evidence


@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
@given(tables=log_policies(count=2, min_responses=2), beta=BETAS)
def test_the_data_stay_the_only_minimiser_of_smooth_penalties(loss_type, tables, beta):
    data, other = tables
    assume(tv(data, other).max() > 1e-9)
    assert check_degeneracy(data, other, beta=beta, loss_type=loss_type).numbers["rise"] > 0


@given(tables=log_policies(count=2), largest_margin=st.floats(0.01, 1.0))
def test_the_hinge_is_flat_while_no_margin_exceeds_one(tables, largest_margin):
    data, other = tables
    scores = other.log_probs - data.log_probs
    reach = (scores.amax(-1) - scores.amin(-1)).max().item()
    beta = min(10.0, largest_margin / reach) if reach > 0 else 10.0
    rise = check_degeneracy(data, other, beta=beta, loss_type="hinge").numbers["rise"]
    assert rise == pytest.approx(0, abs=1e-12)


def tilted(policy, *tables, **problem):
    return spin_objective(policy, *tables, **problem) - 1e-6 * policy.log_probs.mean()


def raised(*tables, **problem):
    return spin_objective(*tables, **problem) + 1e-6


def swapped(policy, opponent, data, *, beta, **problem):
    return spin_objective(opponent, policy, data, beta=beta, **problem)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("objective", [tilted, raised])
def test_degeneracy_says_no_to_another_objective(objective, loss_type, monkeypatch):
    patch(monkeypatch, "spin_objective", objective)
    data, other = tables_of(2)
    assert not check_degeneracy(data, other, beta=1.0, loss_type=loss_type).holds


def test_degeneracy_says_no_to_an_objective_with_the_policy_for_the_opponent(monkeypatch):
    patch(monkeypatch, "spin_objective", swapped)
    assert not check_degeneracy(*tables_of(2), beta=1.0).holds


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_degeneracy_says_no_to_a_loss_that_sees_equal_strings_apart(loss_type, monkeypatch):
    # the check computed the penalty of scores - scores, and could not have said no
    def without_the_opponent_of_generated(*, opponent_generated_logps, **logps):
        return spin_loss(opponent_generated_logps=0 * opponent_generated_logps, **logps)

    patch(monkeypatch, "spin_loss", without_the_opponent_of_generated)
    assert not check_degeneracy(*tables_of(2), beta=1.0, loss_type=loss_type).holds


@pytest.mark.parametrize("wrong", [0.0, math.nan, 0.1])
def test_degeneracy_says_no_to_a_wrong_gap(wrong, monkeypatch):
    patch(monkeypatch, "optimality_gap", lambda *_, **__: torch.tensor(wrong))
    assert not check_degeneracy(*tables_of(2), beta=1.0).holds


def test_degeneracy_says_no_to_a_second_minimiser_next_to_the_data(monkeypatch):
    patch(monkeypatch, "optimality_gap", lambda *_, **__: torch.tensor(0.0))
    assert not check_degeneracy(*NEARLY_EQUAL, beta=1.0).holds


def test_degeneracy_says_no_to_a_hinge_that_bends_before_one(monkeypatch):
    def early(*tables, beta, loss_type):
        return spin_objective(*tables, beta=2 * beta, loss_type=loss_type)

    patch(monkeypatch, "spin_objective", early)
    assert not check_degeneracy(*tables_of(2), beta=1.0, loss_type="hinge").holds


@pytest.mark.parametrize("shape", [(1, 4), (4,), (1, 2, 3), (2, 2, 2)])
def test_margins_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"margins must have shape \(X, Y, Y\)"):
        check_distance_bounds(*NEARLY_EQUAL, torch.zeros(shape, dtype=torch.float64))


def test_bad_arguments_are_refused():
    two, three = TabularPolicy.random(1, 2, seed=0), TabularPolicy.random(1, 3, seed=0)
    with pytest.raises(ValueError, match="one shape"):
        check_degeneracy(two, three, beta=1.0)
    with pytest.raises(ValueError, match="loss_type must be"):
        check_degeneracy(two, two, beta=1.0, loss_type="square")
    with pytest.raises(ValueError, match="beta must be finite"):
        check_degeneracy(two, two, beta=-1.0)
