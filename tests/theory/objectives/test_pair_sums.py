import math
import resource

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from spin_theory import TabularPolicy, optimal_value, spin_objective, tspin_objective
from spin_theory.objectives import objectives
from spin_theory.objectives.logistic_sums import logistic_pair_sum
from spin_theory.objectives.pair_sums import dense_expected_penalty, expected_penalty
from tests.strategies import LOSS_TYPES, QUICK, at_most, draw_table

LARGE = 1024 if QUICK else 4096  # the dense sum costs its square
RELATIVE = 1e-12  # of the sum of what is added up: the promise; 2e-14 is usual
SMALLEST = 1e-290  # below, products of weights are subnormal and have fewer digits

LOG_SLOPES = {  # log |l'(t)|, at the kink of the hinge 0 as clamp has it
    "logistic": lambda margins: logsigmoid(-margins),
    "hinge": lambda margins: (1 - margins >= 0).double().log(),
    "exponential": lambda margins: -margins,
    "correlation": lambda margins: torch.zeros_like(margins),
}


def double(rows):
    return torch.tensor(rows, dtype=torch.float64)


SHAPES = [
    "spread",
    "ties",
    "one response has the mass",
    "both have it on the same response",
    "islands",
    "ladder",
]
TABLES = st.fixed_dictionaries(
    {
        "prompts": st.integers(1, 3),
        "responses": st.one_of(st.integers(1, 9), st.integers(10, 300)),
        "reach": st.one_of(st.just(0.0), st.floats(0, 20), st.floats(20, 800), st.floats(0, 1e9)),
        "smallest": st.floats(-690.0, 0.0),
        "shape": st.sampled_from(SHAPES),
        "seed": st.integers(0, 10**6),
    }
).map(lambda arguments: draw_table(**arguments))


def by_pairs(scores, log_real, log_generated, loss_type):
    """Gradient (X, Y) of the sum over all pairs y != y', and the sum of its terms' sizes."""
    margins = scores[:, :, None] - scores[:, None, :]
    logs = log_real[:, :, None] + log_generated[:, None, :] + LOG_SLOPES[loss_type](margins)
    logs.diagonal(dim1=-2, dim2=-1).fill_(-math.inf)
    pulls = logs.exp_()
    return pulls.sum(dim=-2) - pulls.sum(dim=-1), pulls.sum(dim=-2) + pulls.sum(dim=-1)


def value_and_gradient(average, tables, loss_type):
    scores = tables[0].clone().requires_grad_()
    values = average(scores, *tables[1:], loss_type=loss_type)
    (gradient,) = torch.autograd.grad(values.sum(), scores)
    return values.detach(), gradient


def assert_fast_is_dense(tables, loss_type):
    values, gradient = value_and_gradient(expected_penalty, tables, loss_type)
    dense = dense_expected_penalty(*tables, loss_type=loss_type)
    size = dense
    if loss_type == "correlation":  # the only penalty below 0
        scores, real, generated = tables[0], tables[1].exp(), tables[2].exp()
        size = (1 - scores[:, :, None] + scores[:, None, :]).abs()
        size = torch.einsum("xi,xij,xj->x", real, size, generated)
    # Where the sum itself exceeds float64 it is inf; just below, rounding may decide.
    huge = dense > 1e307
    assert (values[huge] > 1e307).all()
    assert ((values - dense).abs() <= RELATIVE * size + SMALLEST)[~huge].all()
    expected, terms = by_pairs(*tables, loss_type)
    representable = terms < 1e307
    close = (gradient - expected).abs() <= RELATIVE * terms + SMALLEST
    assert close[representable].all()
    assert not gradient.isnan().any()


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@given(tables=TABLES)
def test_the_fast_sum_is_the_dense_sum_in_value_and_gradient(loss_type, tables):
    assert_fast_is_dense(tables, loss_type)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize(
    ("reach", "smallest", "shape"),
    [(0.0, -690.0, "spread"), (5.0, -30.0, "ties"), (800.0, -690.0, "spread")],
)
def test_it_still_is_with_thousands_of_responses(loss_type, reach, smallest, shape):
    tables = draw_table(
        prompts=1, responses=LARGE, reach=reach, smallest=smallest, shape=shape, seed=0
    )
    assert_fast_is_dense(tables, loss_type)


