import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from spin_theory import InnerProblem, TabularPolicy, optimal_value, optimality_gap
from spin_theory.losses import penalty_named
from spin_theory.minima.certificates import certify, descending_ray
from spin_theory.minima.hinge import chain_potentials, hinge_bound, hinge_minimum, hinge_programme
from spin_theory.minima.minimise import minimise_problem
from spin_theory.minima.newton import newton
from tests.strategies import BETAS, log_policies, log_probs

SMOOTH = ["logistic", "exponential"]
SMALLEST = math.log(1e-150)  # products of two stay above float64's least
SLACK = 1e-12  # of the value: rounding

CELLS = st.one_of(st.floats(SMALLEST, 0.0), st.floats(-3.0, 0.0), st.just(-math.inf))
SCORES = st.one_of(
    st.floats(-1e3, 1e3),
    st.floats(-3.0, 3.0),
    st.integers(-1, 1).map(float),  # ties
    st.sampled_from([-700.0, 0.0, 700.0]),
)


@st.composite
def spin_weights(draw, *, max_responses=5, smallest=SMALLEST):
    """SPIN's weights (1, Y, Y): a product of two tables."""
    responses = draw(st.integers(1, max_responses))
    tables = draw(log_probs(prompts=2, responses=responses, smallest=smallest))
    return tables[:1, :, None] + tables[1:, None, :]


@st.composite
def tspin_weights(draw, *, max_responses=5, smallest=SMALLEST):
    """T-SPIN's weights (1, Y, Y): a sum of two products."""
    responses = draw(st.integers(1, max_responses))
    data, opponent, initial = (
        TabularPolicy(table[None])
        for table in draw(log_probs(prompts=3, responses=responses, smallest=smallest))
    )
    problem = InnerProblem(
        data=data,
        sampler=opponent,
        reference=None,
        beta=1.0,
        initial=initial,
        history_weight=draw(st.floats(1e-3, 10.0)),
    )
    return problem.log_pair_weights()


@st.composite
def general_weights(draw, *, max_responses=5):
    """Weights (1, Y, Y) that need be no product, nor connected: pairs may miss."""
    responses = draw(st.integers(1, max_responses))
    row = st.lists(CELLS, min_size=responses, max_size=responses)
    return torch.tensor(
        [draw(st.lists(row, min_size=responses, max_size=responses))], dtype=torch.float64
    )


WEIGHTS = st.one_of(spin_weights(), tspin_weights(), general_weights())


@st.composite
def weights_and_scores(draw, *, count, weights=WEIGHTS):
    """Weights (1, Y, Y), and `count` tables of scores (1, Y)."""
    log_weights = draw(weights)
    responses = log_weights.shape[1]
    row = st.lists(SCORES, min_size=responses, max_size=responses)
    tables = (torch.tensor([draw(row)], dtype=torch.float64) for _ in range(count))
    return log_weights, *tables


def value(log_weights, scores, loss_type):
    margins = scores[:, :, None] - scores[:, None, :]
    if loss_type == "exponential":  # its penalty overflows where its terms need not
        return (log_weights - margins).exp().sum().item()
    terms = log_weights.exp() * penalty_named(loss_type)(margins)
    return terms.sum().item()


def is_bound(bound, least):
    return bound <= least * (1 + SLACK) + 1e-300


def float64(rows):
    return torch.tensor([rows], dtype=torch.float64)


