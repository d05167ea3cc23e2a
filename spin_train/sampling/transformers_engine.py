"""Sampling with a transformers model, in the first way that is exact on it."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from spin_train.errors import UserError
from spin_train.model.exactness import (
    exact_tolerance,
    first_exact,
    is_narrow,
    is_sharded,
    measured_tolerance,
    widened,
)
from spin_train.model.logps import Group, response_logps
from spin_train.model.remembered import exact_way
from spin_train.model.trials import length_for_rows
from spin_train.sampling.decoding import Batch, PartialResponse, Task, draw_and_take, left_padded
from spin_train.sampling.engine import Sample, SamplingSettings
from spin_train.sampling.replay import FixedBatch

__all__ = ["sample"]

# Share of ended rows from which on the cache of the others is copied and prompts are taken in.
_ENDED = 1 / 8
# Bytes of logits alive at once where every token is computed again.
_MOST_BYTES = 2**29


def _nothing(_: int) -> None:
    pass


@torch.inference_mode()
def sample(
    model: Any,
    prompts: Sequence[list[int]],
    seeds: Sequence[int],
    settings: SamplingSettings,
    *,
    finished: Callable[[int], None] = _nothing,
) -> list[Sample]:
    r"""Sample one response per prompt from :math:`p(\cdot|x)`, no top-p, no top-k.

    The model is in evaluation mode; its own generation settings are ignored. The seed of a prompt
    settles the draws of its response: other rows of the batch change how probabilities are rounded,
    and nothing else. `finished` is called with how many responses are, before each token; what it
    raises ends the sampling.

    Rows are decoded together. Those that have ended leave the key-value cache, and waiting prompts
    take their places, the longest first, so that memory runs out at once or never.

    The first call with a model, and one with rows longer than any before, samples from random
    prompts as long and compares the log-probs with those of `response_logps`. Where they differ, a
    warning says so and transformers' own `generate` takes the tokens through the model: padded if
    that is exact, else prompts of equal length together, else without any cache.

    UserError if the model gives log-probs that are not finite, or no way is exact.
    """
    if not prompts:
        return []
    longest = max(map(len, prompts)) + settings.max_new_tokens
    length = length_for_rows(model, longest)
    ways = _chosen.setdefault(model, {})
    if length not in ways:
        ways[length] = _exact_way(model, length)
    tasks = [
        Task(number, prompt, seed, settings.max_new_tokens)
        for number, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
    ]
    # A stable sort: which rows share a batch depends on lengths and order alone.
    tasks.sort(key=lambda task: -len(task.prompt_ids))
    found: dict[int, Sample] = {}
    for task, sampled in ways[length](model, tasks, settings, lambda: finished(len(found))):
        found[task.number] = sampled
    if not all(math.isfinite(sampled.logps) for sampled in found.values()):
        raise UserError(
            "the opponent's log-probs are not finite: its weights are broken, or "
            "training.dtype is too narrow for it; try training.dtype=float32"
        )
    return [found[number] for number in range(len(prompts))]


_Found = Iterator[tuple[Task, Sample]]
_Way = Callable[[Any, Sequence[Task], SamplingSettings, Callable[[], None]], _Found]
_chosen: "WeakKeyDictionary[nn.Module, dict[int, _Way]]" = WeakKeyDictionary()


def _refilled(
    model: Any, tasks: Sequence[Task], settings: SamplingSettings, between: Callable[[], None]
) -> _Found:
    """Decode rows together; those that have ended make room for tasks that wait."""
    yield from _decoded(Batch(model), tasks, settings, between)


def _replayed(
    model: Any, tasks: Sequence[Task], settings: SamplingSettings, between: Callable[[], None]
) -> _Found:
    """Do the same at fixed places, so that a GPU can replay one recorded step."""
    rows = min(settings.batch_size, len(tasks))
    longest = max(len(task.prompt_ids) + task.limit for task in tasks)
    yield from _decoded(FixedBatch(model, rows, longest), tasks, settings, between)


def _decoded(
    batch: Batch | FixedBatch,
    tasks: Sequence[Task],
    settings: SamplingSettings,
    between: Callable[[], None],
) -> _Found:
    waiting = list(reversed(tasks))
    while waiting or batch.rows:
        ended = [row for row in batch.rows if row.ended]
        between()
        if not batch.rows or len(ended) > _ENDED * len(batch.rows):
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
        batch = tasks[start : start + settings.batch_size]
        yield from _generated_batch(model, batch, settings, between)


def _generated_by_length(
    model: Any, tasks: Sequence[Task], settings: SamplingSettings, between: Callable[[], None]
) -> _Found:
    """Do the same with prompts of equal length together, so that there is no padding."""
    for _, equal in groupby(tasks, key=lambda task: len(task.prompt_ids)):
        yield from _generated(model, list(equal), settings, between)


def _generated_batch(
    model: Any, tasks: Sequence[Task], settings: SamplingSettings, between: Callable[[], None]
) -> _Found:
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
        logits_processor=LogitsProcessorList([_Draws(rows, settings, between)]),
    )
    yield from ((row.task, row.sample(settings.stop_ids)) for row in rows)


def _without_cache(
    model: Any, tasks: Sequence[Task], settings: SamplingSettings, between: Callable[[], None]
) -> _Found:
    """Run whole rows through the model for every token, as scoring does: slow, with no state."""
    device = next(model.parameters()).device
    words = model.config.get_text_config().vocab_size
    for start in range(0, len(tasks), settings.batch_size):
        rows = [PartialResponse.of(task) for task in tasks[start : start + settings.batch_size]]
        while going := [row for row in rows if not row.ended]:
            between()
            longest = max(len(row.task.prompt_ids) + len(row.ids) for row in going)
            together = max(1, _MOST_BYTES // (4 * words * longest))
            for first in range(0, len(going), together):
                part = going[first : first + together]
                ids = [row.task.prompt_ids + row.ids for row in part]
                # Padded on the right, where a causal model's real tokens never look.
                padded = torch.tensor([[*row, *[0] * (longest - len(row))] for row in ids])
                inputs = {"input_ids": padded, "attention_mask": torch.ones_like(padded)}
                inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
                logits = model(**inputs, use_cache=False).logits  # (rows, longest, V)
                last = torch.tensor([len(row) - 1 for row in ids], device=device)
                draw_and_take(part, logits[torch.arange(len(part)), last], settings)
        yield from ((row.task, row.sample(settings.stop_ids)) for row in rows)


class _Draws(LogitsProcessor):
    """Our draws within `generate`, which may only choose the tokens that were drawn."""

    def __init__(
        self,
        rows: Sequence[PartialResponse],
        settings: SamplingSettings,
        between: Callable[[], None],
    ) -> None:
        self._rows = rows
        self._settings = settings
        self._between = between

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._between()
        tokens = draw_and_take(self._rows, scores, self._settings)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


_ON_GPU: dict[str, _Way] = {"one recorded step replayed": _replayed}
_WAYS: dict[str, _Way] = {
    "rows that have ended replaced": _refilled,
    "generate with padding": _generated,
    "generate with prompts of equal length": _generated_by_length,
    "every token computed from the whole row": _without_cache,
}
_NOTHING = "no way of sampling agrees with the model's own log-probs"


def _exact_way(model: Any, length: int = 64) -> _Way:
    """Pick the first way whose log-probs are those of `response_logps` on the loaded model.

    It is tried on rows of up to `length` tokens.
    """
    # A recorded step would read weights where they were gathered once.
    on_gpu = next(model.parameters()).is_cuda and not is_sharded(model)
    ways = _ON_GPU | _WAYS if on_gpu else _WAYS
    return exact_way("sampling", model, ways, length, partial(_first_exact, model))


def _first_exact(model: Any, ways: Mapping[str, _Way], length: int) -> _Way:
    config = model.config.get_text_config()
    tasks = _random_tasks(config, length)
    never = config.vocab_size  # so that responses end at the limits of their tasks
    settings = SamplingSettings((never,), max_new_tokens=0, temperature=1.0, batch_size=3)

    def error(way: _Way) -> float:
        found = list(way(model, tasks, settings, lambda: None))
        groups = [Group(task.prompt_ids, [sampled.ids]) for task, sampled in found]
        logps = response_logps(model, groups).double().cpu()
        lengths = logps.new_tensor([len(sampled.ids) for _, sampled in found])
        ours = logps.new_tensor([sampled.logps for _, sampled in found])
        return ((ours - logps).abs() / lengths).max().item()

    def flaw(way: _Way) -> str:
        off = error(way)
        if off <= tolerance and is_narrow(model):
            # Rounding might hide a fault, so once more with room for the digits.
            with widened(model) as wide:
                off = 0.0 if wide is None else error(way)
                return "" if off <= exact_tolerance(model) else _off(off)
        return "" if off <= tolerance else _off(off)

    def measured() -> float:
        groups = [Group(task.prompt_ids, [task.prompt_ids[: task.limit]]) for task in tasks]
        lengths = torch.tensor([len(group.responses[0]) for group in groups])

        def alone() -> list[torch.Tensor]:
            return list(response_logps(model, groups).cpu() / lengths)

        return measured_tolerance(model, alone)

    # In a narrow type rounding alone would choose among the ways.
    tolerance = measured() if is_narrow(model) else exact_tolerance(model)
    try:
        return first_exact(model, ways, flaw, _NOTHING)
    except UserError:
        before, tolerance = tolerance, measured()
        if tolerance <= before:
            raise
        return first_exact(model, ways, flaw, _NOTHING)


def _off(error: float) -> str:
    return f"off by {error:.2g} nats per token"


def _random_tasks(config: Any, length: int) -> list[Task]:
    """Make prompts and limits of mixed lengths, the longest row of `length` tokens and first."""
    generator = torch.Generator().manual_seed(0)
    most = max(1, min(12, length // 4))
    tasks = []
    for number, (share, limit) in enumerate(
        [(1.0, 3), (0.5, 12), (0.5, 1), (0.4, 9), (0.2, 6), (0.1, 12), (0.0, 5)]
    ):
        count = max(1, int(share * (length - most)))
        ids = torch.randint(config.vocab_size, (count,), generator=generator).tolist()
        tasks.append(Task(number, ids, number, min(limit, most)))
    return tasks
