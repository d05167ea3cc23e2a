import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_theory import TabularPolicy, minimiser, play, tv
from spin_theory.games.opponents import last_iterate, tempered_samples
from spin_theory.games.stability import linearise
from spin_theory.games.temperature import tempered_limit, tempered_multiplier, tempered_sentence
from spin_theory.minima.token_trees import TokenTree
from tests.strategies import BETAS, at_most, log_policies

TEMPERATURES = st.floats(0.3, 3.0)


@at_most(30)
@given(policies=log_policies(count=1, min_responses=2), temperature=TEMPERATURES)
def test_samples_are_the_policys_at_the_temperature(policies, temperature):
    (policy,) = policies
    sampler = tempered_samples([policy], temperature=temperature).sampler
    expected = policy.probs ** (1 / temperature)
    expected = expected / expected.sum(-1, keepdim=True)
    torch.testing.assert_close(sampler.probs, expected, rtol=1e-10, atol=0)
    assert tempered_samples([policy], temperature=temperature).reference is policy


@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
@at_most(20)
@given(policies=log_policies(count=1, max_responses=4), beta=BETAS, temperature=TEMPERATURES)
def test_spin_rests_at_the_data_to_the_power_of_the_temperature(
    loss_type, policies, beta, temperature
):
    (data,) = policies
    powers = data.probs**temperature
    rest = TabularPolicy.from_logits((powers / powers.sum(-1, keepdim=True)).log())
    assert tv(tempered_limit(data, temperature=temperature), rest).max() <= 1e-14
    rule = partial(tempered_samples, temperature=temperature)
    after = play(
        rest,
        data,
        beta=beta,
        iterations=1,
        loss_type=loss_type,
        opponent=rule,
        solver=minimiser,  # which knows no closed form
    ).policies[1]
    assert tv(after, rest).max() <= 1e-12 * max(1, 1 / (temperature * beta))


@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
@pytest.mark.parametrize("temperature", [0.6, 1.5])
def test_the_log_ratio_to_the_rest_is_multiplied(loss_type, temperature):
    start, data = (TabularPolicy.random(1, 4, seed=seed, smallest=0.1) for seed in (0, 1))
    rest = tempered_limit(data, temperature=temperature)
    game = play(
        start,
        data,
        beta=0.8,
        iterations=1,
        loss_type=loss_type,
        opponent=partial(tempered_samples, temperature=temperature),
        solver=minimiser,
    )
    before, after = (policy.log_probs - rest.log_probs for policy in game.policies)
    before, after = (table - table.mean() for table in (before, after))
    halves = 1.0 if loss_type == "logistic" else 0.5
    expected = 1 - halves / (temperature * 0.8)
    torch.testing.assert_close(after, expected * before, rtol=0, atol=1e-10)
    found = tempered_multiplier(temperature=temperature, beta=0.8, loss_type=loss_type)
    assert found == pytest.approx(expected)


def test_temperature_1_is_spin():
    start, data = (TabularPolicy.random(1, 4, seed=seed) for seed in (0, 1))
    games = [
        play(start, data, beta=0.8, iterations=3, opponent=rule)
        for rule in (last_iterate, partial(tempered_samples, temperature=1.0))
    ]
    assert tv(games[0].policies[-1], games[1].policies[-1]).max() <= 1e-14
    assert tempered_sentence(1.0, betas=[0.1]) is None


def test_the_sentence_says_where_a_run_rests_and_how_fast():
    sentence = tempered_sentence(0.7, betas=[0.1, 0.1, 5.0])
    assert "rests at p_data^0.7 (normalised), not at p_data, the power taken of each" in sentence
    # 1 - 1/0.07 and 1 - 1/3.5; each beta once
    assert "-13.29 at beta 0.1, where it does not settle, 0.7143 at beta 5" in sentence
    exponential = tempered_sentence(0.7, betas=[5.0], loss_type="exponential")
    assert "1 - 0.5/(0.7 * beta): 0.8571 at beta 5" in exponential


def test_the_sentence_promises_no_multiplier_where_there_is_none():
    for parts in ({"loss_type": "hinge"}, {"mixed": True}):
        sentence = tempered_sentence(0.7, betas=[0.1], **parts)
        assert "p_data^0.7" in sentence
        assert "multiplies" not in sentence
    sentence = tempered_sentence(0.7, betas=[0.1], plain=False)
    assert "p_data" not in sentence
    assert "no minimum" in tempered_sentence(1.0, betas=[0.1], truncated=True)


def test_a_token_at_a_time_the_limit_is_another_one():
    # a | b at 0.8; after a: a | b at 0.9. Odds go to the power of 1/2, each at its prefix.
    data = TabularPolicy.from_probs([[0.8 * 0.9, 0.8 * 0.1, 0.2]])
    tree = TokenTree.free(["aa", "ab", "b"])
    limit = tempered_limit(data, temperature=0.5, tree=tree)
    first, second = 2 / 3, 3 / 4
    expected = torch.tensor([[first * second, first * (1 - second), 1 - first]]).double()
    torch.testing.assert_close(limit.probs, expected)
    whole = tempered_limit(data, temperature=0.5)
    assert tv(limit, whole).max() > 0.05
    for tokens, end in ((tree, limit), (None, whole)):
        rule = partial(tempered_samples, temperature=0.5, tree=tokens)
        start = TabularPolicy.from_probs([[0.2, 0.5, 0.3]])
        game = play(start, data, beta=3.0, iterations=60, opponent=rule)
        assert tv(game.policies[-1], end).max() <= 1e-12


def test_early_tokens_wait_for_later_ones_and_then_all_have_the_multiplier():
    data = TabularPolicy.random(1, 4, seed=0, smallest=0.05)
    tree = TokenTree.free(["aa", "ab", "ba", "bb"])
    limit = tempered_limit(data, temperature=0.5, tree=tree)
    rule = partial(tempered_samples, temperature=0.5, tree=tree)
    near = linearise([limit, limit], data, beta=3.0, opponent=rule)
    m = tempered_multiplier(temperature=0.5, beta=3.0)  # 1/3
    # two of one Jordan block, so their last digits are the square root of rounding
    assert near.multipliers.abs()[:3].tolist() == pytest.approx([m] * 3, abs=1e-6)
    assert near.matrix.norm() > 1.01 * m * 3**0.5  # not a multiple of the identity


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_bad_temperatures_are_refused(temperature):
    half = TabularPolicy.from_probs([[0.5, 0.5]])
    for call in (
        lambda: tempered_samples([half], temperature=temperature),
        lambda: tempered_limit(half, temperature=temperature),
        lambda: tempered_multiplier(temperature=temperature, beta=1.0),
        lambda: tempered_sentence(temperature, betas=[1.0]),
    ):
        with pytest.raises(ValueError, match="temperature must be finite and > 0"):
            call()
