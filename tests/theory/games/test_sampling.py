import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from spin_theory import (
    PENALTIES,
    InnerProblem,
    SampledMinimiser,
    TabularPolicy,
    closed_form_update,
    play,
    sample_complexity,
    samples_for,
    spin_loss,
    tv,
)
from spin_theory.games.sampling import predicted_tv, sampled_update
from tests.strategies import BETAS, log_policies


def tables_of(responses, *, seed=0, smallest=0.2):
    return tuple(
        TabularPolicy.random(1, responses, seed=seed + k, smallest=smallest) for k in range(2)
    )


def draw_as_the_update_does(opponent, data, pairs, seed):
    """The pairs that sampled_update draws from a generator of this seed: (pairs, 2)."""
    joint = (data.log_probs[0, :, None] + opponent.log_probs[0, None, :]).exp().flatten()
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(joint, pairs, replacement=True, generator=generator)
    responses = data.log_probs.shape[1]
    return torch.stack([drawn // responses, drawn % responses], dim=1)


def reaches_all(edges, responses):
    """Whether paths lead from response 0 to all others, by brute force."""
    reached = {0}
    for _ in range(responses):
        reached |= {loser for winner, loser in edges if winner in reached}
    return len(reached) == responses


@given(
    responses=st.integers(1, 5),
    pairs=st.integers(1, 40),
    seed=st.integers(0, 10_000),
    beta=BETAS,
)
def test_the_sampled_update_exists_exactly_where_all_beat_all_on_some_path(
    responses, pairs, seed, beta
):
    opponent, data = tables_of(responses, seed=seed)
    edges = draw_as_the_update_does(opponent, data, pairs, seed).tolist()
    backwards = [(loser, winner) for winner, loser in edges]
    connected = reaches_all(edges, responses) and reaches_all(backwards, responses)
    generator = torch.Generator().manual_seed(seed)
    updated = sampled_update(opponent, data, beta=beta, pairs=pairs, generator=generator)
    assert (updated is not None) == connected


@given(responses=st.integers(2, 5), seed=st.integers(0, 10_000), beta=st.floats(0.3, 10.0))
def test_the_sampled_update_minimises_the_mean_loss_of_its_pairs(responses, seed, beta):
    opponent, data = tables_of(responses, seed=seed)
    pairs = 200
    generator = torch.Generator().manual_seed(seed)
    updated = sampled_update(opponent, data, beta=beta, pairs=pairs, generator=generator)
    assume(updated is not None)
    real, generated = draw_as_the_update_does(opponent, data, pairs, seed).T
    logits = updated.log_probs[0].clone().requires_grad_()
    table = torch.log_softmax(logits, dim=-1)
    loss = spin_loss(
        policy_real_logps=table[real],
        policy_generated_logps=table[generated],
        opponent_real_logps=opponent.log_probs[0, real],
        opponent_generated_logps=opponent.log_probs[0, generated],
        beta=beta,
    ).mean()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.norm() <= 1e-12 * (1 + beta)  # convex: a global minimum


@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
@pytest.mark.parametrize("history_weight", [0.0, 0.3])
def test_the_solver_of_sampled_pairs_minimises_their_mean_loss(loss_type, history_weight):
    """Three prompts, T-SPIN's scores, and the gradient by automatic differentiation."""
    data, opponent, initial = (
        TabularPolicy.random(3, 4, seed=seed, smallest=0.2) for seed in range(3)
    )
    problem = InnerProblem(
        data=data,
        sampler=opponent,
        reference=None,
        beta=0.8,
        loss_type=loss_type,
        initial=initial,
        history_weight=history_weight,
    )
    updated = SampledMinimiser(pairs=400)(
        problem, start=opponent, generator=torch.Generator().manual_seed(3)
    )
    generator = torch.Generator().manual_seed(3)
    logits = updated.log_probs.clone().requires_grad_()
    loss = 0.0
    for weight, one, other in ((1.0, data, opponent), (history_weight, opponent, initial)):
        if weight > 0:
            joint = (one.log_probs[:, :, None] + other.log_probs[:, None, :]).exp().flatten(1)
            drawn = torch.multinomial(joint, 400, replacement=True, generator=generator)
            first, second = (logits.gather(1, index) for index in (drawn // 4, drawn % 4))
            loss = loss + weight * PENALTIES[loss_type](0.8 * (first - second)).mean()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.norm() <= 1e-12


def test_the_solver_and_the_update_agree():
    opponent, data = tables_of(4)
    problem = InnerProblem(data=data, sampler=opponent, reference=opponent, beta=0.5)
    found = SampledMinimiser(pairs=300)(
        problem, start=opponent, generator=torch.Generator().manual_seed(1)
    )
    same = sampled_update(
        opponent, data, beta=0.5, pairs=300, generator=torch.Generator().manual_seed(1)
    )
    assert tv(found, same).item() <= 1e-14


def test_a_game_of_sampled_pairs_ends_within_the_noise_of_the_data():
    start, data = tables_of(5)
    game = play(start, data, beta=1.0, iterations=6, solver=SampledMinimiser(pairs=20_000))
    noise = predicted_tv(data, data, beta=1.0).item() / math.sqrt(20_000)
    assert (game.tv[2:] < 4 * noise).all()
    assert game.tv[-1] > 0.05 * noise


def test_pairs_without_a_minimum_are_refused_by_the_prompt():
    opponent, data = (TabularPolicy.random(2, 5, seed=seed) for seed in (0, 1))
    problem = InnerProblem(data=data, sampler=opponent, reference=opponent, beta=1.0)
    with pytest.raises(ValueError, match=r"prompt 0: the 3 pairs drawn have no minimum.*raise"):
        SampledMinimiser(pairs=3)(problem, start=opponent, generator=torch.Generator())
    with pytest.raises(ValueError, match="pairs must be >= 1"):
        SampledMinimiser(pairs=0)


def test_one_response_needs_no_pairs_to_be_compared():
    only = TabularPolicy.from_probs([[1.0]])
    updated = sampled_update(only, only, beta=1.0, pairs=1, generator=torch.Generator())
    assert updated.log_probs.tolist() == [[0.0]]


@given(responses=st.integers(2, 6), seed=st.integers(0, 1000), beta=st.floats(0.5, 5.0))
def test_very_many_pairs_find_the_exact_update(responses, seed, beta):
    opponent, data = tables_of(responses, seed=seed, smallest=0.3)
    pairs = 1_000_000
    found = sampled_update(
        opponent, data, beta=beta, pairs=pairs, generator=torch.Generator().manual_seed(seed)
    )
    distance = tv(found, closed_form_update(opponent, data, beta=beta)).item()
    expected = predicted_tv(opponent, data, beta=beta).item() / math.sqrt(pairs)
    assert distance < 6 * expected


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
    pairs = (2_000, 8_000, 32_000, 128_000)
    result = sample_complexity(opponent, data, beta=1.0, pairs=pairs, draws=60)
    scaled = result.tv * torch.tensor(pairs).sqrt()
    errors = result.deviation / math.sqrt(60) * torch.tensor(pairs).sqrt()
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
    rules = {"beta": 1.0, "pairs": 10, "generator": torch.Generator()}
    with pytest.raises(ValueError, match="one prompt"):
        sampled_update(prompts, prompts, **rules)
    with pytest.raises(ValueError, match="one shape"):
        sampled_update(opponent, two, **rules)
    with pytest.raises(ValueError, match="pairs must be >= 1"):
        sampled_update(opponent, data, **rules | {"pairs": 0})
    with pytest.raises(ValueError, match="beta must be finite"):
        sampled_update(opponent, data, **rules | {"beta": 0.0})
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
