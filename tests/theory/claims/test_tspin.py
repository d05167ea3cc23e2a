import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from spin_theory import (
    TabularPolicy,
    check_tspin_fixed_point,
    check_tspin_gradient,
    check_tspin_opponent,
    check_tspin_update,
    entropy,
    exact,
    fixed_point,
    last_iterate,
    minimise_problem,
    opponent_update,
    without_reference,
)
from tests.strategies import BETAS, LOSS_TYPES, at_most, log_policies, log_probs

SMOOTH = ["logistic", "exponential"]
WIDE_BETAS = st.floats(math.log(1e-3), math.log(1e3)).map(math.exp)
ONE_RESPONSE = (TabularPolicy.from_probs([[1.0]]),) * 3


class Unchecked(TabularPolicy):
    def __post_init__(self):
        pass


def tables_of(count, responses=6):
    return tuple(TabularPolicy.random(1, responses, seed=k, smallest=0.01) for k in range(count))


def patch(monkeypatch, name, function):
    monkeypatch.setattr(f"spin_theory.claims.tspin.{name}", function)


@example(tables=ONE_RESPONSE[:2], beta=1.0, size=1.0)
@given(
    tables=log_policies(count=2), beta=WIDE_BETAS, size=st.floats(-3.0, 3.0).map(lambda x: 10**x)
)
def test_proposition_1_softmax_maximises_mean_plus_entropy(tables, beta, size):
    scores, other = tables
    evidence = check_tspin_opponent(size * scores.log_probs, other, beta=beta)
    assert evidence.holds, evidence


@given(tables=log_policies(count=2), beta=BETAS)
def test_no_policy_has_more_than_the_maximum(tables, beta):
    scores, other = tables
    maximum = check_tspin_opponent(scores.log_probs, other, beta=beta).numbers["maximum"]
    value = (other.probs * scores.log_probs).sum(-1) + beta * entropy(other)
    assert value.mean() <= maximum + 1e-12 * (1 + abs(maximum) + value.abs().max())


def other_temperature(confidences, beta):
    return TabularPolicy.from_logits(confidences / (beta * (1 + 1e-6)))


def other_sign(confidences, beta):
    return TabularPolicy.from_logits(-confidences / beta)


def without_beta(confidences, beta):
    return TabularPolicy.from_logits(confidences * beta)


def with_a_reference(confidences, beta):  # SPIN's (4.4) in the place of (5)
    reference = TabularPolicy.random(1, 6, seed=9, smallest=0.01)
    return opponent_update(reference, confidences, beta=beta)


def without_normaliser(confidences, beta):
    return Unchecked(torch.log_softmax(confidences / beta, dim=-1) + 1e-6)


@pytest.mark.parametrize(
    "update",
    [other_temperature, other_sign, without_beta, with_a_reference, without_normaliser],
)
@given(beta=BETAS)
def test_proposition_1_says_no_to_a_wrong_policy(update, beta):
    assume(abs(beta - 1) > 1e-3)
    scores, other = tables_of(2)
    assert not check_tspin_opponent(scores.log_probs, other, beta=beta, update=update).holds


def table_class(theta):
    return torch.log_softmax(theta.reshape(2, 3), dim=-1)


def network(theta):
    inputs = torch.linspace(-1.0, 1.0, 2 * 3 * 2, dtype=torch.float64).cos().reshape(2, 3, 2)
    # Between -1 and 1: where a network saturates scores vanish, and their rounding does not.
    first, last = torch.tanh(theta / 20).split([2, 4])
    hidden = torch.tanh(inputs @ first)
    logits = last[0] * hidden + last[1] * hidden**2 + inputs @ last[2:]
    return torch.log_softmax(logits, dim=-1)


@st.composite
def triplets(draw):
    """Opponent, initial policy and data, of two prompts and three responses."""
    return tuple(TabularPolicy(draw(log_probs(prompts=2, responses=3))) for _ in range(3))


