import math

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from spin_theory import PENALTIES, LogLinearClass, TabularPolicy, kl, spin_objective, tv
from spin_theory.claims.witnesses import (
    check_witness_interval,
    objective_drop_at_data,
    objective_slope_at_zero,
    witness_limit,
)
from spin_theory.losses import penalty_slope
from tests.strategies import LOSS_TYPES, log_policies

FINITE = ["logistic", "hinge", "exponential"]
HALF = TabularPolicy.from_probs([[0.5, 0.5]])
FAR_TAILS = (
    TabularPolicy.from_logits(torch.tensor([[0.0, -700.0]], dtype=torch.float64)),
    TabularPolicy.from_logits(torch.tensor([[-3.0, 0.0]], dtype=torch.float64)),
)
ONE_PROMPT_EQUAL = (
    TabularPolicy.from_probs([[0.5, 0.5], [0.9, 0.1]]),
    TabularPolicy.from_probs([[0.5, 0.5], [0.2, 0.8]]),
)
AT_A_POWER_OF_TWO = tuple(
    TabularPolicy.from_logits(torch.tensor(rows, dtype=torch.float64))
    for rows in (
        [
            [-1.4970402694148492e-10, -22.622361183316208],
            [-2.1834032270318753, -0.11952421397035182],
        ],
        [[-1.3132616875182228, -0.31326168751822286], [-1.2343179103418822, -0.34394658771004616]],
    )
)
DUPLICATES = (
    TabularPolicy.from_probs([[0.25, 0.25, 0.25, 0.25]]),
    TabularPolicy.from_probs([[0.4, 0.4, 0.1, 0.1]]),
)


def patch(monkeypatch, name, function):
    monkeypatch.setattr(f"spin_theory.claims.witnesses.{name}", function)


def tables_of(count):
    return tuple(TabularPolicy.random(2, 6, seed=k, smallest=0.1) for k in range(count))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@example(tables=ONE_PROMPT_EQUAL)
@example(tables=DUPLICATES)
@given(tables=log_policies(count=2, min_responses=2))
def test_the_witnesses_are_an_interval_and_no_beta_makes_it_stationary(loss_type, tables):
    assume(tv(*tables).max() > 1e-7)
    evidence = check_witness_interval(*tables, loss_type=loss_type)
    assert evidence.holds, evidence
    assert evidence.numbers["slope"] < 0
    assert evidence.numbers["gradient"] > 0


@pytest.mark.parametrize("loss_type", FINITE)
@given(tables=log_policies(count=2, min_responses=2), inside=st.floats(1e-3, 0.999))
def test_inside_the_interval_the_data_are_lower_and_outside_not(loss_type, tables, inside):
    data, opponent = tables
    assume(tv(data, opponent).max() > 1e-6)
    limit = witness_limit(opponent, data, loss_type=loss_type)
    below, above = (
        objective_drop_at_data(opponent, data, beta=beta, loss_type=loss_type)
        for beta in (inside * limit, limit * (2 - inside))
    )
    assert below > 0
    assert not above > 0


@given(tables=log_policies(count=2, min_responses=2))
def test_the_exponential_limit_is_exactly_one(tables):
    data, opponent = tables
    assume(tv(data, opponent).max() > 1e-6)
    limit = witness_limit(opponent, data, loss_type="exponential")
    assert limit == pytest.approx(1, abs=1e-7)


@given(tables=log_policies(count=2, min_responses=2), share=st.floats(1e-3, 1.0))
def test_the_logistic_limit_is_above_two_and_nears_it_as_the_opponent_nears_the_data(tables, share):
    data, far = tables
    assume(tv(data, far).max() > 1e-2)
    log_ratio = far.log_probs - data.log_probs
    reach = (log_ratio.amax() - log_ratio.amin()).item()
    near = TabularPolicy.from_logits(data.log_probs + 0.02 / reach * share * log_ratio)
    limit = witness_limit(near, data)
    assert limit > 2 - 1e-6
    assert limit < 2 + 1e-4
    assert witness_limit(far, data) > limit - 1e-6


