import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from spin_theory import LogLinearClass, TabularPolicy, kl, spin_objective, tv
from spin_theory.claims.classes import check_log_linear_necessity, check_quantised_necessity
from spin_theory.claims.witnesses import witness_limit
from tests.strategies import LOSS_TYPES, at_most

FINITE = ["logistic", "hinge", "exponential"]
COIN = LogLinearClass(torch.tensor([[[1.0], [0.0]]], dtype=torch.float64))


def patch(monkeypatch, name, function):
    monkeypatch.setattr(f"spin_theory.claims.classes.{name}", function)


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
def families_with_members(draw, *, count):
    family = draw(families())
    size = family.features.shape[-1]
    cells = st.lists(st.floats(-5.0, 5.0), min_size=size, max_size=size)
    return family, *(torch.tensor(draw(cells), dtype=torch.float64) for _ in range(count))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@given(
    drawn=families_with_members(count=2),
    betas=st.lists(st.floats(-7.0, 7.0).map(math.exp), min_size=1, max_size=3),
)
def test_in_a_log_linear_class_with_the_data_every_beta_moves(loss_type, drawn, betas):
    family, real, start = drawn
    assume(tv(family.policy(real), family.policy(start)).max() > 1e-7)
    evidence = check_log_linear_necessity(family, real, start, betas=betas, loss_type=loss_type)
    assert evidence.holds, evidence
    assert evidence.numbers["slope"] < 0


def members_of_a_class():
    family = LogLinearClass(torch.arange(24, dtype=torch.float64).sin().reshape(2, 4, 3))
    return family, torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.3, 0.1, -1.0]).double()


def swapped_roles(policy, opponent, data, **rules):
    return spin_objective(policy, data, opponent, **rules)


def other_beta(policy, opponent, data, *, beta, **rules):
    return spin_objective(policy, opponent, data, beta=beta * (1 + 1e-6), **rules)


def opposite(policy, opponent, data, **rules):
    return -spin_objective(policy, opponent, data, **rules)


def constant(policy, opponent, data, **rules):
    return 0 * spin_objective(policy, opponent, data, **rules)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("objective", [swapped_roles, other_beta, opposite, constant])
def test_log_linear_necessity_says_no_to_a_wrong_objective(objective, loss_type, monkeypatch):
    patch(monkeypatch, "spin_objective", objective)
    assert not check_log_linear_necessity(*members_of_a_class(), loss_type=loss_type).holds


def test_log_linear_necessity_says_no_to_data_outside_the_class(monkeypatch):
    # the derivative towards any other member is not that of both divergences
    family, real, start = members_of_a_class()
    outside = TabularPolicy.random(2, 4, seed=0)
    patch(monkeypatch, "kl", lambda p, q: kl(outside, q) + 0 * p.log_probs[:, 0])
    assert not check_log_linear_necessity(family, real, start).holds


def test_log_linear_necessity_is_refused_where_the_opponent_is_the_data():
    family, real, _ = members_of_a_class()
    for start in (real, real * (1 + 1e-15)):
        with pytest.raises(ValueError, match="different policies"):
            check_log_linear_necessity(family, real, start)


def test_log_linear_necessity_says_no_to_a_wrong_slope(monkeypatch):
    patch(monkeypatch, "penalty_slope", lambda _: -0.6)
    assert not check_log_linear_necessity(*members_of_a_class()).holds


def test_log_linear_necessity_says_no_to_a_rising_penalty(monkeypatch):
    patch(monkeypatch, "penalty_slope", lambda _: 0.5)
    patch(monkeypatch, "spin_objective", opposite)
    assert not check_log_linear_necessity(*members_of_a_class()).holds


@pytest.mark.parametrize("loss_type", FINITE)
@at_most(8)
@given(
    family=families(max_features=1),
    spacing=st.floats(math.log(0.03), math.log(10.0)).map(math.exp),
    reach=st.integers(1, 2),
)
def test_a_quantised_class_needs_a_small_beta(loss_type, family, spacing, reach):
    evidence = check_quantised_necessity(family, spacing=spacing, reach=reach, loss_type=loss_type)
    assert evidence.holds, evidence
    assert evidence.numbers["members"] == 2 * reach
    assert 0 < evidence.numbers["limit"] < math.inf