PARAMETERS = st.lists(st.floats(-20.0, 20.0), min_size=6, max_size=6).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("log_probs_of", [table_class, network])
@given(theta=PARAMETERS, tables=triplets(), beta=BETAS, weight=st.floats(0.0, 10.0))
def test_theorem_1_is_the_gradient_in_any_class(
    log_probs_of, loss_type, theta, tables, beta, weight
):
    table = log_probs_of(theta)
    margins = beta * (table[:, :, None] - table[:, None, :])
    assume(loss_type != "hinge" or (margins - 1).abs().min() > 1e-9)  # where it has a kink
    evidence = check_tspin_gradient(
        log_probs_of, theta, *tables, beta=beta, history_weight=weight, loss_type=loss_type
    )
    assert evidence.holds, evidence


def by_triplets(theta, tables, *, history=lambda rows, y, g, p: rows[g] - rows[p], **parts):
    """Theorem 1 as it stands, triplet by triplet; `parts` say what to get wrong."""
    opponent, initial, data = (tables[name] for name in parts.get("roles", ("t", "0", "data")))
    alpha, weight = parts.get("beta", 0.7), parts.get("weight", 0.3)
    table = table_class(theta)
    gradient = torch.zeros_like(theta)
    for x in range(2):
        rows = torch.autograd.functional.jacobian(lambda each, x=x: table_class(each)[x], theta)
        for y in range(3):
            for g in range(3):
                for p in range(3):
                    share = (data.probs[x, y] * opponent.probs[x, g] * initial.probs[x, p]) / 2
                    u, v = table[x, y] - table[x, g], table[x, g] - table[x, p]
                    now = -torch.sigmoid(-alpha * u) * (rows[y] - rows[g])
                    then = -torch.sigmoid(-alpha * v) * history(rows, y, g, p)
                    gradient += share * alpha * (now + weight * then)
    return gradient


def theorem_1(**wrong):
    tables = dict(zip(("t", "0", "data"), tables_of_two_prompts(), strict=True))
    return lambda theta: by_triplets(theta, tables, **wrong)


def tables_of_two_prompts():
    return tuple(TabularPolicy.random(2, 3, seed=k, smallest=0.1) for k in range(3))


def evidence_of(gradient, **rules):
    theta = torch.arange(6, dtype=torch.float64).sin()
    rules = {"beta": 0.7, "history_weight": 0.3} | rules
    return check_tspin_gradient(
        table_class, theta, *tables_of_two_prompts(), gradient=gradient, **rules
    )


def test_theorem_1_says_yes_to_the_sum_over_triplets():
    assert evidence_of(theorem_1()).holds


@pytest.mark.parametrize(
    "wrong",
    [
        {"history": lambda rows, y, g, p: rows[p] - rows[g]},  # its sign
        {"history": lambda rows, y, g, p: rows[g]},  # the proto response's score is missing
        {"history": lambda rows, y, g, p: -rows[p]},  # the generated one's is
        {"history": lambda rows, y, g, p: rows[y] - rows[p]},  # of the real response
        {"history": lambda rows, y, g, p: 0 * rows[p]},  # no history at all
        {"weight": 0.3 * (1 + 1e-6)},
        {"weight": -0.3},
        {"beta": 0.7 * (1 + 1e-6)},
        {"beta": -0.7},
        {"roles": ("data", "0", "t")},
        {"roles": ("0", "t", "data")},
        {"roles": ("t", "t", "data")},
    ],
)
def test_theorem_1_says_no_to_a_wrong_gradient(wrong):
    assert not evidence_of(theorem_1(**wrong)).holds


def test_theorem_1_says_no_to_a_gradient_that_is_nan_or_of_another_penalty():
    assert not evidence_of(lambda theta: theta * math.nan).holds
    assert not evidence_of(theorem_1(), loss_type="exponential").holds


@pytest.mark.parametrize("loss_type", SMOOTH)
@example(tables=ONE_RESPONSE[:2], beta=1.0)
@given(tables=log_policies(count=2), beta=BETAS)
def test_the_update_without_history_has_a_closed_form(loss_type, tables, beta):
    evidence = check_tspin_update(*tables, beta=beta, loss_type=loss_type)
    assert evidence.holds, evidence


