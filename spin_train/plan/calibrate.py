"""How long a run takes: a few steps of a model with few layers, then a line through them.

A model of the run's own width with one layer and with three takes the largest micro-batch forward
and backward, and samples a few tokens. What a layer adds is the difference, so the whole
model's time is a straight line in its layers. The optimiser's step goes with the number of weights.

What ranks tell each other, loading, saving, scoring and evaluation are left out, so the sum is a
lower bound. Samples are taken to be as long as they may get, which works the other way.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from spin_train.config.schema import Config
from spin_train.model.loading import empty_model
from spin_train.model.logps import response_loss
from spin_train.plan.memory import recompute_if_asked
from spin_train.plan.rows import Rows
from spin_train.plan.work import Sampled, Trained
from spin_train.sampling.engine import SamplingSettings
from spin_train.sampling.transformers_engine import sample

__all__ = ["Pace", "pace_of", "seconds_by_stage"]

_LAYERS = (1, 3)
_TIMES = 3  # the best counts: whatever disturbs makes it longer
_FEW = 9  # tokens sampled, so that eight steps follow the first


@dataclass(frozen=True)
class Pace:
    """Seconds of one rank with the whole model."""

    training: float
    """Per token, forward and backward."""
    prompts: float
    """Of taking a batch of prompts in."""
    token: float
    """Of a step in which each row of a batch gets a token."""
    update: float
    """Per weight that a rank updates."""


def pace_of(config: Config, rows: Rows, stage: Trained, *, device: str) -> Pace:
    """Measure, on this machine's device, with the threads that a worker gets."""
    before = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0))
    given = os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(int(given) if given else max(1, cores // (config.ranks or 1)))
    try:
        whole = empty_model(config).config.get_text_config().num_hidden_layers
        few, more = (min(count, whole) for count in _LAYERS)
        at = {layers: _measured(config, rows, stage, layers, device) for layers in {few, more}}
    finally:
        torch.set_num_threads(before)
    if few == more:
        return at[few]

    def line(name: str) -> float:
        low, high = getattr(at[few], name), getattr(at[more], name)
        return float(low + max(0.0, high - low) / (more - few) * (whole - few))

    lines = {name: line(name) for name in ("training", "prompts", "token")}
    return Pace(**lines, update=at[more].update)


def seconds_by_stage(
    config: Config,
    pace: Pace,
    trained: list[Trained],
    sampled: list[Sampled],
    *,
    weights: int,
) -> dict[str, float]:
    """Estimate each stage that trains or samples; `weights` are those that are trained."""
    ranks = config.ranks or 1
    share = weights / (ranks if config.zero_stage > 0 else 1)
    found = {
        stage.name: stage.tokens / ranks * pace.training + stage.steps * share * pace.update
        for stage in trained
    }
    size, longest = config.generation.batch_size, config.generation.max_new_tokens
    for one in sampled:
        batches = math.ceil(one.samples / (ranks * size))
        found[one.name] = batches * (pace.prompts + longest * pace.token)
    return found


def _measured(config: Config, rows: Rows, stage: Trained, layers: int, device: str) -> Pace:
    model = empty_model(config, device=device, layers=layers)
    groups = list(stage.largest)
    tokens = sum(group.tokens for group in groups)
    sampling = _sampling(model, config, rows) if config.generation.engine == "hf" else (0.0, 0.0)
    recompute_if_asked(config, model)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        loss, _ = response_loss(model, groups, lambda logps, block: -logps.sum())
        loss.backward()  # type: ignore[no-untyped-call]

    training = _best(step)
    return Pace(training / tokens, *sampling, _update(config, model))


def _sampling(model: Any, config: Config, rows: Rows) -> tuple[float, float]:
    """Seconds of taking a batch of prompts in, and of a step after that."""
    prompts = [[1] * rows.longest_prompt] * config.generation.batch_size
    never = model.config.get_text_config().vocab_size

    def seconds(count: int) -> float:
        settings = SamplingSettings(
            stop_ids=(never,),
            max_new_tokens=count,
            temperature=config.generation.temperature,
            batch_size=config.generation.batch_size,
        )
        return _best(lambda: sample(model, prompts, list(range(len(prompts))), settings))

    first, few = seconds(1), seconds(_FEW)
    return first, max(0.0, few - first) / (_FEW - 1)


def _update(config: Config, model: Any) -> float:
    """Seconds per weight of the run's optimiser, on float32 numbers."""
    arguments = TrainingArguments(
        output_dir="unused",
        optim=config.training.optim,
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
    )
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
    count = int(min(sum(parameter.numel() for parameter in model.parameters()), 10_000_000))
    weight = torch.nn.Parameter(torch.zeros(count, device=next(model.parameters()).device))
    weight.grad = torch.ones_like(weight)
    optimiser = kind([weight], **settings)
    return _best(lambda: optimiser.step()) / count


def _best(run: Callable[[], Any]) -> float:
    """Seconds of the quickest of some calls after a first one, whose trials do not count."""
    times = []
    for _ in range(1 + _TIMES):
        _wait()
        started = time.perf_counter()
        run()
        _wait()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
