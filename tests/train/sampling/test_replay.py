"""Decoding at fixed places against decoding in a cache that grows; the GPU's tests replay it."""

import pytest
import torch

from spin_train.sampling import replay, transformers_engine
from spin_train.sampling.decoding import Batch, Task
from spin_train.sampling.engine import SamplingSettings
from spin_train.sampling.replay import FixedBatch
from tests.train.models import ARCHITECTURES, VOCABULARY, tiny_model

STOP = 2


def some_tasks(count=10, *, longest=40, limit=12):
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, longest, (count,), generator=generator).tolist()
    return [
        Task(n, torch.randint(3, VOCABULARY, (length,), generator=generator).tolist(), n, most)
        for n, length in enumerate(lengths)
        for most in [limit - n % 4]  # so that rows end apart, whatever the model says
    ]


def decoded(batch, tasks, *, rows=4):
    """Samples by their numbers."""
    settings = SamplingSettings((STOP,), 0, 1.0, rows)
    with torch.inference_mode():
        found = transformers_engine._decoded(batch, tasks, settings, lambda: None)
        return {task.number: sampled for task, sampled in found}


@pytest.mark.parametrize(
    ("architecture", "order", "room"),
    [("llama", "longest first", 64), *((name, "as they come", 1) for name in ARCHITECTURES)],
)
def test_samples_are_those_of_a_cache_that_grows(architecture, order, room, monkeypatch):
    # With little room rows move back at almost every step; with prompts as they come, a later one
    # may be longer than all rows, which then move to the right.
    monkeypatch.setattr(replay, "_ROOM", room)
    model = tiny_model(architecture, torch.float32)
    tasks = some_tasks()
    if order == "longest first":
        tasks.sort(key=lambda task: -len(task.prompt_ids))
    expected = decoded(Batch(model), tasks)
    ours = decoded(FixedBatch(model, 4, 60), tasks)
    assert len({len(sampled.ids) for sampled in expected.values()}) > 1
    assert {n: s.ids for n, s in ours.items()} == {n: s.ids for n, s in expected.items()}
    for number, sampled in ours.items():
        assert sampled.logps == pytest.approx(expected[number].logps, abs=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_rows_move_to_the_right_of_a_longer_prompt(architecture):
    """A window counts columns, so they must end where the new prompt does."""
    model = tiny_model(architecture, torch.float32)
    generator = torch.Generator().manual_seed(3)
    tasks = [
        Task(n, torch.randint(3, VOCABULARY, (length,), generator=generator).tolist(), n, limit)
        for n, (length, limit) in enumerate([(3, 20), (2, 1), (30, 20), (2, 20)])
    ]
    expected, batch = decoded(Batch(model), tasks, rows=2), FixedBatch(model, 2, 60)
    moved, add = [], batch.add

    def adding(new):
        before = batch._end if batch.rows else None
        add(new)
        moved.append(before is not None and batch._end > before)

    batch.add = adding
    ours = decoded(batch, tasks, rows=2)
    assert any(moved)
    assert {n: s.ids for n, s in ours.items()} == {n: s.ids for n, s in expected.items()}


def test_its_tensors_stay_where_they_are():
    model = tiny_model("llama", torch.float32)
    batch = FixedBatch(model, 4, 60)
    settings = SamplingSettings((STOP,), 0, 1.0, 4)
    tasks = some_tasks(24, limit=20)

    def places():
        states = [tensor for layer in batch._layers for tensor in layer.states]
        fixed = (batch._ids, batch._positions, batch._column, batch._windowed, batch._logits)
        return [tensor.data_ptr() for tensor in (*states, *fixed, batch._mask)]

    with torch.inference_mode():
        batch.add([tasks.pop() for _ in range(4)])
        before = places()
        moved = 0
        while tasks or batch.rows:
            end = batch._end
            batch.step(settings)
            moved += batch._end < end
            batch.drop_ended()
            if tasks and len(batch.rows) < 4:
                batch.add([tasks.pop()])
            assert places() == before
    assert moved


def test_kinds_of_layers_that_it_does_not_know_are_refused():
    model = tiny_model("qwen3", torch.float32)
    model.config.layer_types = ["full_attention", "chunked_attention"]
    with pytest.raises(NotImplementedError, match="chunked_attention"):
        FixedBatch(model, 2, 20)
