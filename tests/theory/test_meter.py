"""The bound against exact distances, on tables and on a language whose p_data is known."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import multinomial

from spin_theory import meter
from spin_theory.claims.distance import pair_policies
from spin_theory.divergences import js, tv
from spin_theory.languages import NoisySort
from spin_theory.losses import penalty_named
from spin_theory.meter import FEWEST_PROMPTS, convergence_meter, power
from spin_theory.policies import TabularPolicy
from tests.strategies import QUICK

DRAWS = 20 if QUICK else 200
CONFIDENCE = 0.8  # low, so that a bound that is too bold is seen in so few draws


def score_of(kind, data, opponent):
    """Scores f(x, y): the best there is, a wrong-signed one, T-SPIN's, and one of pure noise."""
    best = data.log_probs - opponent.log_probs
    noise = torch.Generator().manual_seed(5)
    return {
        "best": best,
        "worst": -best,
        "log-prob": 0.7 * data.log_probs + 0.3 * opponent.log_probs,
        "noise": torch.randn(best.shape, generator=noise, dtype=torch.float64),
        "wide": 500.0 * best,
    }[kind]


def draw(data, opponent, score, count, generator, *, copies=1):
    """Margins of held-out pairs and the prompts they belong to, each pair so many times."""
    rows = torch.randint(len(score), (count,), generator=generator)
    real = torch.multinomial(data.probs[rows], 1, generator=generator)[:, 0]
    generated = torch.multinomial(opponent.probs[rows], 1, generator=generator)[:, 0]
    margins = score[rows, real] - score[rows, generated]
    return margins.repeat_interleave(copies), torch.arange(count).repeat_interleave(copies)


def expected_value(data, opponent, score, meter):
    """Exact mean of log 2 - logistic(d) at the scale and clip that were chosen."""
    margins = score[:, :, None] - score[:, None, :]
    margins = (meter.scale * margins).clamp(-meter.clip, meter.clip)
    weights = data.probs[:, :, None] * opponent.probs[:, None, :]
    terms = math.log(2) - penalty_named("logistic")(margins)
    return (weights * terms).sum(dim=(1, 2)).mean().item()


def tables(closeness):
    data = TabularPolicy.random(6, 8, seed=3)
    other = TabularPolicy.random(6, 8, seed=4)
    mixed = closeness * data.probs + (1 - closeness) * other.probs
    return data, TabularPolicy.from_probs(mixed)


@pytest.mark.parametrize("kind", ["best", "worst", "log-prob", "noise", "wide"])
@pytest.mark.parametrize("closeness", [0.0, 0.7, 1.0])
def test_the_bound_covers_at_the_stated_rate(kind, closeness):
    """It must stay below its own expectation, which is below JS(P, Q); the latter too."""
    data, opponent = tables(closeness)
    score = score_of(kind, data, opponent)
    distance = js(*pair_policies(data, opponent)).mean().item()
    generator = torch.Generator().manual_seed(0)
    too_bold = beyond_distance = 0
    for _ in range(DRAWS):
        margins, prompts = draw(data, opponent, score, 60, generator)
        meter = convergence_meter(margins, prompts=prompts, confidence=CONFIDENCE)
        expected = expected_value(data, opponent, score, meter)
        assert expected <= distance + 1e-12
        too_bold += meter.lower_bound > max(0.0, expected)
        beyond_distance += meter.lower_bound > distance
    slack = 3 * math.sqrt(CONFIDENCE * (1 - CONFIDENCE) * DRAWS)
    assert too_bold <= (1 - CONFIDENCE) * DRAWS + slack
    assert beyond_distance <= too_bold


def test_pairs_of_one_prompt_count_as_one():
    """Ten copies of each pair are no more evidence; as prompts of their own they would be."""
    data, opponent = tables(0.0)
    score = score_of("best", data, opponent)
    margins, prompts = draw(data, opponent, score, 40, torch.Generator().manual_seed(1), copies=10)
    once = convergence_meter(margins[::10], prompts=prompts[::10])
    assert once.prompts == 20
    copied = convergence_meter(margins, prompts=prompts)
    assert copied.lower_bound == pytest.approx(once.lower_bound, abs=1e-12)
    assert copied.standard_error == pytest.approx(once.standard_error, abs=1e-12)
    blind = convergence_meter(margins, prompts=torch.arange(len(margins)))
    assert blind.lower_bound > once.lower_bound + 0.05