def wrong_beta(problem):
    return exact(replace(problem, beta=problem.beta * (1 + 1e-6)))


def of_spin(problem):
    return exact(replace(problem, reference=problem.sampler))


def swapped_roles(problem):
    return exact(replace(problem, data=problem.sampler, sampler=problem.data))


def to_the_data(problem):
    return problem.data


def other_penalty(problem):
    return exact(replace(problem, loss_type="exponential"))


@pytest.mark.parametrize("update", [wrong_beta, of_spin, swapped_roles, to_the_data, other_penalty])
@given(beta=BETAS)
def test_the_update_says_no_to_a_wrong_one(update, beta):
    evidence = check_tspin_update(*tables_of(2), beta=beta, update=update)
    assert not evidence.holds
    assert evidence.numbers["gap"] <= 1e-20  # the minimiser is right


def test_the_update_says_no_where_the_minimiser_is_not_certified(monkeypatch):
    monkeypatch.setattr("spin_theory.minima.newton.MAX_STEPS", 1)

    def searched(problem):
        return minimise_problem(problem).policy

    assert not check_tspin_update(*tables_of(2), beta=1.0, update=searched).holds


@st.composite
def starts_and_data(draw):
    responses = draw(st.integers(2, 6))
    return tuple(
        TabularPolicy(draw(log_probs(prompts=1, responses=responses, smallest=math.log(1e-3))))
        for _ in range(2)
    )


@pytest.mark.parametrize("loss_type", SMOOTH)
@at_most(15)
@given(tables=starts_and_data(), beta=BETAS)
def test_without_history_the_game_rests_at_a_power_of_the_data(loss_type, tables, beta):
    evidence = check_tspin_fixed_point(*tables, beta=beta, loss_type=loss_type)
    assert evidence.holds, evidence


@pytest.mark.parametrize("loss_type", SMOOTH)
@at_most(15)
@given(
    tables=starts_and_data(),
    beta=BETAS,
    weight=st.floats(math.log(1e-3), math.log(10.0)).map(math.exp),
)
def test_history_steadies_the_game(loss_type, tables, beta, weight):
    evidence = check_tspin_fixed_point(
        *tables, beta=beta, history_weight=weight, loss_type=loss_type
    )
    assert evidence.holds, evidence


def test_at_the_published_alpha_history_makes_a_contraction_that_misses_the_data():
    start, data = tables_of(2)
    plain = check_tspin_fixed_point(start, data, beta=1.0).numbers
    steadied = check_tspin_fixed_point(start, data, beta=1.0, history_weight=0.1).numbers
    assert plain["spectral_radius"] == pytest.approx(1, abs=1e-10)
    assert 0.4 < steadied["spectral_radius"] < 0.95
    assert min(plain["tv"], steadied["tv"]) > 0.01


def test_the_game_rests_at_the_data_only_where_they_are_uniform():
    uniform = TabularPolicy.from_probs([[0.25] * 4])
    start = TabularPolicy.random(1, 4, seed=0, smallest=0.1)
    assert check_tspin_fixed_point(start, uniform, beta=1.0).numbers["tv"] < 1e-12


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_the_fixed_point_says_no_to_a_policy_that_moves(weight, monkeypatch):
    def off(start, data, **rules):
        point = fixed_point(start, data, **rules)
        return TabularPolicy.from_logits(point.log_probs * (1 + 1e-6))

    patch(monkeypatch, "fixed_point", off)
    assert not check_tspin_fixed_point(*tables_of(2), beta=1.0, history_weight=weight).holds


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_the_fixed_point_says_no_to_the_data(weight, monkeypatch):
    # where SPIN rests
    patch(monkeypatch, "fixed_point", lambda start, data, **rules: data)
    assert not check_tspin_fixed_point(*tables_of(2), beta=1.0, history_weight=weight).holds


def test_the_fixed_point_says_no_to_the_multipliers_of_spin(monkeypatch):
    patch(monkeypatch, "without_reference", last_iterate)
    assert not check_tspin_fixed_point(*tables_of(2), beta=2.0).holds