@pytest.mark.parametrize("loss_type", SMOOTH)
@example(
    case=(
        float64([[-1.0, -2.0, -1.0], [-2.0, -1.0, -0.5], [-1.0, -2.0, -0.3]]),
        float64([0.1, 0.4, -0.3]),
        float64([0.0, -0.2, -0.1]),
    )
).via("the exponential's flows had infinite room, and no tree corrected them")
@example(
    case=(
        float64([[-58.0, -112.0, -57.0], [-1.0, -55.0, 0.0], [-74.0, -128.0, -73.0]]),
        float64([2.0, -3.0, 3.0]),
        float64([-31.0, 80.0, -48.0]),
    )
).via("a flow taken off another to nearly 0 kept the rounding of what it was, 4e-15")
@example(
    case=(
        float64([[-58.0, -38.0, 0.0], [-66.0, -46.0, -8.0], [-70.0, -50.0, -12.0]]),
        float64([24.0, 146.0, 28.0]),
        float64([33.0, 5.0, -37.0]),
    )
).via("what one correction leaves over is 1e-15 here, and a hundred times the value")
@given(case=weights_and_scores(count=2))
def test_no_scores_go_below_the_bound_of_any_others(loss_type, case):
    log_weights, claimed, other = case
    bound = certify(log_weights, claimed, loss_type=loss_type).lower_bound.item()
    assert not math.isnan(bound)
    for scores in (claimed, other, torch.zeros_like(other)):
        assert is_bound(bound, value(log_weights, scores, loss_type))


@pytest.mark.parametrize("loss_type", SMOOTH)
@given(case=weights_and_scores(count=1, weights=st.one_of(spin_weights(), tspin_weights())))
def test_the_minimiser_does_not_go_below_the_bound_of_any_scores(loss_type, case):
    log_weights, claimed = case
    bound = certify(log_weights, claimed, loss_type=loss_type).lower_bound.item()
    best = newton(log_weights, loss_type=loss_type).scores
    assert is_bound(bound, value(log_weights, best, loss_type))


@pytest.mark.parametrize("loss_type", SMOOTH)
@example(case=(float64([[-1.0, -2.0], [-2.0, -1.0]]), float64([0.0, 700.0]))).via(
    "the share of a flow that underflows was 0/0"
)
@given(case=weights_and_scores(count=1))
def test_value_minus_bound_is_the_gap(loss_type, case):
    log_weights, scores = case
    proof = certify(log_weights, scores, loss_type=loss_type)
    least, gap = proof.lower_bound.item(), proof.gap.item()
    found = value(log_weights, scores, loss_type)
    assert gap >= 0
    if math.isfinite(found):
        largest = max(found, abs(least))
        assert found - least == pytest.approx(gap, rel=1e-9, abs=1e-9 * largest)


@pytest.mark.parametrize("loss_type", SMOOTH)
@example(log_weights=float64([[-1e3, -5.0], [-5.0, -1e3]])).via("weights that are zero in float64")
@given(
    log_weights=st.one_of(
        spin_weights(smallest=math.log(1e-60)), tspin_weights(smallest=math.log(1e-12))
    )
)
def test_the_bound_is_tight_at_the_minimiser(loss_type, log_weights):
    best = newton(log_weights, loss_type=loss_type).scores
    proof = certify(log_weights, best, loss_type=loss_type)
    least = value(log_weights, best, loss_type)
    assert 0 <= proof.gap.item() <= 1e-14 * least
    assert proof.lower_bound.item() == pytest.approx(least, rel=1e-13)


@pytest.mark.parametrize("loss_type", SMOOTH)
@given(policies=log_policies(count=2), beta=BETAS)
def test_spins_bound_is_log_2_minus_js_and_the_squared_overlap(loss_type, policies, beta):
    opponent, data = policies
    problem = InnerProblem(
        data=data, sampler=opponent, reference=opponent, beta=beta, loss_type=loss_type
    )
    minimum = minimise_problem(problem)
    expected = optimal_value(opponent, data, loss_type=loss_type).item()
    assert minimum.lower_bound == pytest.approx(expected, rel=1e-12)
    assert minimum.gap <= 1e-14 * expected