def test_on_a_language_the_bound_is_below_the_exact_distance_and_not_idle():
    """Opponent: the same language sorted less well; the score a policy between the two."""
    sharp, flat, between = (NoisySort("abcd", 4, sharpness) for sharpness in (1.5, 0.3, 1.0))
    prompts = sharp.sample_prompts(200, seed=0)
    exact_js, exact_tv = [], []
    for prompt in prompts:
        tables = [TabularPolicy(language.enumerate(prompt)[1][None]) for language in (sharp, flat)]
        exact_js.append(js(*pair_policies(*tables)).item())
        exact_tv.append(tv(*tables).item())
    generator = torch.Generator().manual_seed(2)
    margins = []
    for prompt in prompts:
        real, generated = (
            language.sample(prompt, generator=generator) for language in (sharp, flat)
        )
        log_ratios = [
            between.log_prob(prompt, text) - flat.log_prob(prompt, text)
            for text in (real, generated)
        ]
        margins.append(log_ratios[0] - log_ratios[1])
    meter = convergence_meter(torch.tensor(margins, dtype=torch.float64), prompts=torch.arange(200))
    distance = sum(exact_js) / len(exact_js)
    assert 0.25 * distance < meter.lower_bound < meter.estimate < 1.2 * distance
    assert meter.lower_bound < distance
    assert 0.05 < meter.tv_lower_bound < sum(exact_tv) / len(exact_tv)


def test_estimate_by_hand():
    """All margins 1, so scale 4 and clip 4 or more are chosen: log 2 - log(1 + exp(-4))."""
    meter = convergence_meter(torch.ones(100), prompts=torch.arange(100))
    expected = math.log(2) - math.log1p(math.exp(-min(meter.scale, meter.clip)))
    assert meter.estimate == pytest.approx(expected, abs=1e-12)
    assert meter.standard_error == pytest.approx(0, abs=1e-15)  # the mean of 50 equal values rounds
    assert meter.prompts == 50
    # Every factor of the capital is 1 + s (v - m): the bound solves 50 log(1 + s (v - m)) = log 20.
    stake = (20 ** (1 / 50) - 1) / (meter.estimate - meter.lower_bound)
    assert 0 < stake * math.log1p(math.exp(meter.clip)) <= 0.9 + 1e-9
    assert meter.tv_lower_bound == meter.lower_bound / (2 * math.log(2))


@pytest.mark.parametrize("value", [0.0, -1.0, -1e4])
def test_margins_that_do_not_tell_the_two_apart_prove_nothing(value):
    meter = convergence_meter(torch.full((100,), value), prompts=torch.arange(100))
    assert meter.estimate <= 1e-15  # at margin 0 torch's log 2 less Python's
    assert meter.lower_bound == 0.0


@example(margins=[1e300, -1e300, 1e-300, 5.0]).via("scale times margin must not overflow to nan")
@given(margins=st.lists(st.floats(-1e300, 1e300), min_size=4, max_size=40))
def test_the_bound_is_a_number_between_0_and_log_2_below_the_estimate(margins):
    meter = convergence_meter(
        torch.tensor(margins, dtype=torch.float64), prompts=torch.arange(len(margins))
    )
    assert 0 <= meter.lower_bound <= max(0.0, meter.estimate) <= math.log(2)


def test_the_order_of_the_pairs_does_not_matter():
    data, opponent = tables(0.5)
    score = score_of("best", data, opponent)
    margins, prompts = draw(data, opponent, score, 50, torch.Generator().manual_seed(3))
    shuffled = torch.randperm(50, generator=torch.Generator().manual_seed(4))
    one = convergence_meter(margins, prompts=prompts)
    other = convergence_meter(margins[shuffled], prompts=prompts[shuffled])
    assert one.lower_bound == pytest.approx(other.lower_bound, abs=1e-12)
    assert one.estimate == pytest.approx(other.estimate, abs=1e-12)


def test_scale_and_clip_come_from_the_other_half():
    """Whatever the estimating half holds, it does not change them."""
    prompts = torch.arange(40)
    margins = torch.linspace(-1, 2, 40, dtype=torch.float64)
    changed = torch.where(prompts % 2 == 1, -7.0 * margins, margins)
    one, other = (convergence_meter(m, prompts=prompts) for m in (margins, changed))
    assert (one.scale, one.clip) == (other.scale, other.clip)
    assert one.estimate != other.estimate