@given(tables=log_policies(count=2, min_responses=2))
def test_the_hinge_limit_is_at_least_e(tables):
    data, opponent = tables
    assume(tv(data, opponent).max() > 1e-6)
    assert witness_limit(opponent, data, loss_type="hinge") >= math.e * (1 - 1e-9)


@pytest.mark.parametrize(("log_odds", "equal"), [(1.0, True), (0.5, False), (2.0, False)])
def test_the_hinge_limit_is_e_at_log_odds_one_and_more_elsewhere(log_odds, equal):
    # two responses: beta* = exp(d)/d where beta d >= 1, of which d = 1 is the least
    data = TabularPolicy.from_logits(torch.tensor([[log_odds, 0.0]], dtype=torch.float64))
    limit = witness_limit(HALF, data, loss_type="hinge")
    assert limit == pytest.approx(math.exp(log_odds) / log_odds, rel=1e-11)
    assert (limit < math.e * (1 + 1e-9)) == equal


@pytest.mark.parametrize("loss_type", FINITE)
@given(tables=log_policies(count=2, min_responses=2), weight=st.floats(0.0, 1.0))
def test_the_limit_with_prompt_probs_is_where_their_average_ends(loss_type, tables, weight):
    data, opponent = (
        TabularPolicy(torch.cat([table.log_probs[:1], other.log_probs[:1]]))
        for table, other in (tables, tables[::-1])
    )
    assume(tv(data, opponent).max() > 1e-6)
    probs = torch.tensor([weight, 1 - weight], dtype=torch.float64)
    limit = witness_limit(opponent, data, loss_type=loss_type, prompt_probs=probs)
    drops = [
        objective_drop_at_data(
            opponent, data, beta=limit * factor, loss_type=loss_type, prompt_probs=probs
        )
        for factor in (1 - 1e-5, 1 + 1e-5)
    ]
    assert drops[0] > 0 > drops[1]


@pytest.mark.parametrize("loss_type", FINITE)
@example(tables=AT_A_POWER_OF_TWO, share=0.125).via(
    "exponential: the limit is 8, where the drop is noise, and exp(log(8)) is not 8"
)
@given(tables=log_policies(count=2, min_responses=2), share=st.floats(0.01, 0.5))
def test_a_policy_half_as_far_is_a_witness_up_to_twice_the_beta(loss_type, tables, share):
    data, opponent = tables
    assume(tv(data, opponent).min() > 1e-2)

    def limit(part):
        step = part * (data.log_probs - opponent.log_probs)
        policy = TabularPolicy.from_logits(opponent.log_probs + step)
        return witness_limit(opponent, data, loss_type=loss_type, policy=policy)

    assert limit(share / 2) == pytest.approx(2 * limit(share), rel=1e-6)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_policy_on_the_other_side_is_no_witness_at_any_beta(loss_type):
    data, opponent = tables_of(2)
    log_ratio = data.log_probs - opponent.log_probs
    behind = TabularPolicy.from_logits(opponent.log_probs - log_ratio)
    assert witness_limit(opponent, data, loss_type=loss_type, policy=behind) == 0.0


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@given(tables=log_policies(count=2, min_responses=2), share=st.floats(1e-6, 3.0))
def test_no_rounding_makes_a_witness_of_a_policy_on_the_other_side(loss_type, tables, share):
    # at a tiny beta the objective was below l(0) by its last bit
    data, opponent = tables
    log_ratio = data.log_probs - opponent.log_probs
    behind = TabularPolicy.from_logits(opponent.log_probs - share * log_ratio)
    assert witness_limit(opponent, data, loss_type=loss_type, policy=behind) == 0.0


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_where_the_opponent_is_the_data_there_is_no_witness(loss_type):
    (data,) = tables_of(1)
    assert witness_limit(data, data, loss_type=loss_type) == 0.0


