"""Ways of sampling: which is taken on a model, and how rows share a batch in it."""

import logging
from dataclasses import replace

import pytest
import torch

from spin_train.errors import UserError
from spin_train.sampling import transformers_engine
from spin_train.sampling.decoding import Batch, Task
from spin_train.sampling.transformers_engine import sample
from tests.train.models import (
    ARCHITECTURES,
    VOCABULARY,
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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_are_refilled_on_every_architecture_that_pays_attention(architecture, caplog):
    with caplog.at_level(logging.WARNING, "spin_train.model.exactness"):
        assert transformers_engine._exact_way(tiny_model(architecture, torch.float32)) is WAYS[0]
    assert not caplog.records


def test_ways_that_a_model_does_not_take_are_passed_over_with_their_reasons(monkeypatch, caplog):
    def refusing(error):
        def refuse(*_):
            raise error("no such\ncache")

        return refuse

    errors = (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError)
    ways = {error.__name__: refusing(error) for error in errors} | {"padded": WAYS[1]}
    monkeypatch.setattr(transformers_engine, "_WAYS", ways)
    with caplog.at_level(logging.WARNING, "spin_train.model.exactness"):
        assert transformers_engine._exact_way(stopping(0.5)) is WAYS[1]
    for error in errors:
        name = error.__name__
        assert f"{name} not used: {name}: no such cache" in caplog.text


def test_a_model_that_no_way_is_exact_on_is_not_sampled_from(monkeypatch):
    def off_in_one_response(*arguments):
        for task, sampled in WAYS[0](*arguments):
            off = 1.0 if task.number == 3 else 0.0
            yield task, replace(sampled, logps=sampled.logps + off * len(sampled.ids))

    monkeypatch.setattr(transformers_engine, "_WAYS", {"nearly": off_in_one_response})
    with pytest.raises(UserError, match="no way of sampling agrees"):
        transformers_engine._exact_way(stopping(0.5))


def test_a_model_is_tried_out_once(monkeypatch):
    tried = []
    monkeypatch.setattr(
        transformers_engine, "_exact_way", lambda model, _: tried.append(model) or WAYS[0]
    )
    model = stopping(0.5)
    for _ in range(2):
        sample(model, [[1]], [0], settings())
    assert tried == [model]


def test_logits_are_computed_for_the_last_token_of_a_prompt_alone(monkeypatch):
    model, columns = stopping(0.5), set()
    monkeypatch.setitem(transformers_engine._chosen, model, Always(WAYS[0]))
    model.lm_head.register_forward_hook(lambda _, __, logits: columns.add(logits.shape[1]))
    sample(model, [[1, 3, 4], [1], [1, 3]], range(3), settings())
    assert columns == {1}


def test_a_model_with_a_state_is_left_to_generate_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING, "spin_train.model.exactness"):
        assert transformers_engine._exact_way(tiny_model("mamba", torch.float32)) is WAYS[1]
    assert "not used: off by" in caplog.text


@pytest.mark.parametrize("way", WAYS)
def test_every_way_draws_the_same_tokens(way, monkeypatch):
    model = tiny_model("llama", torch.float32)
    monkeypatch.setitem(transformers_engine._chosen, model, Always(way))
    samples = sample(model, PROMPTS, range(6), settings(max_new_tokens=10, batch_size=4))
    monkeypatch.setitem(transformers_engine._chosen, model, Always(WAYS[0]))
    alone = [
        sample(model, [prompt], [seed], settings(max_new_tokens=10, batch_size=1))[0]
        for seed, prompt in enumerate(PROMPTS)
    ]
    assert ids_of(samples) == ids_of(alone)
    for one, other in zip(samples, alone, strict=True):
        assert one.logps == pytest.approx(other.logps, abs=1e-4)
        assert one.finish_reason == other.finish_reason


def greedy(model, prompt, length):
    ids = list(prompt)
    while len(ids) < len(prompt) + length and ids[len(prompt) :][-1:] != [STOP]:
        ids.append(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
    return ids[len(prompt) :]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_prompt_beside_longer_ones_is_continued_as_if_alone_and_in_its_place(architecture):
    # Nearly no temperature: samples are the most probable tokens, which a loop finds unpadded.
    model = model_of(architecture)
    samples = sample(model, PROMPTS, range(6), settings(temperature=1e-4, batch_size=4))
    assert ids_of(samples) == [greedy(model, prompt, 6) for prompt in PROMPTS]


@pytest.mark.parametrize("way", WAYS)
def test_responses_may_reach_the_end_of_the_context_beside_others_that_go_on(way, monkeypatch):
    # Learned positions: one past the context of 64 would be an index error. Only one row in eight
    # has ended there, so it stays for a while.
    model = tiny_model("gpt2", torch.float32)
    monkeypatch.setitem(transformers_engine._chosen, model, Always(way))
    tasks = [[5] * 50, *([4] * 10 for _ in range(9))]
    samples = sample(model, tasks, range(10), settings(stop_ids=(VOCABULARY,), max_new_tokens=14))
    assert [len(ids) for ids in ids_of(samples)] == [14] * 10
    batch = Batch(model)
    batch.add([Task(0, [5] * 60, 0, 4), *(Task(n, [4] * 10, n, 14) for n in range(1, 10))])
    for _ in range(14):
        batch.step(settings(stop_ids=(VOCABULARY,)))
    assert [len(row.ids) for row in batch.rows] == [4, *([14] * 9)]


def test_rows_that_have_ended_leave_and_the_cache_is_as_wide_as_the_longest_that_stay():
    model = tiny_model("llama", torch.float32)
    batch = Batch(model)
    batch.add([Task(0, [3] * 30, 0, 2), Task(1, [4] * 5, 1, 9), Task(2, [5] * 7, 2, 9)])
    for _ in range(2):
        batch.step(settings(stop_ids=(VOCABULARY,)))
    batch.drop_ended()
    assert [row.task.number for row in batch.rows] == [1, 2]
    assert batch._cache.layers[0].keys.shape[0] == 2
    assert batch._cache.get_seq_length() == 7 + 2
    batch.add([Task(3, [6] * 12, 3, 9)])
    assert batch._cache.layers[0].keys.shape[0] == 3
    assert batch._cache.get_seq_length() == 12


def test_no_more_rows_than_the_batch_size_are_in_the_model(monkeypatch):
    seen = []
    add = Batch.add
    monkeypatch.setattr(
        Batch, "add", lambda self, tasks: (add(self, tasks), seen.append(len(self.rows)))
    )
    model = stopping(0.3)
    transformers_engine._chosen[model] = Always(WAYS[0])
    sample(model, [[1, 3]] * 40, range(40), settings(batch_size=7))
    assert max(seen) == 7
    assert len(seen) > 5


def test_the_longest_prompts_go_first(monkeypatch):
    seen = []
    add = Batch.add
    monkeypatch.setattr(
        Batch,
        "add",
        lambda self, tasks: (add(self, tasks), seen.extend(len(t.prompt_ids) for t in tasks)),
    )
    model = stopping(0.3)
    transformers_engine._chosen[model] = Always(WAYS[0])
    sample(model, [[1] * (1 + n * 7 % 18) for n in range(18)], range(18), settings(batch_size=4))
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == 18
