"""Sampling with a transformers model: which tokens come, and with which log-probs."""

import itertools
import logging
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig

from spin_train.errors import UserError
from spin_train.model.loading import load_model
from spin_train.model.logps import Group, response_logps
from spin_train.sampling import transformers_engine
from spin_train.sampling.decoding import Task, draw
from spin_train.sampling.engine import Sample
from spin_train.sampling.transformers_engine import sample
from tests.train.models import (
    ARCHITECTURES,
    NOT_SHARING,
    VOCABULARY,
    coarse_llama,
    constant_model,
    tiny_model,
)
from tests.train.sampling.drawing import (
    PROMPTS,
    STOP,
    WAYS,
    Always,
    ids_of,
    model_of,
    settings,
    stopping,
)


@pytest.mark.parametrize("way", WAYS)
def test_a_sample_stops_at_each_of_several_ends(way):
    """Chat models list several, such as the end of text and the end of a turn."""
    model = constant_model([0.0, 0.0, 0.2, 0.2, 0.6])
    tasks = [Task(number, [1], number, 40) for number in range(40)]
    found = [s for _, s in way(model, tasks, settings(stop_ids=(3, STOP)), lambda: None)]
    assert {sampled.ids[-1] for sampled in found} == {STOP, 3}
    assert all(set(sampled.ids[:-1]) <= {4} for sampled in found)
    assert {sampled.finish_reason for sampled in found} == {"stop"}


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_come_with_the_probabilities_of_the_model(temperature):
    # 200 tokens, so that a top-k of 50 or a top-p would show as tokens that never come.
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(200, generator=generator).square()
    probs = probs / probs.sum()
    count = 8_000
    model = constant_model(probs.tolist())
    samples = sample(
        model,
        [[1]] * count,
        range(count),
        settings(max_new_tokens=1, temperature=temperature, batch_size=count),
    )
    seen = torch.bincount(torch.tensor([sampled.ids[0] for sampled in samples]), minlength=200)
    expected = probs.pow(1 / temperature)
    expected = expected / expected.sum()
    sigma = (count * expected * (1 - expected)).sqrt()
    # Five standard deviations, and one more count where less than one is expected.
    assert ((seen - count * expected).abs() <= 5 * sigma + 1).all()


def test_whole_responses_come_with_their_probabilities():
    """All responses of a model with a memory, enumerated; chi-square over those not too rare."""
    model = tiny_model("llama", torch.float64)
    with torch.no_grad():  # flatter
        model.lm_head.weight.mul_(0.3)
    prompt, length, count = [3, 7], 2, 8_000
    kept = [token for token in range(VOCABULARY) if token != STOP]
    bodies = [[STOP], *([t, u] for t, u in itertools.product(kept, range(VOCABULARY)))]
    probs = response_logps(model, [Group(prompt, bodies)]).exp().detach()
    assert probs.sum().item() == pytest.approx(1.0, abs=1e-6)
    samples = sample(
        model, [prompt] * count, range(count), settings(max_new_tokens=length, batch_size=1000)
    )
    places = {tuple(body): place for place, body in enumerate(bodies)}
    seen = torch.zeros(len(bodies), dtype=torch.float64)
    for sampled in samples:
        seen[places[tuple(sampled.ids)]] += 1
    often = count * probs >= 5
    observed = torch.cat([seen[often], seen[~often].sum()[None]])
    expected = count * torch.cat([probs[often], probs[~often].sum()[None]])
    statistic = ((observed - expected).square() / expected).sum().item()
    freedom = len(expected) - 1
    assert freedom > 100
    # Chi-square has mean and half its variance `freedom`: five standard deviations.
    assert abs(statistic - freedom) < 5 * math.sqrt(2 * freedom)


def test_a_token_of_probability_zero_never_comes():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]] * 4)
    uniforms = torch.tensor([0.0, 1 - 2**-53, 0.2689, 0.2690], dtype=torch.float64)
    tokens, logps = draw(logits, uniforms, 1.0)  # p(1) = 1 / (1 + e) = 0.26894
    assert tokens.tolist() == [1, 3, 1, 3]
    expected = torch.tensor([1.0, math.e, 1.0, math.e]).log() - math.log1p(math.e)
    torch.testing.assert_close(logps, expected.double(), atol=1e-6, rtol=0)


@given(logits=st.lists(st.floats(-30, 30), min_size=1, max_size=40))
def test_the_largest_uniform_still_finds_a_token_that_can_come(logits):
    # After the last token that can come stand two that cannot.
    row = torch.tensor([[*logits, -torch.inf, -torch.inf]], dtype=torch.float64)
    uniforms = torch.tensor([1 - 2**-53], dtype=torch.float64)
    token, logps = draw(row, uniforms, 1.0)
    assert token.item() < len(logits)
    assert logps.isfinite().all()


def test_log_probs_are_those_of_temperature_one_at_any_temperature():
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    uniforms = torch.tensor([0.5], dtype=torch.float64)
    for temperature in (0.1, 1.0, 2.0):
        token, logps = draw(logits, uniforms, temperature)
        assert logps.item() == pytest.approx(logits.log_softmax(-1)[0, token].item(), abs=1e-6)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *NOT_SHARING])
def test_log_probs_of_samples_are_those_of_scoring(architecture):
    # Three rows at a time, so that rows of other lengths are dropped and taken in.
    model = model_of(architecture)
    prompts = PROMPTS * 3
    samples = sample(model, prompts, range(18), settings(max_new_tokens=20, batch_size=3))
    assert len({len(ids) for ids in ids_of(samples)}) > 1
    groups = [Group(prompt, [ids]) for prompt, ids in zip(prompts, ids_of(samples), strict=True)]
    expected = response_logps(model, groups)
    ours = torch.tensor([sampled.logps for sampled in samples])
    assert (ours - expected).abs().max().item() < 1e-4


