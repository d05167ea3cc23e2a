"""Score: log-probs of all responses under the opponent, and whether the engine agrees."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from spin_train.config.schema import Config
from spin_train.data.records import Record, Response, read_records, write_records
from spin_train.errors import UserError
from spin_train.model.logps import Group
from spin_train.model.packing import token_blocks
from spin_train.run.graph import Stage
from spin_train.run.shards import Shard, claimed, shards_of
from spin_train.stages.held import Held
from spin_train.stages.parity import PARITY_TOLERANCE
from spin_train.stages.work import Work

__all__ = ["PARITY_TOLERANCE", "parity_problem", "score", "score_by_reference"]

_LOG = logging.getLogger(__name__)

_PARITY_HELP = {
    "vllm": "use generation.engine=hf in a new output_dir",
    "hf": (
        "this model computes other log-probs with a cache, or in other batches, than for whole "
        "rows; try training.dtype=float32 in a new output_dir"
    ),
    "given": "check generation",
}


def score(work: Work, stage: Stage) -> list[Path]:
    """Store the log-probs of each response under the opponent of this iteration."""
    config, iteration = work.config, stage.iteration
    folder = work.run.folder(stage) / "scored"
    shards = shards_of(work.run.directory, config.generation)
    with work.holding(work.run.policy(iteration), stage) as opponent:
        for number, shard in claimed(shards, folder, work.ranks.board):
            opponent.visit(number, len(shards))
            scored = _scored(work, opponent, _to_score(work, shard, iteration), by="opponent")
            problem = parity_problem(scored, config, iteration)
            if problem and config.generation.parity == "refuse":
                raise UserError(problem)
            if problem:
                _LOG.warning("%s", problem)
            write_records(folder / shard.name, scored)
    return work.finished_shards(folder)


def score_by_reference(work: Work, stage: Stage) -> list[Path]:
    """Store log-probs under p_0, in a separate stage so that only one model is in memory."""
    folder = work.run.folder(stage) / "reference"
    shards = shards_of(work.run.directory, work.config.generation)
    with work.holding(work.run.policy(0), stage) as reference:
        for number, shard in claimed(shards, folder, work.ranks.board):
            reference.visit(number, len(shards))
            records = _with_samples(work, shard, stage.iteration)
            write_records(folder / shard.name, _scored(work, reference, records, by="reference"))
    return work.finished_shards(folder)


def _to_score(work: Work, shard: Shard, iteration: int) -> Sequence[Record]:
    if work.config.algorithm == "tspin_ref":
        return read_records(work.run.directory.iteration(iteration) / "reference" / shard.name)
    return _with_samples(work, shard, iteration)


def _scored(
    work: Work, held: Held, records: Sequence[Record], *, by: Literal["opponent", "reference"]
) -> list[Record]:
    groups = [
        Group(record.prompt_ids, [response.ids for response in record.responses])
        for record in records
    ]
    parts = [held.logps(part) for part in token_blocks(groups, work.scoring_tokens)]
    work.speed.count(sum(group.tokens for group in groups))
    logps = iter(torch.cat(parts).tolist())
    return [record.with_logps([next(logps) for _ in record.responses], by=by) for record in records]


def _with_samples(work: Work, shard: Shard, iteration: int) -> list[Record]:
    """Add to each record this iteration's samples, the mixed-in earlier ones, and proto."""
    # Held-out numbers are about the opponent itself, so nothing is mixed in there.
    mixing = 0 if shard.split == "held_out" else work.config.mixing
    records = shard.records
    responses = [record.of_role("real") for record in records]
    for source in range(iteration, max(0, iteration - mixing) - 1, -1):
        for row, samples in zip(responses, _samples(work, source, shard), strict=True):
            row += samples
    if work.config.has_triplets:
        for row, samples in zip(responses, _samples(work, 0, shard), strict=True):
            row += [replace(sample, role="proto") for sample in samples]
    return [replace(record, responses=row) for record, row in zip(records, responses, strict=True)]


def _samples(work: Work, iteration: int, shard: Shard) -> list[list[Response]]:
    path = work.run.directory.iteration(iteration) / "generations" / shard.name
    return [record.responses for record in read_records(path)]


def parity_problem(records: Sequence[Record], config: Config, iteration: int) -> str:
    """Compare the engine's log-probs of its samples with the trainer's.

    Returns one line on what is wrong and what to do, empty where both agree. Both numbers are taken
    at temperature 1 whatever the samples were drawn at, so they are comparable at any temperature.
    Only the samples of `iteration` are compared: both numbers are about its opponent.
    """
    tolerance = PARITY_TOLERANCE[config.training.dtype]
    pairs: list[tuple[float, int]] = []
    for record in records:
        for sample in record.of_role("generated"):
            if sample.iteration == iteration and sample.sampling_logps is not None:
                assert sample.opponent_logps is not None
                pairs.append((sample.sampling_logps - sample.opponent_logps, len(sample.ids)))
    differences, tokens = torch.tensor(pairs, dtype=torch.float64).reshape(-1, 2).unbind(1)
    if tolerance.explains(differences, tokens):
        return ""
    beyond = sum(not abs(off) <= tolerance.allowed(n) for off, n in pairs)  # nan is beyond as well
    mean, worst = (f(differences.abs() / tokens).item() for f in (torch.mean, torch.max))
    return (
        f"generation parity: engine {config.generation.engine} and the training forward pass "
        f"differ on log-probs of samples by {mean:.3g} nats per token, at most {worst:.3g}, and on "
        f"{beyond} of {len(pairs)} samples beyond the tolerance ({tolerance}): samples and scores "
        f"come from different distributions; {_PARITY_HELP[config.generation.engine]}, or continue "
        "with generation.parity=warn"
    )
