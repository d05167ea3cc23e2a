"""A run whose pairs are enumerated: its data, samples and scores, as if it had come to train.

Every pair (y, y') of the space is a record of its own, with the weight p_data(y|x) p_t(y'|x), so
the loss of the run is the expectation of (4.7), without sampling noise. Pairs of weight 0 are not
written. Where pairs are sampled, a weight counts how often a pair was drawn. What the run does from
there on is what every run does.
"""

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spin_theory.policies import TabularPolicy, pair_log_probs
from spin_train.config.files import parse_config
from spin_train.data.records import Record, Response, write_records
from spin_train.lab.tabulate import PolicyTable
from spin_train.lab.world import Space
from spin_train.run.run import Run
from spin_train.system.files import write_atomically, write_json

__all__ = ["coupled_triplets", "enumerated_pairs", "prepare_run", "sampled_pairs"]

STOP = "stop"
ROUNDING = 1e-14
"""Probability, of sums of a few numbers: less is no overlap."""


def enumerated_pairs(data: TabularPolicy, opponent: TabularPolicy) -> Tensor:
    """Weights (X, Y, Y) of all pairs (y, y'), which sum to one per prompt."""
    return pair_log_probs(data.log_probs, opponent.log_probs).exp()


def coupled_triplets(
    data: TabularPolicy, opponent: TabularPolicy, initial: TabularPolicy
) -> Tensor:
    """Weights (X, Y, Y, Y) of triplets (y, y', y0), which sum to one per prompt.

    The loss is a sum of a term in (y, y') and one in (y', y0). So only those pairs need their
    probabilities, and y and y0 may go together: at most 2 Y - 1 of their Y^2 pairs have a weight.
    """
    real, proto = (table.probs.cumsum(-1) for table in (data, initial))  # (X, Y)
    upper = torch.minimum(real[:, :, None], proto[:, None, :])
    lower = torch.maximum(
        (real - data.probs)[:, :, None], (proto - initial.probs)[:, None, :]
    )  # the overlap of two intervals of the unit line
    overlap = (upper - lower).clamp(min=0)
    together = overlap.where(overlap > ROUNDING, 0.0)
    return together[:, :, None, :] * opponent.probs[:, None, :, None]


def sampled_pairs(
    data: TabularPolicy, opponent: TabularPolicy, *, pairs: int, generator: torch.Generator
) -> Tensor:
    """Weights (X, Y, Y) of so many pairs per prompt, drawn and counted."""
    weights = enumerated_pairs(data, opponent)
    prompts, responses, _ = weights.shape
    drawn = torch.multinomial(weights.flatten(1), pairs, replacement=True, generator=generator)
    counts = torch.zeros(prompts, responses**2, dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    return counts.view_as(weights) / pairs


def prepare_run(
    root: Path,
    space: Space,
    opponent: PolicyTable,
    data: TabularPolicy,
    weights: Tensor,
    **settings: Any,
) -> Run:
    """Write what a run of one iteration has left when its first training begins.

    Parameters
    ----------
    root : Path
        `output_dir` of the run; one that is there is kept as it is.
    space : Space
        Prompts and responses.
    opponent : PolicyTable
        Table of the model that the run starts from.
    data : TabularPolicy, shape (X, Y)
        p_data, for the rows that a reader may look at.
    weights : Tensor, shape (X, Y, Y) or (X, Y, Y, Y)
        Weight of each pair or triplet, summing to one per prompt. Prompts count alike.
    **settings
        Keys of the configuration; `model` at least. One step of the optimiser takes all examples.

    Returns
    -------
    Run
        Its next stages are the evaluation of p_0 and the training.
    """
    count = int((weights > 0).sum())
    rows = root / "rows.jsonl"
    training = {
        "batch_size": count,
        "micro_batch_tokens": 2**20,
        "save_steps": 2**30,
        "report_to": "none",
        **settings.pop("training", {}),
    }
    content = {
        "template": "{prompt}>",
        "data": {"path": str(rows), "held_out": 1},
        "output_dir": str(root),
        "iterations": 1,
        "generation": {"max_new_tokens": 3},
        "zero_stage": 0,
        **settings,
        "training": training,
    }
    run = Run.of(parse_config(content, source="bridge"))
    if run.directory.manifest_file.is_file():
        return run
    root.mkdir(parents=True, exist_ok=True)
    with write_atomically(rows) as partial:
        partial.write_text("".join(_rows(space, data)), encoding="utf-8")
    # The mean over examples is to be the mean over prompts of the sums over pairs.
    factors = weights * count / len(weights)
    records = list(_records(space, factors, torch.stack(opponent.log_probs)))
    held_out = [record for record in records if record.responses[0].ids == space.response_ids[0]]
    folder = run.directory.iteration(0)
    shards = {
        stage: [folder / stage / f"{split}-00000.parquet" for split in ("train", "held_out")]
        for stage in ("generations", "scored")
    }
    data_files = [run.directory.train_rows, run.directory.held_out_rows]
    for files in (data_files, *shards.values()):
        for path, part in zip(files, (records, held_out), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_records(path, part)
    lengths = {"prompt_tokens": {"max": 2}, "response_tokens": {"max": 3}}
    write_json(run.directory.data_summary, {**lengths, "stop_id": 0, "stop_ids": [0], "notes": []})
    manifest = run.manifest()
    manifest.content["versions"] = {"spin-toolkit": version("spin-toolkit")}
    manifest.complete("data/prepare", [*data_files, run.directory.data_summary], seconds=0)
    manifest.complete("iter0/generate", shards["generations"], seconds=0)
    manifest.complete("iter0/score", shards["scored"], seconds=0)
    return run


def _rows(space: Space, data: TabularPolicy) -> Iterator[str]:
    """Write the real rows as a user would: prompt, response, weight."""
    for prompt, probs in zip(space.prompt_texts, data.probs.tolist(), strict=True):
        for response, weight in zip(space.response_texts, probs, strict=True):
            row = {"prompt": prompt, "response": response, "weight": weight}
            yield json.dumps(row) + "\n"


def _records(space: Space, weights: Tensor, opponent_log_probs: Tensor) -> Iterator[Record]:
    """Make one record per pair or triplet that has a weight."""
    roles = ("real", "generated", "proto")
    for number, place in enumerate(torch.nonzero(weights).tolist()):
        x, *chosen = place
        responses = [
            Response(
                role,
                space.response_ids[y],
                STOP,
                iteration=None if role == "real" else 0,
                opponent_logps=float(opponent_log_probs[x, y]),
            )
            for role, y in zip(roles, chosen, strict=False)
        ]
        weight = float(weights[(x, *chosen)])
        yield Record(number, space.prompt_ids[x], responses, weight)
