"""Sampling with a transformers model, in the first way that is exact on it."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from spin_train.errors import UserError
from spin_train.model.exactness import exact_tolerance, first_exact
from spin_train.model.logps import Group, response_logps
from spin_train.sampling.decoding import Batch, PartialResponse, Task, draw_and_take, left_padded
from spin_train.sampling.engine import Sample, SamplingSettings

__all__ = ["sample"]

# Share of ended rows from which on the cache of the others is copied and prompts are taken in.
_ENDED = 1 / 8


def _nothing() -> None:
    pass


@torch.inference_mode()
def sample(
    model: Any,
    prompts: Sequence[list[int]],
    seeds: Sequence[int],
    settings: SamplingSettings,
    *,
    between: Callable[[], None] = _nothing,
) -> list[Sample]:
    r"""Sample one response per prompt from :math:`p(\cdot|x)`, no top-p, no top-k.

    The model is in evaluation mode; its own generation settings are ignored. The seed of a prompt
    settles the draws of its response: other rows of the batch change how probabilities are rounded,
    and nothing else. `between` is called whenever prompts are taken in; what it raises ends the
    sampling.

    Rows are decoded together. Those that have ended leave the key-value cache, and waiting prompts
    take their places, the longest first, so that memory runs out at once or never.

    The first call with a model samples from random prompts and compares the log-probs with those of
    `response_logps`. Where they differ, a warning says so and transformers' own `generate` takes
    the tokens through the model: padded if that is exact, else prompts of equal length together.

    UserError if the model gives log-probs that are not finite.
    """
    if model not in _chosen:
        _chosen[model] = _exact_way(model)
    tasks = [
        Task(number, prompt, seed, settings.max_new_tokens)
        for number, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
    ]
    # A stable sort: which rows share a batch depends on lengths and order alone.
    tasks.sort(key=lambda task: -len(task.prompt_ids))
    found = {
        task.number: sampled for task, sampled in _chosen[model](model, tasks, settings, between)
    }
    if not all(math.isfinite(sampled.logps) for sampled in found.values()):
        raise UserError(
            "the opponent's log-probs are not finite: its weights are broken, or "
            "training.dtype is too narrow for it; try training.dtype=float32"
        )
    return [found[number] for number in range(len(prompts))]


_Found = Iterator[tuple[Task, Sample]]
_Way = Callable[[Any, Sequence[Task], SamplingSettings, Callable[[], None]], _Found]
_chosen: "WeakKeyDictionary[nn.Module, _Way]" = WeakKeyDictionary()


def _refilled(
    model: Any, tasks: Sequence[Task], settings: SamplingSettings, between: Callable[[], None]
) -> _Found:
    """Decode rows together; those that have ended make room for tasks that wait."""
    batch = Batch(model)
    waiting = list(reversed(tasks))
    while waiting or batch.rows:
        ended = [row for row in batch.rows if row.ended]
        if not batch.rows or len(ended) > _ENDED * len(batch.rows):
            between()
            yield from ((row.task, row.sample(settings.stop_ids)) for row in ended)
            batch.drop_ended()
            free = min(settings.batch_size - len(batch.rows), len(waiting))
            if free:
                batch.add([waiting.pop() for _ in range(free)])
        if batch.rows:
            batch.step(settings)


def _generated(
    model: Any, tasks: Sequence[Task], settings: SamplingSettings, between: Callable[[], None]
) -> _Found:
    """Let `generate` run batches through the model, padded on the left, with our own draws."""
    for start in range(0, len(tasks), settings.batch_size):
        between()
        yield from _generated_batch(model, tasks[start : start + settings.batch_size], settings)


def _generated_by_length(
    model: Any, tasks: Sequence[Task], settings: SamplingSettings, between: Callable[[], None]
) -> _Found:
    """Do the same with prompts of equal length together, so that there is no padding."""
    for _, equal in groupby(tasks, key=lambda task: len(task.prompt_ids)):
        yield from _generated(model, list(equal), settings, between)


def _generated_batch(model: Any, tasks: Sequence[Task], settings: SamplingSettings) -> _Found:
    rows = [PartialResponse.of(task) for task in tasks]
    input_ids, attention_mask = left_padded(tasks, next(model.parameters()).device)
    # `generate` reads what a call does not set from the model's own generation_config.json.
    model.generation_config = GenerationConfig()
    model.generate(
        input_ids=input_ids,
        attention_mask=attention_mask,
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=max(task.limit for task in tasks),
            eos_token_id=list(settings.stop_ids),
            pad_token_id=settings.stop_ids[0],
        ),
        logits_processor=LogitsProcessorList([_Draws(rows, settings)]),
    )
    yield from ((row.task, row.sample(settings.stop_ids)) for row in rows)


class _Draws(LogitsProcessor):
    """Our draws within `generate`, which may only choose the tokens that were drawn."""

    def __init__(self, rows: Sequence[PartialResponse], settings: SamplingSettings) -> None:
        self._rows = rows
        self._settings = settings

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        tokens = draw_and_take(self._rows, scores, self._settings)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


_WAYS: dict[str, _Way] = {
    "rows that have ended replaced": _refilled,
    "generate with padding": _generated,
    "generate with prompts of equal length": _generated_by_length,
}


def _exact_way(model: Any) -> _Way:
    """Pick the first way whose log-probs are those of `response_logps` on the loaded model."""
    config = model.config.get_text_config()
    tasks = _random_tasks(config)
    never = config.vocab_size  # so that responses end at the limits of their tasks
    settings = SamplingSettings((never,), max_new_tokens=0, temperature=1.0, batch_size=3)
    tolerance = exact_tolerance(model)

    def flaw(way: _Way) -> str:
        found = list(way(model, tasks, settings, _nothing))
        groups = [Group(task.prompt_ids, [sampled.ids]) for task, sampled in found]
        logps = response_logps(model, groups).double().cpu()
        lengths = logps.new_tensor([len(sampled.ids) for _, sampled in found])
        ours = logps.new_tensor([sampled.logps for _, sampled in found])
        error = ((ours - logps).abs() / lengths).max().item()
        return "" if error <= tolerance else f"off by {error:.2g} nats per token"

    return first_exact(model, _WAYS, flaw, "no way of sampling agrees with its log-probs")


def _random_tasks(config: Any) -> list[Task]:
    """Make prompts and limits of mixed lengths within the model's context, the longest first."""
    context = getattr(config, "max_position_embeddings", None) or 128
    generator = torch.Generator().manual_seed(0)
    tasks = []
    for number, (share, limit) in enumerate(
        [(1.0, 3), (0.5, 12), (0.5, 1), (0.4, 9), (0.2, 6), (0.1, 12), (0.0, 5)]
    ):
        length = max(1, int(share * min(40, context // 2)))
        ids = torch.randint(config.vocab_size, (length,), generator=generator).tolist()
        tasks.append(Task(number, ids, number, max(1, min(limit, context // 4))))
    return tasks