@pytest.mark.parametrize(
    ("margins", "prompts", "confidence", "named"),
    [
        (torch.ones(8), torch.arange(7), 0.9, "one shape"),
        (torch.ones(2, 4), torch.arange(8).view(2, 4), 0.9, "one shape"),
        (torch.full((8,), math.nan), torch.arange(8), 0.9, "finite"),
        (torch.ones(8), torch.arange(8) % (FEWEST_PROMPTS - 1), 0.9, "got 3"),
        (torch.ones(8), torch.arange(8), 1.0, "confidence"),
        (torch.ones(8), torch.arange(8), 0.0, "confidence"),
    ],
)
def test_what_makes_no_meter_is_refused(margins, prompts, confidence, named):
    with pytest.raises(ValueError, match=named):
        convergence_meter(margins, prompts=prompts, confidence=confidence)


def power_by_the_meter_itself(tv, samples, confidence):
    """Sum over all counts of won, lost and tied pairs in both halves, by the meter's own parts."""
    margin = 2 * math.log((1 + tv) / (1 - tv))
    chances = [(1 + tv) ** 2 / 4, (1 - tv) ** 2 / 4, (1 - tv**2) / 2]
    half, level = samples // 2, -math.log1p(-confidence)
    outcomes = []
    for won in range(half + 1):
        for lost in range(half + 1 - won):
            counts = [won, lost, half - won - lost]
            values = torch.tensor([margin, -margin, 0.0], dtype=torch.float64)
            margins = values.repeat_interleave(torch.tensor(counts))
            outcomes.append((margins, multinomial.pmf(counts, half, chances)))
    prompts = torch.arange(half)
    total = 0.0
    for tuning, share in outcomes:
        scale, clip, stake = meter._tune(tuning, prompts, level)
        for margins, other in outcomes:
            proved = meter._values(margins, prompts, scale, clip)
            total += share * other * (meter._lower_bound(proved, stake, level) > 0)
    return total


@pytest.mark.parametrize(("tv", "confidence"), [(0.6, 0.6), (0.9, 0.7), (0.0, 0.3)])
def test_power_is_the_sum_over_all_samples(tv, confidence):
    expected = power_by_the_meter_itself(tv, 12, confidence)
    assert power(tv=tv, samples=12, confidence=confidence) == pytest.approx(expected, abs=1e-12)
    assert (tv == 0) == (expected <= 0.01), "these cases decide nothing"


@pytest.mark.parametrize(("tv", "samples"), [(0.27, 500), (0.15, 1000), (0.4, 100)])
def test_power_is_how_often_the_meter_proves_a_difference(tv, samples):
    draws = 30 if QUICK else 100
    data, opponent = (
        TabularPolicy.from_probs([[0.5 + half, 0.5 - half]]) for half in (tv / 2, -tv / 2)
    )
    score = score_of("best", data, opponent)
    generator, proved = torch.Generator().manual_seed(0), 0
    for _ in range(draws):
        margins, prompts = draw(data, opponent, score, samples, generator)
        proved += convergence_meter(margins, prompts=prompts).lower_bound > 0
    expected = power(tv=tv, samples=samples)
    assert abs(proved / draws - expected) < 4 * math.sqrt(expected * (1 - expected) / draws) + 0.002


def test_quantiles_stand_for_the_sum_over_all_counts(monkeypatch):
    coarse = [power(tv=tv, samples=120) for tv in (0.2, 0.4, 0.6)]
    monkeypatch.setattr(meter, "_QUANTILES", 61)  # more than half of the samples: all counts
    exact = [power(tv=tv, samples=120) for tv in (0.2, 0.4, 0.6)]
    assert coarse == pytest.approx(exact, abs=0.002)


def test_power_grows_with_distance_and_samples_to_certainty():
    by_tv = [power(tv=tv, samples=300) for tv in (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)]
    assert by_tv == sorted(by_tv)
    assert by_tv[0] < 0.001
    assert by_tv[-1] == pytest.approx(1.0, abs=1e-12)
    by_samples = [power(tv=0.1, samples=samples) for samples in (4, 300, 3_000, 1_000_000)]
    assert by_samples == sorted(by_samples)
    assert by_samples[-1] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"tv": 1.1, "samples": 10}, "tv must be in"),
        ({"tv": math.nan, "samples": 10}, "tv must be in"),
        ({"tv": 0.1, "samples": 3}, "samples must be >= 4"),
        ({"tv": 0.1, "samples": 10, "confidence": 1.0}, "confidence must be in"),
    ],
)
def test_a_power_that_makes_no_sense_is_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        power(**arguments)
