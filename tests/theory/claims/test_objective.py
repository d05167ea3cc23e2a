import math

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from spin_theory import (
    InnerProblem,
    TabularPolicy,
    bhattacharyya,
    js,
    optimality_gap,
    spin_objective,
    tv,
)
from spin_theory.claims.distance import pair_policies
from spin_theory.claims.objective import (
    check_convexity,
    check_hinge_duality,
    check_optimal_value,
    check_unbounded,
)
from spin_theory.minima.certificates import Ray, descending_ray
from spin_theory.minima.hinge import chain_potentials, hinge_minimum, hinge_programme
from tests.strategies import BETAS, LOSS_TYPES, log_policies, log_probs

BOUNDED = ["logistic", "hinge", "exponential"]
TIES = tuple(
    TabularPolicy.from_probs([row])
    for row in ([0.1, 0.2, 0.3, 0.4], [0.2, 0.4, 0.2, 0.2], [0.4, 0.4, 0.1, 0.1])
)

ONE_RESPONSE = (TabularPolicy.from_probs([[1.0]]),) * 3
NEARLY_EQUAL = (
    TabularPolicy.from_probs([[0.5, 0.5]]),
    TabularPolicy.from_probs([[0.5 + 1e-12, 0.5 - 1e-12]]),
)


def tables_of(count):
    return tuple(TabularPolicy.random(1, 6, seed=k, smallest=0.01) for k in range(count))


def problem_of(data, opponent, initial, *, beta, loss_type, weight, referenced):
    return InnerProblem(
        data=data,
        sampler=opponent,
        reference=opponent if referenced else None,
        beta=beta,
        loss_type=loss_type,
        initial=initial,
        history_weight=weight,
    )


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@given(
    tables=log_policies(count=4), beta=BETAS, weight=st.floats(0.0, 10.0), referenced=st.booleans()
)
def test_every_objective_is_convex_between_any_two_policies(
    loss_type, tables, beta, weight, referenced
):
    data, opponent, one, other = tables
    problem = problem_of(
        data,
        opponent,
        one,
        beta=beta,
        loss_type=loss_type,
        weight=weight,
        referenced=referenced,
    )
    assume(all(bool(problem.values(end).isfinite().all()) for end in (one, other)))
    evidence = check_convexity(problem, one, other)
    assert evidence.holds, evidence


def of_a_concave_penalty(problem, policy):
    scores = problem.scores(policy)
    margins = scores[:, :, None] - scores[:, None, :]
    weights = problem.log_pair_weights().exp()
    return (weights * torch.sigmoid(-margins)).sum(dim=(-2, -1))  # a 0-1 loss, smoothed


def negated(problem, policy):
    return -problem.values(policy)


def distance(problem, policy):
    return tv(policy, problem.data)


def of_the_probabilities(problem, policy):
    return (policy.probs * problem.data.probs).sum(dim=-1)


@pytest.mark.parametrize("values", [of_a_concave_penalty, negated, distance, of_the_probabilities])
def test_convexity_says_no_to_an_objective_that_is_not_convex(values):
    data, opponent, start = tables_of(3)
    end = TabularPolicy.from_logits(-8 * start.log_probs)
    problem = problem_of(
        data, opponent, start, beta=2.0, loss_type="logistic", weight=0.0, referenced=True
    )
    assert check_convexity(problem, start, end).holds
    evidence = check_convexity(problem, start, end, values=lambda each: values(problem, each))
    assert not evidence.holds


def test_convexity_says_no_where_an_end_is_infinite():
    data, opponent = tables_of(2)
    far = TabularPolicy.from_logits(-1000 * opponent.log_probs)
    problem = problem_of(
        data, opponent, None, beta=10.0, loss_type="exponential", weight=0.0, referenced=True
    )
    assert not check_convexity(problem, far, far).holds