@pytest.mark.parametrize("loss_type", SMOOTH)
def test_the_fixed_point_says_no_to_another_multiplier(loss_type, monkeypatch):
    class Other:
        spectral_radius = (0.5 if loss_type == "logistic" else 0.25) * (1 + 1e-6)  # at alpha = 2

    patch(monkeypatch, "linearise", lambda *_, **__: Other)
    assert not check_tspin_fixed_point(*tables_of(2), beta=2.0, loss_type=loss_type).holds


def test_the_fixed_point_says_no_to_a_history_that_does_not_steady(monkeypatch):
    class Neutral:
        spectral_radius = 1.0 + 1e-6

    patch(monkeypatch, "linearise", lambda *_, **__: Neutral)
    assert not check_tspin_fixed_point(*tables_of(2), beta=1.0, history_weight=0.1).holds


def test_the_fixed_point_says_no_to_an_error_that_is_nan(monkeypatch):
    patch(monkeypatch, "tv", lambda *_: torch.tensor([math.nan]))
    assert not check_tspin_fixed_point(*tables_of(2), beta=1.0).holds
    assert not check_tspin_update(*tables_of(2), beta=1.0).holds


def test_bad_arguments_are_refused():
    two, three = TabularPolicy.random(1, 2, seed=0), TabularPolicy.random(1, 3, seed=0)
    prompts, theta = TabularPolicy.random(2, 3, seed=0), torch.zeros(6, dtype=torch.float64)
    rules = {"beta": 1.0, "history_weight": 0.1}
    with pytest.raises(ValueError, match="beta must be finite"):
        check_tspin_opponent(two.log_probs, two, beta=0.0)
    with pytest.raises(ValueError, match="one shape"):
        check_tspin_opponent(three.log_probs, two, beta=1.0)
    with pytest.raises(ValueError, match="one shape"):
        check_tspin_gradient(table_class, theta, three, prompts, prompts, **rules)
    with pytest.raises(ValueError, match="beta must be finite"):
        check_tspin_gradient(
            table_class, theta, prompts, prompts, prompts, beta=math.inf, history_weight=0.0
        )
    with pytest.raises(ValueError, match="loss_type must be"):
        check_tspin_gradient(
            table_class, theta, prompts, prompts, prompts, **rules, loss_type="square"
        )
    with pytest.raises(ValueError, match="linear programme"):
        check_tspin_update(two, two, beta=1.0, loss_type="hinge")
    with pytest.raises(ValueError, match="one shape"):
        check_tspin_update(two, three, beta=1.0)
    with pytest.raises(ValueError, match="one prompt"):
        check_tspin_fixed_point(prompts, prompts, beta=1.0)
    with pytest.raises(ValueError, match="history_weight must be"):
        check_tspin_fixed_point(three, three, beta=1.0, history_weight=-0.1)


@pytest.mark.parametrize(
    "parts", [{"beta": 0.0}, {"history_weight": -1.0}, {"loss_type": "square"}]
)
def test_a_claimed_gradient_is_refused_the_same_parameters(parts):
    with pytest.raises(ValueError, match="must be"):
        evidence_of(theorem_1(), **parts)


def test_a_claimed_gradient_is_refused_tables_of_another_shape():
    two, three = TabularPolicy.random(2, 2, seed=0), TabularPolicy.random(2, 3, seed=0)
    theta = torch.zeros(6, dtype=torch.float64)
    with pytest.raises(ValueError, match="one shape"):
        check_tspin_gradient(
            table_class,
            theta,
            three,
            two,
            three,
            beta=1.0,
            history_weight=0.1,
            gradient=theorem_1(),
        )


def test_the_rule_of_the_fixed_point_is_t_spins():
    start, data = tables_of(2)
    point = fixed_point(start, data, beta=2.0, opponent=without_reference)
    expected = TabularPolicy.from_logits(data.log_probs / 3)
    torch.testing.assert_close(point.probs, expected.probs, rtol=1e-11, atol=1e-14)
