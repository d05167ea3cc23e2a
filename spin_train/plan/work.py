"""How much a run has to do: examples, steps and tokens, by the trainer's own batching."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from spin_train.config.schema import Config
from spin_train.model.packing import Group, token_blocks
from spin_train.plan.rows import Rows, with_samples
from spin_train.run.graph import Stage, stages_of
from spin_train.stages.work import Work
from spin_train.training.batching import MicroBatches
from spin_train.training.examples import Example, examples_of
from spin_train.training.objective import Objective, selfplay_objective, sft_objective

__all__ = ["Sampled", "Trained", "largest_scored", "sampled_by", "trained_by"]


@dataclass(frozen=True)
class Trained:
    """A training stage."""

    name: str
    objective: Objective
    examples: int
    """Pairs, triplets or rows."""
    steps: int
    """Optimiser steps."""
    batch: int
    """Examples per step over all ranks: the effective batch."""
    accumulation: int
    """Micro-batches per step and rank."""
    tokens: int
    """Tokens through the model, all passes, each prompt once per example."""
    largest: Sequence[Group]
    """Groups of the micro-batch with the most tokens."""


@dataclass(frozen=True)
class Sampled:
    """A stage in which responses are sampled."""

    name: str
    samples: int
    tokens: int
    """Sampled tokens, if each sample is as long as it may get."""


def trained_by(config: Config, rows: Rows, *, only: str | None = None) -> list[Trained]:
    """List the training stages of a run, or the one of this name."""
    alike: dict[tuple[Any, ...], Trained] = {}
    found = []
    for stage in stages_of(config):
        if stage.kind != "train" or only not in (None, stage.name):
            continue
        k = stage.iteration
        mixed = min(k, config.mixing)  # earlier iterations whose samples are added
        key = (mixed, stage.control, config.at("epochs", k) if k >= 0 else None)
        if key not in alike:
            alike[key] = _trained(config, rows, stage)
        found.append(replace(alike[key], name=stage.name))
    return found


def _trained(config: Config, rows: Rows, stage: Stage) -> Trained:
    k, training = stage.iteration, config.training
    if k < 0:
        assert config.sft is not None
        objective, epochs, records = sft_objective(), config.sft.epochs, list(rows.train)
    else:
        objective = sft_objective() if stage.control else selfplay_objective(config, k)
        epochs, records = config.at("epochs", k), with_samples(config, rows.train, k)
    examples = examples_of(records, objective)
    batches = MicroBatches(
        examples,
        batch_size=training.batch_size,
        micro_batch_tokens=training.micro_batch_tokens,
        micro_batch_size=training.micro_batch_size,
        ranks=config.ranks or 1,
        epochs=epochs,
        seed=config.seed,
    )
    return Trained(
        name=stage.name,
        objective=objective,
        examples=len(examples),
        steps=batches.steps,
        batch=min(training.batch_size, len(examples)),
        accumulation=batches.accumulation,
        tokens=round(epochs * sum(example.group.tokens for example in examples)),
        largest=[example.group for example in _largest(batches)],
    )


def _largest(batches: MicroBatches) -> list[Example]:
    """Examples of the micro-batch with the most tokens; each step begins with its own largest."""
    firsts = (batches[step * (len(batches) // batches.steps)] for step in range(batches.steps))
    found = max(firsts, key=lambda batch: sum(each.group.tokens for each in batch.examples))
    return found.examples


def sampled_by(config: Config, rows: Rows) -> list[Sampled]:
    """List the stages of a run in which responses are sampled or decoded."""
    both, held_out = len(rows.train) + len(rows.held_out), len(rows.held_out)
    own = config.generation.samples_per_prompt
    answers = config.evaluation.answers
    asked = held_out if answers is None else min(answers.prompts or held_out, held_out)
    counts = {"generate": both * own, "sample": held_out * own, "answer": asked}
    if config.generation.engine == "given":
        counts.pop("generate")
    longest = config.generation.max_new_tokens
    return [
        Sampled(stage.name, counts[stage.kind], counts[stage.kind] * longest)
        for stage in stages_of(config)
        if stage.kind in counts
    ]


def largest_scored(config: Config, rows: Rows) -> Sequence[Group]:
    """Find the groups that are scored together, of the most tokens, in the last iteration."""
    records = with_samples(config, [*rows.train, *rows.held_out], config.iterations - 1)
    groups = [Group(row.prompt_ids, [each.ids for each in row.responses]) for row in records]
    run: Any = SimpleNamespace(config=config)
    tokens = Work(run, *([None] * 2)).scoring_tokens  # type: ignore[arg-type]
    return max(token_blocks(groups, tokens), key=lambda block: sum(g.tokens for g in block))