def test_settings_that_came_with_the_model_are_ignored(tmp_path):
    plain = model_of("llama")
    prompts = [[3, 4], [5], [6, 7, 8]]
    expected = [sample(plain, prompts, range(3), settings())] * len(WAYS)
    biased = tiny_model("llama", torch.float32)
    biased.generation_config = GenerationConfig(
        do_sample=True,
        top_k=1,
        top_p=0.5,
        min_p=0.2,
        temperature=0.1,
        eos_token_id=[4, 5, 6],
        repetition_penalty=5.0,
        suppress_tokens=[7, 8, 9, 10],
        min_new_tokens=4,
        no_repeat_ngram_size=1,
    )
    biased.save_pretrained(tmp_path)
    found = []
    for way in WAYS:
        loaded = load_model(tmp_path, dtype="float32").eval()
        assert loaded.generation_config.top_k == 1
        transformers_engine._chosen[loaded] = Always(way)
        found.append(sample(loaded, prompts, range(3), settings()))
    assert [ids_of(samples) for samples in found] == [ids_of(samples) for samples in expected]


@pytest.mark.parametrize("way", WAYS)
def test_a_response_that_ends_has_its_end_token_once(way):
    model = stopping(1.0)
    transformers_engine._chosen[model] = Always(way)
    (sampled,) = sample(model, [[1, 3]], [0], settings())
    assert (sampled.ids, sampled.finish_reason) == ([STOP], "stop")


@pytest.mark.parametrize("way", WAYS)
def test_a_cut_response_gets_no_invented_end(way):
    model = stopping(0.0)
    transformers_engine._chosen[model] = Always(way)
    (sampled,) = sample(model, [[1, 3]], [0], settings())
    assert (sampled.ids, sampled.finish_reason) == ([4] * 6, "length")


@pytest.mark.parametrize("way", WAYS)
def test_each_response_of_a_batch_ends_for_itself(way):
    model = stopping(0.3)
    transformers_engine._chosen[model] = Always(way)
    samples = sample(model, [[1, 3]] * 40, range(40), settings(batch_size=16))
    assert {sampled.finish_reason for sampled in samples} == {"stop", "length"}
    for sampled in samples:
        stopped = sampled.finish_reason == "stop"
        body = sampled.ids[:-1] if stopped else sampled.ids
        assert STOP not in body
        assert (sampled.ids[-1] == STOP) == stopped
        assert stopped or len(sampled.ids) == 6


def test_a_prompt_may_hold_the_end_token():
    # As earlier turns of a chat do; the response is what comes after the prompt.
    (sampled,) = sample(stopping(0.0), [[1, STOP, 3, STOP]], [0], settings())
    assert sampled.ids == [4] * 6


def test_a_sample_depends_on_its_seed_and_not_on_its_place_or_neighbours():
    model = model_of("llama")
    seeds = [5, 6, 7, 8, 9, 10]
    first = ids_of(sample(model, PROMPTS, seeds, settings(max_new_tokens=12)))
    torch.rand(7)
    order = [4, 2, 0, 5, 1, 3]
    again = sample(
        model,
        [PROMPTS[i] for i in order],
        [seeds[i] for i in order],
        settings(max_new_tokens=12, batch_size=2),
    )
    assert ids_of(again) == [first[i] for i in order]


def test_another_seed_gives_other_samples():
    uniform = constant_model([1 / VOCABULARY] * VOCABULARY)
    assert len({tuple(ids) for ids in ids_of(sample(uniform, [[3]] * 9, range(9), settings()))}) > 5


def test_weights_that_are_not_finite_are_refused_in_one_line():
    model = tiny_model("llama", torch.float32)
    transformers_engine._chosen[model] = Always(WAYS[0])
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    with pytest.raises(UserError, match="not finite"):
        sample(model, [[3]], [0], settings())


def test_one_sample_that_is_not_finite_is_enough_to_refuse_them(monkeypatch):
    def broken(model, tasks, settings, between):
        for task in tasks:
            yield task, Sample([STOP], "stop", math.nan if task.number == 1 else -1.0)

    model = stopping(0.5)
    monkeypatch.setitem(transformers_engine._chosen, model, Always(broken))
    with pytest.raises(UserError, match="not finite"):
        sample(model, [[3]] * 3, range(3), settings())


@pytest.mark.parametrize("way", WAYS)
def test_it_says_how_many_responses_are_finished(way, monkeypatch):
    model, counts = stopping(1.0), []
    monkeypatch.setitem(transformers_engine._chosen, model, Always(way))
    sample(
        model,
        [[1, 3]] * 10,
        range(10),
        settings(batch_size=4),
        finished=counts.append,
    )
    assert counts == sorted(counts)
    assert {0, 4, 8} <= set(counts)


def test_sampling_can_be_stopped_at_any_token():
    class StopError(Exception):
        pass

    def stop(_):
        raise StopError

    with pytest.raises(StopError):
        sample(stopping(0.5), [[1]] * 4, range(4), settings(), finished=stop)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_sample_has_a_finite_log_prob_under_its_model(dtype):
    model = tiny_model("qwen2", dtype)
    samples = sample(model, PROMPTS, range(6), settings())
    groups = [Group(p, [ids]) for p, ids in zip(PROMPTS, ids_of(samples), strict=True)]
    assert response_logps(model, groups).isfinite().all()


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_coarse_rounding_does_not_choose_the_way(seed, caplog):
    with torch.inference_mode(), caplog.at_level(logging.WARNING, "spin_train"):
        way = transformers_engine._exact_way(coarse_llama(seed), 90)
    assert way is transformers_engine._refilled
    assert caplog.messages == []