@given(tables=log_policies(count=2))
def test_the_two_orders_of_a_pair_are_each_others_transpose(tables):
    data, opponent = tables
    shape = (*data.log_probs.shape, data.log_probs.shape[1])
    pairs, swapped = (each.probs.reshape(shape) for each in pair_policies(data, opponent))
    # exp of the same numbers in other lanes of a vector: up to a unit in the last place apart
    torch.testing.assert_close(swapped, pairs.mT, rtol=4e-16, atol=0)
    torch.testing.assert_close(pairs.sum(-1), data.probs, rtol=1e-12, atol=0)
    torch.testing.assert_close(pairs.sum(-2), opponent.probs, rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss_type", BOUNDED)
@example(tables=TIES, beta=1.0)
@example(tables=(TIES[0], TIES[0], TIES[1]), beta=1.0)
@example(tables=ONE_RESPONSE, beta=1.0)
@given(tables=log_policies(count=3), beta=BETAS)
def test_the_least_value_and_the_gap_above_it(loss_type, tables, beta):
    data, opponent, other = tables
    value = spin_objective(other, opponent, data, beta=beta, loss_type=loss_type)
    assume(bool(value.isfinite()))
    evidence = check_optimal_value(data, opponent, other, beta=beta, loss_type=loss_type)
    assert evidence.holds, evidence
    assert evidence.numbers["minimum"] <= value + 1e-12


def patch(monkeypatch, name, function):
    monkeypatch.setattr(f"spin_theory.claims.objective.{name}", function)


@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
def test_the_least_value_says_no_to_a_search_that_stops_early(loss_type, monkeypatch):
    monkeypatch.setattr("spin_theory.minima.newton.MAX_STEPS", 1)
    assert not check_optimal_value(*tables_of(3), beta=1.0, loss_type=loss_type).holds


@pytest.mark.parametrize("loss_type", BOUNDED)
def test_the_least_value_says_no_to_the_gap_at_another_beta(loss_type, monkeypatch):
    def at_another_beta(*tables, beta, **problem):
        return optimality_gap(*tables, beta=beta * (1 + 1e-6), **problem)

    patch(monkeypatch, "optimality_gap", at_another_beta)
    assert not check_optimal_value(*tables_of(3), beta=1.0, loss_type=loss_type).holds


@pytest.mark.parametrize("loss_type", BOUNDED)
def test_the_least_value_says_no_to_a_gap_that_is_nan(loss_type, monkeypatch):
    # the largest of some errors was taken by `max`, which passes over nan
    patch(monkeypatch, "optimality_gap", lambda *_, **__: torch.tensor(math.nan))
    evidence = check_optimal_value(*tables_of(3), beta=1.0, loss_type=loss_type)
    assert math.isnan(evidence.residual)
    assert not evidence.holds


def test_the_least_value_says_no_to_the_divergence_of_single_responses(monkeypatch):
    data, opponent, other = tables_of(3)
    patch(monkeypatch, "js", lambda *_: js(data, opponent))
    assert not check_optimal_value(data, opponent, other, beta=1.0).holds


def test_the_least_value_says_no_to_an_overlap_that_is_not_squared(monkeypatch):
    patch(monkeypatch, "bhattacharyya", lambda *tables: bhattacharyya(*tables).sqrt())
    assert not check_optimal_value(*tables_of(3), beta=1.0, loss_type="exponential").holds


def test_the_least_value_says_no_to_hinge_advantages_in_another_order(monkeypatch):
    def reversed_order(data, opponent):
        values, advantages = hinge_minimum(data, opponent)
        return values, -advantages

    patch(monkeypatch, "hinge_minimum", reversed_order)
    assert not check_optimal_value(*tables_of(3), beta=1.0, loss_type="hinge").holds


@pytest.mark.parametrize("responses", [2, 6])
def test_the_least_value_says_no_to_a_cheap_bound_that_is_none(responses, monkeypatch):
    tables = [TabularPolicy.random(1, responses, seed=k, smallest=0.01) for k in range(3)]
    patch(monkeypatch, "tv", lambda *pair: tv(*pair) ** 2 / 2)
    assert not check_optimal_value(*tables, beta=1.0, loss_type="hinge").holds


def test_the_cheap_hinge_bound_is_tight_at_two_responses_and_not_at_three():
    def slack(data, opponent):
        return hinge_minimum(data, opponent)[0] - (1 - tv(*pair_policies(data, opponent)))

    pairs = [
        [TabularPolicy.from_probs([row]) for row in rows]
        for rows in (
            ([0.9, 0.1], [0.2, 0.8]),
            ([0.7, 0.2, 0.1], [0.1, 0.2, 0.7]),
        )
    ]
    two, three = (slack(*pair).item() for pair in pairs)
    assert two == pytest.approx(0, abs=1e-15)
    assert three > 0.01


def swapped(policy, opponent, data, *, beta, **problem):
    return spin_objective(opponent, policy, data, beta=beta, **problem)


SMALL_PRODUCTS = tuple(
    TabularPolicy.from_logits(torch.tensor([row], dtype=torch.float64))
    for row in ([0.0, 0.0, 0.0, 0.0, -7.0], [0.0, 0.0, 0.0, -7.0, -7.0])
)


@st.composite
def moderate_policies(draw, *, count):
    responses = draw(st.integers(1, 6))
    tables = [
        draw(log_probs(prompts=2, responses=responses, smallest=math.log(1e-4)))
        for _ in range(count)
    ]
    return tuple(TabularPolicy(table) for table in tables)


@example(tables=TIES[:2])
@example(tables=SMALL_PRODUCTS).via("weights of 7e-8, below HiGHS's tolerance: off by 1.4e-7")
@given(tables=moderate_policies(count=2))
def test_the_shortest_path_is_the_linear_programmes_minimum(tables):
    evidence = check_hinge_duality(*tables)
    assert evidence.holds, evidence


def test_hinge_duality_says_no_to_a_path_that_is_not_the_shortest(monkeypatch):
    patch(monkeypatch, "hinge_minimum", lambda *tables: (hinge_minimum(*tables)[0] + 1e-6, None))
    assert not check_hinge_duality(*tables_of(2)).holds


def test_hinge_duality_says_no_to_wrong_potentials(monkeypatch):
    patch(monkeypatch, "chain_potentials", lambda *tables: 0.999999 * chain_potentials(*tables))
    assert not check_hinge_duality(*tables_of(2)).holds


@pytest.mark.parametrize("part", ["scores", "flows"])
def test_hinge_duality_says_no_to_a_programme_that_stops_early(part, monkeypatch):
    def stopped(log_weights):
        scores, flows = hinge_programme(log_weights)
        return (scores + scores.argsort(), flows) if part == "scores" else (scores, 0.9 * flows)

    patch(monkeypatch, "hinge_programme", stopped)
    assert not check_hinge_duality(*tables_of(2)).holds


@example(tables=NEARLY_EQUAL, beta=1.0).via("relative to depth alone, rounding of the scores")
@given(tables=log_policies(count=2, min_responses=2), beta=BETAS)
def test_the_correlation_goes_below_any_bound(tables, beta):
    assume(tv(*tables).min() > 1e-13)
    evidence = check_unbounded(*tables, beta=beta)
    assert evidence.holds, evidence
    assert evidence.numbers["slope"] > 0


def opposite_ray(data, opponent):
    ray = descending_ray(data, opponent)
    return Ray(-ray.direction, ray.slope)


def flat_ray(data, opponent):
    ray = descending_ray(data, opponent)
    return Ray(torch.zeros_like(ray.direction), ray.slope)


def steeper_ray(data, opponent):
    ray = descending_ray(data, opponent)
    return Ray(ray.direction, ray.slope * (1 + 1e-6))


@pytest.mark.parametrize("ray", [opposite_ray, flat_ray, steeper_ray])
def test_unbounded_says_no_to_a_wrong_ray(ray, monkeypatch):
    patch(monkeypatch, "descending_ray", ray)
    assert not check_unbounded(*tables_of(2), beta=1.0).holds


def test_bad_arguments_are_refused():
    two, three = TabularPolicy.random(1, 2, seed=0), TabularPolicy.random(1, 3, seed=0)
    with pytest.raises(ValueError, match="one shape"):
        pair_policies(two, three)
    with pytest.raises(ValueError, match="one shape"):
        check_optimal_value(two, three, two, beta=1.0)
    with pytest.raises(ValueError, match="correlation has no minimum"):
        check_optimal_value(
            two, TabularPolicy.random(1, 2, seed=1), two, beta=1.0, loss_type="correlation"
        )
    for equal in (two, TabularPolicy(two.log_probs * (1 + 1e-15))):
        with pytest.raises(ValueError, match="must differ from data for every prompt"):
            check_unbounded(two, equal, beta=1.0)