@pytest.mark.parametrize("reach", [1e9, 1e12, 1e300])
@pytest.mark.parametrize("shape", ["spread", "islands", "ladder"])
def test_scores_far_sparser_than_the_responses_keep_their_digits(reach, shape):
    tables = draw_table(prompts=2, responses=1000, reach=reach, smallest=-30.0, shape=shape, seed=3)
    assert_fast_is_dense(tables, "logistic")


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("scales", [range(-60, -20), range(-20, 2), range(2, 60)])
def test_the_kink_of_the_hinge_is_where_the_margin_of_a_pair_rounds_to_it(sign, scales):
    scales = scales[::4] if QUICK else scales
    upper = double([sign * 2.0**k * (1 + j * 2**-52) for k in scales for j in (-1, 0, 1, 2, 3)])
    lower = [upper - 1 + j * 2**-54 for j in range(-5, 6)]  # ... which rounds to 1 up to 2^-53
    for end in (math.inf, -math.inf):  # and the next numbers
        lower.append(torch.nextafter(upper - 1, double(end)))
        lower.append(torch.nextafter(lower[-1], double(end)))
    scores = torch.cat([upper, *lower])[None]
    equal = torch.zeros_like(scores).log_softmax(dim=-1)
    assert_fast_is_dense((scores, equal, equal), "hinge")


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@example(
    tables=draw_table(
        prompts=1,
        responses=10,
        reach=336.0,
        smallest=-384.0,
        shape="one response has the mass",
        seed=1,
    )
).via("shares of the exponential value that underflow")
@given(tables=TABLES)
def test_the_dense_gradient_leaves_the_pair_of_y_with_itself_out(loss_type, tables):
    values, gradient = value_and_gradient(dense_expected_penalty, tables, loss_type)
    expected, terms = by_pairs(*tables, loss_type)
    # exponential: autograd multiplies the value by shares of it, which underflow first
    rounding = RELATIVE * terms + SMALLEST * (1 + values[:, None].abs())
    close = (gradient - expected).abs() <= rounding
    assert close[(values < 1e300)[:, None] & (terms < 1e300)].all()


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@at_most(30)
@given(tables=TABLES, shift=st.integers(-(10**6), 10**6))
def test_a_shift_of_all_scores_changes_nothing(loss_type, tables, shift):
    scores, log_real, log_generated = tables
    scores = (scores.clamp(-250, 250) * 1024).round() / 1024  # the shift is then exact
    before, gradient = value_and_gradient(
        expected_penalty, (scores, log_real, log_generated), loss_type
    )
    after, shifted = value_and_gradient(
        expected_penalty, (scores + shift, log_real, log_generated), loss_type
    )
    scale = 1.0 + scores.abs().amax(dim=-1) if loss_type == "correlation" else before.abs()
    assert ((before - after).abs() <= RELATIVE * scale + SMALLEST).all()
    _, terms = by_pairs(scores, log_real, log_generated, loss_type)
    assert ((gradient - shifted).abs() <= RELATIVE * terms + SMALLEST).all()


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_each_prompt_is_summed_by_itself(loss_type):
    reaches = (0.0, 3.0, 700.0, 9000.0 if loss_type != "exponential" else 600.0)
    rows = [
        draw_table(prompts=1, responses=40, reach=r, smallest=-50.0, shape="spread", seed=i)
        for i, r in enumerate(reaches)
    ]
    together = tuple(torch.cat(parts) for parts in zip(*rows, strict=True))
    values, gradient = value_and_gradient(expected_penalty, together, loss_type)
    for x, row in enumerate(rows):
        alone, slope = value_and_gradient(expected_penalty, row, loss_type)
        torch.testing.assert_close(values[x : x + 1], alone, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(gradient[x : x + 1], slope, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_one_response_has_the_penalty_at_zero_and_no_gradient(loss_type):
    certain = double([[0.0]])
    values, gradient = value_and_gradient(
        expected_penalty, (certain + 7, certain, certain), loss_type
    )
    expected = math.log(2) if loss_type == "logistic" else 1.0
    assert values.item() == pytest.approx(expected, rel=1e-13, abs=0.0)
    assert gradient.item() == 0.0


@pytest.mark.parametrize(
    ("loss_type", "slope"),
    [("logistic", 0.5), ("hinge", 1), ("exponential", 1), ("correlation", 1)],
)
def test_the_gradient_keeps_its_digits_where_one_response_has_all_the_mass(loss_type, slope):
    # p = (1 - 3e-40, 3e-40), q = (1 - 1e-40, 1e-40) at equal scores: p q' - p' q = 2e-40
    log_real, log_generated = double([[0.0, math.log(3e-40)]]), double([[0.0, math.log(1e-40)]])
    tables = (double([[0.25, 0.25]]), log_real, log_generated)
    _, gradient = value_and_gradient(expected_penalty, tables, loss_type)
    torch.testing.assert_close(gradient / slope, double([[2e-40, -2e-40]]), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("margin", [3.0, 40.0, 700.0])
def test_penalties_that_have_nearly_died_keep_their_digits(margin):
    scores, top, bottom = double([[margin, 0.0]]), double([[1.0, 0.0]]), double([[0.0, 1.0]])
    values, gradient = logistic_pair_sum(scores, top, bottom)
    assert values.item() == pytest.approx(math.log1p(math.exp(-margin)), rel=1e-13, abs=0.0)
    slope = 1 / (1 + math.exp(margin))
    torch.testing.assert_close(gradient, double([[-slope, slope]]), rtol=1e-13, atol=0.0)


def test_the_exponential_sum_is_infinite_only_where_it_exceeds_float64():
    def of(scores):
        log_real = double([[0.0, -800.0]])
        tables = (double([scores]), log_real, double([[-math.log(2)] * 2]))
        return value_and_gradient(expected_penalty, tables, "exponential")

    values, gradient = of([0.0, -800.0])  # (1 + 1)(1/2 + 1/2 exp(-800)); a pair has exp(800)
    assert values.item() == pytest.approx(1.0, rel=1e-12, abs=0.0)
    torch.testing.assert_close(gradient, double([[0.5, -0.5]]), rtol=1e-12, atol=0.0)
    values, gradient = of([0.0, 720.0])  # exp(720)/2
    assert values.item() == math.inf
    assert gradient.tolist() == [[-math.inf, math.inf]]


def test_the_correlation_sum_keeps_its_digits_where_nearly_all_pairs_are_at_its_zero():
    # margins 0, 1, -1, 0 cost 1, 0, 2, 1: 2e-9 (1 - 1e-9) + 2 * 1e-18 = 2e-9
    certain, rare = math.log1p(-1e-9), math.log(1e-9)
    tables = double([[1.0, 0.0]]), double([[certain, rare]]), double([[rare, certain]])
    value = expected_penalty(*tables, loss_type="correlation").item()
    assert value == pytest.approx(2e-9, rel=1e-12, abs=0.0)


@given(tables=TABLES)
def test_the_logistic_sum_minus_its_mirror_is_minus_the_mean_margin(tables):
    scores, log_real, log_generated = tables
    value = expected_penalty(scores, log_real, log_generated)
    mirrored = expected_penalty(scores, log_generated, log_real)
    margin = 1 - expected_penalty(scores, log_real, log_generated, loss_type="correlation")
    scale = value + mirrored + scores.abs().amax(dim=-1)
    assert ((value - mirrored + margin).abs() <= RELATIVE * scale).all()


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("reach", [10.0, 5000.0])
def test_memory_is_linear_in_the_responses(loss_type, reach):
    # 200,000 responses: the matrix of margins would take 320 GB
    tables = draw_table(
        prompts=1, responses=200_000, reach=reach, smallest=-100.0, shape="spread", seed=1
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    values, gradient = value_and_gradient(expected_penalty, tables, loss_type)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # 512 MiB, in KiB
    if loss_type != "exponential":
        assert values.isfinite().all()
        assert gradient.sum().abs() <= RELATIVE * gradient.abs().sum()


def test_bad_tables_are_refused():
    table = torch.zeros(1, 2, dtype=torch.float64)
    for average in (expected_penalty, dense_expected_penalty):
        with pytest.raises(ValueError, match=r"shape \(X, Y\), got .*log_generated \(1, 1\)"):
            average(table, table, table[:, :1])
        with pytest.raises(ValueError, match=r"got scores \(2,\)"):
            average(table[0], table[0], table[0])
        with pytest.raises(ValueError, match="log_real must be float64"):
            average(table, table.float(), table)
        with pytest.raises(ValueError, match="loss_type must be"):
            average(table, table, table, loss_type="square")
    with pytest.raises(ValueError, match="must be constants"):
        expected_penalty(table, table.clone().requires_grad_(), table)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@at_most(20)
@example(seed=0, responses=600)  # above the size where objectives leave the matrix by themselves
@given(seed=st.integers(0, 10**6), responses=st.integers(1, 40))
def test_objectives_agree_with_and_without_the_matrix(loss_type, seed, responses):
    opponent, initial, data, start = (
        TabularPolicy.random(2, responses, seed=seed + i, smallest=1e-100) for i in range(4)
    )
    logits = start.log_probs.clone().requires_grad_()
    results = []
    for pairs in (0, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(objectives, "DENSE_PAIRS", pairs)
            policy = TabularPolicy.from_logits(logits)
            spin = spin_objective(policy, opponent, data, beta=0.7, loss_type=loss_type)
            tspin = tspin_objective(
                policy,
                opponent,
                initial,
                data,
                beta=0.5,
                history_weight=0.1,
                loss_type=loss_type,
            )
            (spin_slope,) = torch.autograd.grad(spin, logits, retain_graph=True)
            (tspin_slope,) = torch.autograd.grad(tspin, logits)
            least = optimal_value(opponent, data, loss_type=loss_type)
            results.append((spin, tspin, least, spin_slope, tspin_slope))
    fast, dense = results
    for value, expected in zip(fast[:3], dense[:3], strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    for gradient, expected in zip(fast[3:], dense[3:], strict=True):
        assert (gradient - expected).norm() <= 1e-12 * (expected.norm() + 1)
