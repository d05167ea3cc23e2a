"""The memory of each kind of stage: the largest moment, by part."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from spin_train.config.schema import Config
from spin_train.errors import UserError
from spin_train.model.adapters import attach
from spin_train.model.loading import empty_model
from spin_train.plan.engine import Moment, Weights, largest_moment, moments
from spin_train.plan.optimiser import Optimiser, optimiser_of
from spin_train.plan.rows import Rows
from spin_train.plan.trace import Trace, trace_prompts, trace_scoring, trace_training
from spin_train.plan.work import Trained, largest_scored, sampled_by, trained_by

__all__ = [
    "SCORING",
    "Model",
    "StageMemory",
    "memory_by_stage",
    "model_of",
    "program",
    "recompute_if_asked",
]

SCORING = "score"
"""Name for all stages that only compute log-probs: score, reference, evaluate."""

_MIB = 2**20
# Seen with torch 2.13 and transformers 5.23: Python and all libraries, before a model is loaded.
_PROGRAM = {"cpu": 560 * _MIB, "cuda": 600 * _MIB}
_LINK = 500 * _MIB  # what NCCL takes on a device when there are several ranks
_RESERVE = 0.05  # of what is computed with: blocks of torch's allocator on a GPU with gaps in them
_GATHERED = 3  # largest tensors: one in use, those of its layer, what they are gathered in
_DOUBLE = 8
_DRAWS = 4  # arrays of float64 over the vocabulary that drawing a token takes
_ROOM = 64  # columns behind the last one in a cache
_NOT_COUNTED = (RuntimeError, NotImplementedError, TypeError, AttributeError)


@dataclass(frozen=True)
class Model:
    """A model without numbers, and how many it has."""

    empty: Any
    weights: Weights
    optimiser: Optimiser


@dataclass(frozen=True)
class StageMemory:
    """The memory of one rank in a kind of stage, at its largest moment."""

    stage: str
    moment: str
    parts: dict[str, int]
    """Bytes by what they are for, on its device."""
    host: dict[str, int] = field(default_factory=dict)
    """What `offload` keeps in main memory instead, at the moment when that is most."""

    @property
    def total(self) -> int:
        """Sum of the parts."""
        return sum(self.parts.values())


def model_of(config: Config, *, device: str) -> Model:
    """Make the model of a run on the meta device, with its adapters, as a training stage does."""
    model = empty_model(config)
    if config.adapter:
        with torch.device("meta"):
            attach(model, config.adapter)
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    every = sum(p.numel() for p in model.parameters())
    width = 2 if config.training.dtype == "bfloat16" else 4
    weights = Weights(sum(trained), every - sum(trained), max(trained), width)
    return Model(model, weights, optimiser_of(config.training, device=device))


def program(*, device: str, ranks: int) -> dict[str, int]:
    """Name what a rank takes on its device before it has a model."""
    if device == "cpu":
        return {"program and libraries": _PROGRAM["cpu"]}
    link = {"NCCL": _LINK} if ranks > 1 else {}
    return {"CUDA itself": _PROGRAM["cuda"]} | link


def memory_by_stage(
    config: Config,
    rows: Rows,
    model: Model,
    *,
    device: str,
    trained: Sequence[Trained] | None = None,
    only: str | None = None,
) -> tuple[list[StageMemory], list[str]]:
    """Work out the memory of sampling, scoring and training on one rank, and what to note.

    `trained` are the training stages, if they are known already. With `only`, one kind of stage.
    """
    given = list(trained or trained_by(config, rows))
    try:
        found = _largest(config, rows, model, given, device, only)
    except _NOT_COUNTED as error:
        raise UserError(
            f"plan: {type(model.empty).__name__} computes what depends on values "
            f"({str(error).splitlines()[0][:120]}), so its activations cannot be counted without "
            "loading it; measure them with a short run (--until sft/train)"
        ) from error
    base = program(device=device, ranks=config.ranks or 1)
    stages = []
    for name, moment in found.items():
        if only not in (None, name):
            continue
        parts = base | {part: size for part, size in moment.parts.items() if size}
        if device != "cpu":
            parts["gaps of the allocator"] = int(_RESERVE * moment.total)
        stages.append(StageMemory(name, moment.name, parts, moment.host))
    notes = []
    if config.ranks is None:
        notes.append(
            "ranks is not set, so this is the plan of one: give ranks=N, the number of processes "
            "that your launcher starts"
        )
    if config.generation.engine == "vllm":
        notes.append(
            f"vLLM takes {config.generation.vllm_memory:.0%} of the device's free memory while it "
            "samples, whatever the model needs (generation.vllm_memory)"
        )
    if not model.optimiser.known:
        notes.append(
            f"training.optim={config.training.optim} cannot be tried here: counted as AdamW"
        )
    return stages, notes


def _largest(
    config: Config,
    rows: Rows,
    model: Model,
    trained: list[Trained],
    device: str,
    only: str | None,
) -> dict[str, Moment]:
    """Find the largest moment of each kind of stage, in the order they come in a run."""
    training: dict[str, Moment] = {}
    for stage in _kinds(trained):
        trace = _trace(config, model, stage, device)
        listed = moments(
            model.weights,
            model.optimiser,
            trace,
            zero_stage=config.zero_stage,
            ranks=config.ranks or 1,
            device=device,
            accumulates=stage.accumulation > 1,
            offload=config.offload.model_dump(),
        )
        host = max((moment.host for moment in listed), key=lambda parts: sum(parts.values()))
        training[stage.name] = replace(largest_moment(listed), host=host)
    weights = model.weights
    plain = empty_model(config)  # without adapters and checkpointing, which only training has
    held, host = _held(config, weights, max(p.numel() for p in plain.parameters()), device)

    def loaded(passes: dict[str, int]) -> Moment:
        """Take the larger of two moments: the model is read from its file, or computes."""
        found = [Moment("computing", held | passes, host)]
        if device == "cpu":  # the pages of a file that is read count as the process's
            found.append(Moment("loading", held | {"weights, in their file": weights.all}, host))
        return largest_moment(found)

    judged: dict[str, Moment] = {}
    if config.generation.engine == "hf" and only in (None, "generate"):
        judged["generate"] = loaded(_sampling(config, rows, plain, device))
    if only in (None, SCORING):
        passing = trace_scoring(plain, largest_scored(config, rows), device=device)
        judged[SCORING] = loaded({"activations and logits": passing})
    return judged | training


def _held(
    config: Config, weights: Weights, largest: int, device: str
) -> tuple[dict[str, int], dict[str, int]]:
    """Weights of a policy that samples or scores, on a rank's device and moved to main memory.

    `largest` is the number of weights of the largest tensor.
    """
    if not config.sharded_inference:
        return {"weights": weights.all}, {}
    share = {"share of the weights": _share(config, weights)}
    in_use = {"weights of layers in use": _GATHERED * largest * weights.width}
    if config.offload.parameters and device != "cpu":
        return in_use, share
    return share | in_use, {}


def _share(config: Config, weights: Weights) -> int:
    """Bytes of a rank's share of all weights."""
    return weights.width * -(-(weights.trained + weights.frozen) // (config.ranks or 1))


def _kinds(stages: Sequence[Trained]) -> list[Trained]:
    """Keep one of several stages that train in the same way: the last, which has most samples."""
    by_kind = {(stage.name.split("/")[0][:4], stage.objective.algorithm): stage for stage in stages}
    return list(by_kind.values())


def recompute_if_asked(config: Config, model: Any) -> None:
    """Let a model compute activations again, where the configuration asks for it."""
    given = config.training.model_extra or {}
    if given.get("gradient_checkpointing"):
        # transformers 5.23 renamed it
        enable = getattr(model, "activation_checkpointing_enable", None)
        (enable or model.gradient_checkpointing_enable)(given.get("gradient_checkpointing_kwargs"))
        model.train()


def _trace(config: Config, model: Model, stage: Trained, device: str) -> Trace:
    def loss(logps: Tensor, block: slice) -> Tensor:
        rows = logps.view(-1, len(stage.objective.roles))
        return stage.objective(rows, rows.detach()).sum()

    recompute_if_asked(config, model.empty)
    return trace_training(model.empty, list(stage.largest), loss, device=device)


def _sampling(config: Config, rows: Rows, model: Any, device: str) -> dict[str, int]:
    """Take prompts in while the cache of other rows is full, and draw for all of them."""
    generation = config.generation
    samples = max(stage.samples for stage in sampled_by(config, rows))
    together = min(generation.batch_size, samples)
    prompt = rows.longest_prompt
    peak, kept = trace_prompts(model, rows=together, tokens=prompt, device=device)
    full = kept * (prompt + generation.max_new_tokens + _ROOM) // (prompt + _ROOM)
    words = model.config.get_text_config().vocab_size
    return {
        "cache of the sampled rows": full,
        "prompts that are taken in": peak if samples > together else max(0, peak - full),
        "next token's probabilities": together * words * _DOUBLE * _DRAWS,
    }