@pytest.mark.parametrize("loss_type", SMOOTH)
@given(policies=log_policies(count=3, max_responses=4), beta=st.floats(0.1, 1.0))
def test_spins_bound_and_gap_at_any_policy_are_those_of_optimality_gap(loss_type, policies, beta):
    policy, opponent, data = policies
    problem = InnerProblem(
        data=data, sampler=opponent, reference=opponent, beta=beta, loss_type=loss_type
    )
    scores = problem.scores(policy)
    proof = certify(problem.log_pair_weights(), scores, loss_type=loss_type)
    least = optimal_value(opponent, data, loss_type=loss_type)
    above = optimality_gap(policy, opponent, data, beta=beta, loss_type=loss_type)
    # the bound that a policy suggests need not be tight, so its gap is the larger one
    assert proof.lower_bound.mean() <= least * (1 + SLACK)
    # both are quadratic near the minimum, so a rounding of the scores is squared: 2e-33 was seen
    assert proof.gap.mean() >= above * (1 - 1e-9) - 1e-30


@pytest.mark.parametrize("loss_type", SMOOTH)
def test_gaps_keep_their_digits_below_the_roundings_of_the_value(loss_type):
    problem = InnerProblem(
        data=TabularPolicy.random(1, 4, seed=0),
        sampler=TabularPolicy.random(1, 4, seed=1),
        reference=None,
        beta=1.0,
        loss_type=loss_type,
    )
    log_weights = problem.log_pair_weights()
    best = newton(log_weights, loss_type=loss_type).scores
    direction = float64([1.0, -2.0, 0.5, 0.0])
    gaps = [
        certify(log_weights, best + size * direction, loss_type=loss_type).gap.item()
        for size in (1e-4, 1e-7)
    ]
    # quadratic near the minimum: a thousandth of the way, a millionth of the gap
    assert gaps[1] == pytest.approx(1e-6 * gaps[0], rel=1e-2)


@pytest.mark.parametrize("loss_type", SMOOTH)
def test_probabilities_of_1e_300_are_certified(loss_type):
    # pair weights of 1e-300: a product of a small probability and one of about 1
    low = math.log(1e-300)
    data, opponent = (
        TabularPolicy.from_logits(float64(row)) for row in ([0.0, low, 0.0], [0.0, 0.0, low])
    )
    problem = InnerProblem(
        data=data, sampler=opponent, reference=opponent, beta=1.0, loss_type=loss_type
    )
    minimum = minimise_problem(problem)
    expected = optimal_value(opponent, data, loss_type=loss_type).item()
    assert minimum.lower_bound == pytest.approx(expected, rel=1e-12)
    assert minimum.gap <= 1e-14 * expected


@given(log_weights=WEIGHTS, loss_type=st.sampled_from([*SMOOTH, "hinge"]))
def test_any_flows_give_a_bound(log_weights, loss_type):
    shape = log_weights.shape
    generator = torch.Generator().manual_seed(0)
    flows = torch.rand(shape, generator=generator, dtype=torch.float64)
    scores = torch.randn(shape[:2], generator=generator, dtype=torch.float64)
    proof = certify(log_weights, scores, loss_type=loss_type, flows=flows)
    for other in (scores, 10 * scores, torch.zeros_like(scores), 300 * scores):
        bound = proof.lower_bound.item()
        assert is_bound(bound, value(log_weights, other, loss_type))
    found = value(log_weights, scores, loss_type)
    difference = found - proof.lower_bound.item()
    assert proof.gap.item() == pytest.approx(difference, rel=1e-9, abs=1e-9 * found)


def test_one_response_is_its_own_bound():
    for loss_type in (*SMOOTH, "hinge"):
        log_weights = float64([[math.log(0.3)]])
        proof = certify(log_weights, float64([7.0]), loss_type=loss_type, flows=float64([[0.1]]))
        assert proof.lower_bound.item() == pytest.approx(
            value(log_weights, float64([0]), loss_type)
        )
        assert proof.gap.item() == 0


def test_prompts_are_certified_one_by_one():
    tables = [TabularPolicy.random(3, 4, seed=seed).log_probs for seed in (0, 1)]
    log_weights = tables[0][:, :, None] + tables[1][:, None, :]
    scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = certify(log_weights, scores)
    for row in range(3):
        alone = certify(log_weights[row : row + 1], scores[row : row + 1])
        # sums of 16 pairs, which a vector unit may add in another order in a batch
        for name in ("lower_bound", "gap"):
            found, expected = getattr(together, name)[row : row + 1], getattr(alone, name)
            torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-16)


