import math

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from spin_theory import TabularPolicy, entropy
from spin_theory.claims.tspin import check_tspin_gradient, check_tspin_opponent
from spin_theory.minima.closed_forms import opponent_update
from tests.strategies import BETAS, LOSS_TYPES, log_policies, log_probs

WIDE_BETAS = st.floats(math.log(1e-3), math.log(1e3)).map(math.exp)
ONE_RESPONSE = (TabularPolicy.from_probs([[1.0]]),) * 3


class Unchecked(TabularPolicy):
    def __post_init__(self):
        pass


def tables_of(count, responses=6):
    return tuple(TabularPolicy.random(1, responses, seed=k, smallest=0.01) for k in range(count))


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
