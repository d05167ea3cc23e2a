import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_theory import (
    TabularPolicy,
    closed_form_update,
    sample_complexity,
    samples_for,
)
from spin_theory.games.samples import predicted_tv
from tests.strategies import BETAS, QUICK, log_policies


def tables_of(responses, *, seed=0, smallest=0.2):
    return tuple(
        TabularPolicy.random(1, responses, seed=seed + k, smallest=smallest) for k in range(2)
    )


@pytest.mark.parametrize(("responses", "beta"), [(2, 1.0), (4, 0.5), (6, 1.0), (8, 3.0)])
def test_the_distance_is_what_the_central_limit_theorem_predicts(responses, beta):
    opponent, data = tables_of(responses)
    draws = 60
    result = sample_complexity(opponent, data, beta=beta, pairs=(20_000,), draws=draws)
    error = result.deviation / math.sqrt(draws)
    assert (result.tv - result.predicted_tv).abs() < 4 * error
    assert result.failed == (0,)


def test_the_distance_falls_with_the_square_root_of_the_pairs():
    opponent, data = tables_of(5)
    pairs, draws = (2_000, 8_000, 32_000, 128_000), 15 if QUICK else 60
    result = sample_complexity(opponent, data, beta=1.0, pairs=pairs, draws=draws)
    scaled = result.tv * torch.tensor(pairs).sqrt()
    errors = result.deviation / math.sqrt(draws) * torch.tensor(pairs).sqrt()
    assert ((scaled - scaled.mean()).abs() < 4 * errors).all()
    exponents = (result.predicted_tv[1:] / result.predicted_tv[:-1]).log() / math.log(4)
    torch.testing.assert_close(exponents, torch.full((3,), -0.5).double())


@given(tables=log_policies(count=2, max_prompts=1, min_responses=2, max_responses=2), beta=BETAS)
def test_the_prediction_of_two_responses_by_hand(tables, beta):
    # The margin is log of wins over losses, of variance (1/P + 1/Q)/n; p moves by p (1 - p)/beta
    # times it, and total variation is that.
    opponent, data = tables
    real, generated = data.probs[0], opponent.probs[0]
    variance = 1 / (real[0] * generated[1]) + 1 / (real[1] * generated[0])
    product = closed_form_update(opponent, data, beta=beta).probs.prod()
    expected = product / beta * (2 / math.pi * variance).sqrt()
    found = predicted_tv(opponent, data, beta=beta)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


@given(responses=st.integers(2, 6), seed=st.integers(0, 1000), beta=BETAS)
def test_the_prediction_of_uniform_tables_by_hand(responses, seed, beta):
    # H = S = C/(2 Y), C the centring matrix, so scores have covariance 2 Y C and log-probs that
    # over beta^2; probabilities are 1/Y^2 of it: 2 Y (1 - 1/Y) / (Y beta)^2.
    uniform = TabularPolicy.from_probs([[1 / responses] * responses])
    found = predicted_tv(uniform, uniform, beta=beta).item()
    variance = 2 * (responses - 1) / (responses**2 * beta**2)
    expected = responses * math.sqrt(2 * variance / math.pi) / 2
    assert found == pytest.approx(expected, rel=1e-9)


@given(responses=st.integers(2, 6), seed=st.integers(0, 1000), beta=BETAS, tv=st.floats(1e-6, 1.0))
def test_samples_for_is_the_fewest_pairs_that_are_predicted_to_be_near_enough(
    responses, seed, beta, tv
):
    opponent, data = tables_of(responses, seed=seed)
    pairs = samples_for(opponent, data, tv=tv, beta=beta)
    distance = predicted_tv(opponent, data, beta=beta).item()
    assert distance / math.sqrt(pairs) <= tv * (1 + 1e-9)
    assert pairs == 1 or distance / math.sqrt(pairs - 1) >= tv * (1 - 1e-9)


def test_with_the_samples_asked_for_the_update_is_as_near_as_asked_for():
    opponent, data = tables_of(5)
    pairs = samples_for(opponent, data, tv=0.01, beta=1.0)
    result = sample_complexity(opponent, data, beta=1.0, pairs=(pairs,), draws=60)
    assert abs(result.tv.item() - 0.01) < 4 * result.deviation.item() / math.sqrt(60)


def test_distances_that_no_number_of_samples_reaches_are_refused():
    opponent, data = tables_of(3)
    for wrong in (0.0, -0.1, math.nan, 1e-200):
        with pytest.raises(ValueError, match="tv must"):
            samples_for(opponent, data, tv=wrong, beta=1.0)
    equal = TabularPolicy.from_probs([[1.0]])
    assert samples_for(equal, equal, tv=0.1, beta=1.0) == 1


def test_draws_without_a_minimum_are_counted_and_left_out():
    opponent, data = tables_of(6)
    result = sample_complexity(opponent, data, beta=1.0, pairs=(1, 12, 5_000), draws=30)
    assert result.failed[0] == 30
    assert 0 < result.failed[1] < 30 or math.isnan(result.tv[1])
    assert result.failed[2] == 0
    assert math.isnan(result.tv[0])
    assert math.isnan(result.deviation[0])
    assert result.tv[2].isfinite()


def test_a_seed_repeats_its_draws():
    opponent, data = tables_of(4)
    rules = {"beta": 1.0, "pairs": (500,), "draws": 3}
    first, again, other = (
        sample_complexity(opponent, data, **rules, seed=seed).tv for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_bad_arguments_are_refused():
    opponent, data = tables_of(3)
    prompts, two = TabularPolicy.random(2, 3, seed=0), TabularPolicy.random(1, 2, seed=0)
    with pytest.raises(ValueError, match="draws must be >= 1"):
        sample_complexity(opponent, data, beta=1.0, draws=0)
    with pytest.raises(ValueError, match="pairs must hold"):
        sample_complexity(opponent, data, beta=1.0, pairs=())
    with pytest.raises(ValueError, match="one prompt"):
        predicted_tv(prompts, prompts, beta=1.0)
    with pytest.raises(ValueError, match="one shape"):
        predicted_tv(opponent, two, beta=1.0)
    with pytest.raises(ValueError, match="beta must be finite"):
        predicted_tv(opponent, data, beta=math.nan)