def test_the_limit_of_the_correlation_is_infinite():
    data, opponent = tables_of(2)
    assert witness_limit(opponent, data, loss_type="correlation") == math.inf


@pytest.mark.parametrize("loss_type", ["logistic", "hinge"])
def test_a_limit_beyond_float64_is_infinite(loss_type):
    # the doubling overflowed: OverflowError
    opponent, data = FAR_TAILS
    assert witness_limit(opponent, data, loss_type=loss_type) == math.inf


def test_the_limit_can_be_huge():
    opponent = TabularPolicy.from_probs([[1 - 1e-12, 1e-12]])
    assert witness_limit(opponent, TabularPolicy.from_probs([[0.2, 0.8]])) > 1e9


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@given(tables=log_policies(count=3))
def test_the_slope_at_zero_is_the_objectives(loss_type, tables):
    policy, opponent, data = tables
    slope = objective_slope_at_zero(policy, opponent, data, loss_type=loss_type)
    beta = 1e-7
    start, moved = (
        spin_objective(policy, opponent, data, beta=step, loss_type=loss_type).item()
        for step in (beta, 2 * beta)
    )
    margins = 2 * (policy.log_probs - opponent.log_probs).abs().max().item()
    assert (moved - start) / beta == pytest.approx(slope.mean().item(), abs=2e-7 * (1 + margins**2))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@given(tables=log_policies(count=2))