def test_certify_refuses_what_has_no_bound():
    log_weights, scores = float64([[0.0, 0.0], [0.0, 0.0]]), float64([0.0, 0.0])
    with pytest.raises(ValueError, match="no lower bound; see descending_ray"):
        certify(log_weights, scores, loss_type="correlation")
    with pytest.raises(ValueError, match="hinge needs flows"):
        certify(log_weights, scores, loss_type="hinge")
    with pytest.raises(ValueError, match="loss_type must be"):
        certify(log_weights, scores, loss_type="square")


@given(
    log_weights=st.one_of(
        spin_weights(smallest=math.log(1e-3)), tspin_weights(smallest=math.log(1e-3))
    )
)
def test_the_hinge_programmes_flows_prove_its_value(log_weights):
    scores, flows = hinge_programme(log_weights)
    least = value(log_weights, scores, "hinge")
    proof = certify(log_weights, scores, loss_type="hinge", flows=flows)
    assert proof.lower_bound.item() == pytest.approx(least, rel=1e-6)  # HiGHS' tolerance: 1e-7
    assert torch.equal(scores, scores.round())
    assert scores.min() == 0


@given(tables=log_probs(prompts=2, responses=5, smallest=math.log(1e-3)))
def test_the_hinge_programme_finds_the_shortest_chains_value(tables):
    data, opponent = TabularPolicy(tables[:1]), TabularPolicy(tables[1:])
    log_weights = data.log_probs[:, :, None] + opponent.log_probs[:, None, :]
    scores, flows = hinge_programme(log_weights)
    shortest, _ = hinge_minimum(data, opponent)
    assert value(log_weights, scores, "hinge") == pytest.approx(shortest.item(), rel=1e-6)
    circulation = certify(log_weights, scores, loss_type="hinge", flows=flows).lower_bound
    chain = hinge_bound(data, opponent, chain_potentials(data, opponent))
    assert circulation.item() == pytest.approx(chain.item(), rel=1e-6)
    assert circulation.item() <= shortest.item() * (1 + 1e-14)


def test_a_hinge_programme_without_pairs_is_trivial():
    scores, flows = hinge_programme(float64([[0.0, -math.inf], [-math.inf, 0.0]]))
    assert torch.equal(scores, float64([0.0, 0.0]))
    assert torch.equal(flows, float64([[1.0, 0.0], [0.0, 1.0]]))


@given(policies=log_policies(count=2), steps=st.floats(0.0, 1e6))
def test_the_correlation_falls_by_its_slope_along_the_ray(policies, steps):
    data, opponent = policies
    ray = descending_ray(data, opponent)
    scores = steps * ray.direction
    margins = scores[:, :, None] - scores[:, None, :]
    weights = (data.log_probs[:, :, None] + opponent.log_probs[:, None, :]).exp()
    found = (weights * (1 - margins)).sum(dim=(-2, -1))
    torch.testing.assert_close(found, 1 - steps * ray.slope, rtol=1e-10, atol=1e-10)


@given(policies=log_policies(count=2))
def test_there_is_a_ray_exactly_where_the_tables_differ(policies):
    data, opponent = policies
    assert torch.equal(descending_ray(data, data).slope, torch.zeros(len(data.log_probs)).double())
    differs = (data.probs != opponent.probs).any(dim=-1)
    assert torch.equal(descending_ray(data, opponent).slope > 0, differs)


def test_a_ray_needs_tables_of_one_shape():
    with pytest.raises(ValueError, match="one shape"):
        descending_ray(TabularPolicy.random(1, 2, seed=0), TabularPolicy.random(1, 3, seed=0))


def test_a_ray_has_mean_zero():
    ray = descending_ray(TabularPolicy.random(3, 5, seed=0), TabularPolicy.random(3, 5, seed=1))
    # each of two tables of 5 sums to 1 within a few units in the last place
    assert np.abs(ray.direction.mean(dim=-1).numpy()).max() <= 1e-15