def test_a_quantised_class_of_two_features_needs_a_small_beta():
    features = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]], dtype=torch.float64)
    evidence = check_quantised_necessity(LogLinearClass(features), spacing=0.5, reach=1)
    assert evidence.holds
    assert evidence.numbers["members"] == 3**2 - 1


@pytest.mark.parametrize("loss_type", FINITE)
@given(family=families(max_features=1), theta=st.floats(0.05, 2.0))
def test_twice_the_step_has_half_the_limit(loss_type, family, theta):
    opponent, data, once, twice = (
        family.policy(torch.tensor([size], dtype=torch.float64))
        for size in (0.0, 1.0, theta, 2 * theta)
    )
    assume(tv(data, opponent).min() > 1e-3)
    one, two = (
        witness_limit(opponent, data, loss_type=loss_type, policy=policy)
        for policy in (once, twice)
    )
    assert two == pytest.approx(one / 2, rel=1e-6)


def test_the_finer_the_grid_the_larger_the_beta_that_still_moves():
    # theta/spacing members up to 1: the nearest one's limit doubles with each halving
    data = COIN.policy(torch.ones(1, dtype=torch.float64))
    opponent = COIN.policy(torch.zeros(1, dtype=torch.float64))
    limits = [
        max(
            witness_limit(
                opponent,
                data,
                policy=COIN.policy(torch.tensor([k * spacing], dtype=torch.float64)),
            )
            for k in range(1, 5)
        )
        for spacing in (1.0, 0.5, 0.25)
    ]
    assert limits[1:] == pytest.approx([2 * limits[0], 4 * limits[0]], rel=1e-9)


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_quantised_necessity_says_no_to_a_wrong_limit(factor, monkeypatch):
    def scaled(*tables, **rules):
        return factor * witness_limit(*tables, **rules)

    patch(monkeypatch, "witness_limit", scaled)
    assert not check_quantised_necessity(COIN, spacing=1.0).holds


@pytest.mark.parametrize("objective", [swapped_roles, opposite, constant])
def test_quantised_necessity_says_no_to_a_wrong_objective(objective, monkeypatch):
    patch(monkeypatch, "spin_objective", objective)
    assert not check_quantised_necessity(COIN, spacing=1.0).holds


def test_bad_arguments_are_refused():
    theta, two = torch.zeros(1, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"parameters must have shape \(1,\), got \(2,\)"):
        check_log_linear_necessity(COIN, two, theta)
    with pytest.raises(ValueError, match="beta must be finite"):
        check_log_linear_necessity(COIN, theta + 1, theta, betas=(0.0,))
    with pytest.raises(ValueError, match="betas must hold"):
        check_log_linear_necessity(COIN, theta + 1, theta, betas=())
    with pytest.raises(ValueError, match="loss_type must be"):
        check_log_linear_necessity(COIN, theta + 1, theta, loss_type="square")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"spacing": 0.0}, "spacing must be finite"),
        ({"spacing": math.nan}, "spacing must be finite"),
        ({"spacing": math.inf}, "spacing must be finite"),
        ({"reach": 0}, "reach must be >= 1"),
        ({"loss_type": "correlation"}, "must not be correlation"),
        ({"loss_type": "square"}, "loss_type must be"),
    ],
)
def test_a_grid_that_is_none_is_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        check_quantised_necessity(COIN, **{"spacing": 1.0} | parts)


def test_two_grid_points_of_one_policy_are_refused():
    flat = torch.ones(1, 2, 1, dtype=torch.float64)
    # two steps along the first feature are one along the second, but for rounding
    twice = torch.tensor([[[0.1, 0.2], [0.7, 1.4 * (1 + 1e-15)]]], dtype=torch.float64)
    for features in (flat, twice):
        with pytest.raises(ValueError, match="give every grid point a different"):
            check_quantised_necessity(LogLinearClass(features), spacing=1.0)