def test_at_the_data_the_slope_is_both_divergences(loss_type, tables):
    data, opponent = tables
    slope = objective_slope_at_zero(data, opponent, data, loss_type=loss_type)
    both = kl(data, opponent) + kl(opponent, data)
    torch.testing.assert_close(slope, penalty_slope(loss_type) * both, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_the_slope_of_a_penalty_is_its_difference_quotient(loss_type):
    step = torch.tensor(1e-6, dtype=torch.float64)
    quotient = (PENALTIES[loss_type](step) - PENALTIES[loss_type](-step)) / (2 * step)
    assert penalty_slope(loss_type) == pytest.approx(quotient.item(), rel=1e-9)
    assert penalty_slope(loss_type) < 0


def shifted_limit(factor):
    return lambda *tables, **rules: factor * witness_limit(*tables, **rules)


@pytest.mark.parametrize(
    ("loss_type", "factor"),
    [("logistic", 0.5), ("hinge", 0.3), ("exponential", 0.99), ("exponential", 1.01)],
)
def test_the_interval_says_no_to_a_wrong_limit(loss_type, factor, monkeypatch):
    patch(monkeypatch, "witness_limit", shifted_limit(factor))
    data, opponent = tables_of(2)
    assert not check_witness_interval(data, opponent, loss_type=loss_type).holds


@pytest.mark.parametrize("limit", [math.nan, 1e300])
def test_the_interval_says_no_to_a_finite_limit_of_the_correlation(limit, monkeypatch):
    patch(monkeypatch, "witness_limit", lambda *_, **__: limit)
    assert not check_witness_interval(*tables_of(2), loss_type="correlation").holds


@pytest.mark.parametrize("loss_type", FINITE)
def test_the_interval_says_no_to_a_limit_that_is_nan(loss_type, monkeypatch):
    patch(monkeypatch, "witness_limit", lambda *_, **__: math.nan)
    assert not check_witness_interval(*tables_of(2), loss_type=loss_type).holds


def drop_of_swapped_roles(opponent, data, **rules):
    return objective_drop_at_data(data, opponent, **rules)


def drop_of_another_beta(opponent, data, *, beta, **rules):
    return objective_drop_at_data(opponent, data, beta=beta * 1.001, **rules)


def opposite_drop(opponent, data, **rules):
    return -objective_drop_at_data(opponent, data, **rules)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("drop", [drop_of_another_beta, opposite_drop])
def test_the_interval_says_no_to_a_wrong_drop(drop, loss_type, monkeypatch):
    patch(monkeypatch, "objective_drop_at_data", drop)
    assert not check_witness_interval(*tables_of(2), loss_type=loss_type).holds


def gradient_of_swapped_roles(policy, opponent, data, **rules):
    return spin_objective(policy, data, opponent, **rules)


def gradient_of_another_beta(policy, opponent, data, *, beta, **rules):
    return spin_objective(policy, opponent, data, beta=beta * 1.001, **rules)


def opposite_gradient(policy, opponent, data, **rules):
    return -spin_objective(policy, opponent, data, **rules)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize(
    "objective", [gradient_of_swapped_roles, gradient_of_another_beta, opposite_gradient]
)
def test_the_interval_says_no_to_a_wrong_gradient(objective, loss_type, monkeypatch):
    patch(monkeypatch, "spin_objective", objective)
    assert not check_witness_interval(*tables_of(2), loss_type=loss_type).holds


def test_the_interval_says_no_to_one_divergence_for_both(monkeypatch):
    data, opponent = tables_of(2)
    patch(monkeypatch, "kl", lambda *_: kl(data, opponent))
    assert not check_witness_interval(data, opponent).holds


def test_a_class_of_one_feature_has_the_limits_of_its_members():
    family = LogLinearClass(torch.tensor([[[1.0], [0.0]]], dtype=torch.float64))
    opponent, data = (family.policy(torch.tensor([theta]).double()) for theta in (0.0, 1.0))
    assert witness_limit(opponent, data, loss_type="hinge") == pytest.approx(math.e, rel=1e-9)


def test_bad_arguments_are_refused():
    three = TabularPolicy.random(1, 3, seed=0)
    with pytest.raises(ValueError, match="one shape"):
        witness_limit(HALF, three)
    with pytest.raises(ValueError, match="one shape"):
        witness_limit(HALF, TabularPolicy.random(1, 2, seed=0), policy=three)
    with pytest.raises(ValueError, match="loss_type must be"):
        witness_limit(HALF, TabularPolicy.random(1, 2, seed=0), loss_type="square")
    with pytest.raises(ValueError, match="prompt_probs must"):
        witness_limit(HALF, TabularPolicy.random(1, 2, seed=0), prompt_probs=torch.ones(2))
    with pytest.raises(ValueError, match="one shape"):
        objective_slope_at_zero(HALF, HALF, three, loss_type="logistic")
    with pytest.raises(ValueError, match="loss_type must be"):
        objective_slope_at_zero(HALF, HALF, HALF, loss_type="square")
    with pytest.raises(ValueError, match="loss_type must be"):
        penalty_slope("square")
    with pytest.raises(ValueError, match="one shape"):
        check_witness_interval(HALF, three)
    last_bit = TabularPolicy(HALF.log_probs * (1 + 1e-15))
    for equal in (HALF, last_bit):
        with pytest.raises(ValueError, match="must differ from data"):
            check_witness_interval(HALF, equal)
    with pytest.raises(ValueError, match="loss_type must be"):
        check_witness_interval(HALF, TabularPolicy.random(1, 2, seed=0), loss_type="square")


@pytest.mark.parametrize("loss_type", ["logistic", "hinge"])
@pytest.mark.parametrize("factor", [1 - 1e-6, 1 + 1e-6, 0.5, 2.0, 1e200])
def test_a_wrong_end_of_the_witnesses_is_rejected_on_either_side(loss_type, factor, monkeypatch):
    data, opponent = (TabularPolicy.random(1, 5, seed=seed) for seed in range(2))
    assert check_witness_interval(data, opponent, loss_type=loss_type).holds
    wrong = factor * witness_limit(opponent, data, loss_type=loss_type)
    monkeypatch.setattr("spin_theory.claims.witnesses.witness_limit", lambda *_, **__: wrong)
    assert not check_witness_interval(data, opponent, loss_type=loss_type).holds
