"""Metrics and samples of a run as data frames."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas

from spin_train.config.schema import Config
from spin_train.data.records import Record, Response, read_records
from spin_train.errors import UserError
from spin_train.model.loading import load_tokenizer
from spin_train.run.directory import RunDirectory
from spin_train.run.graph import Stage
from spin_train.run.policies import Policy, listed_policies, policy_of
from spin_train.system.files import read_lines

__all__ = ["metrics_frame", "prompts_with_samples", "samples_frame", "tokenizer_of"]


def metrics_frame(root: Path, stages: list[Stage]) -> pandas.DataFrame:
    """One row per logged line of each training stage."""
    rows: list[dict[str, Any]] = []
    for stage in stages:
        path = root / stage.folder / "metrics.jsonl"
        if stage.kind != "train" or not path.is_file():
            continue
        own = {"stage": stage.name, "iteration": stage.iteration, "control": stage.control}
        rows += [own | line for line in read_lines(path)]
    return pandas.DataFrame(rows, columns=None if rows else ["stage", "iteration", "control"])


def samples_frame(config: Config, directory: RunDirectory, iteration: int) -> pandas.DataFrame:
    """One row per response of an iteration, from the scored shard where it is there."""
    folder = directory.iteration(iteration)
    sampled = sorted((folder / "generations").glob("*.parquet"))
    if not sampled:
        raise UserError(f"no samples in {folder}: iteration {iteration} has not been sampled yet")
    scored = [folder / "scored" / shard.name for shard in sampled]
    shards = [new if new.is_file() else old for old, new in zip(sampled, scored, strict=True)]
    tokenizer = tokenizer_of(config, directory)

    def text(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    def row(response: Response) -> dict[str, Any]:
        return {
            "role": response.role,
            "response": text(response.ids),
            "finish_reason": response.finish_reason,
            "iteration": response.iteration,
            "sampling_logps": response.sampling_logps,
            "opponent_logps": response.opponent_logps,
            "reference_logps": response.reference_logps,
        }

    rows = []
    for shard in shards:
        split = shard.name.partition("-")[0]
        for record in read_records(shard):
            prompt = {
                "prompt_id": record.prompt_id,
                "split": split,
                "prompt": text(record.prompt_ids),
            }
            rows += [prompt | row(response) for response in record.responses]
    return pandas.DataFrame(rows)


def prompts_with_samples(
    config: Config,
    directory: RunDirectory,
    *,
    split: str,
    more: Sequence[Policy] = (),
    most: int | None = None,
) -> list[dict[str, Any]]:
    """Prompts of a split, each with the human response and a list of answers per policy.

    ``{"prompt_id", "prompt", "human", "answers": {"p_0": [{"response", "finish_reason"}], ...},
    "greedy": {"p_0": {"response", "finish_reason"}, ...}}``, in the order of the data. Greedy are
    those of the run's policies and of `more`; `most` prompts at most, all by default. UserError if
    nothing is sampled yet, or for another split.
    """
    if split not in ("held_out", "train"):
        raise UserError(f"--split is held_out or train, got {split!r}")
    rows = directory.held_out_rows if split == "held_out" else directory.train_rows
    sampled = {
        f"p_{k}": sorted((directory.iteration(k) / "generations").glob(f"{split}-*.parquet"))
        for k in range(config.iterations)
    }
    last = policy_of(config, directory, config.iterations)
    if split == "held_out" and last.samples_file.is_file():
        sampled[last.name] = [last.samples_file]
    decoded = [
        policy
        for policy in (*more, *listed_policies(config, directory))
        if split == "held_out" and policy.greedy_file.is_file()
    ]
    if not (rows.is_file() and (decoded or any(sampled.values()))):
        raise UserError(f"nothing is sampled in {directory.root} yet")
    tokenizer = tokenizer_of(config, directory)

    def text(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    found: dict[int, dict[str, Any]] = {
        record.prompt_id: {
            "prompt_id": record.prompt_id,
            "prompt": text(record.prompt_ids),
            "human": [text(response.ids) for response in record.of_role("real")],
            "answers": {},
            "greedy": {},
        }
        for record in read_records(rows)[:most]
    }

    def said(response: Response) -> dict[str, str]:
        return {"response": text(response.ids), "finish_reason": response.finish_reason}

    for name, shards in sampled.items():
        for record in _of(found, shards):
            answered = [said(response) for response in record.of_role("generated")]
            found[record.prompt_id]["answers"][name] = answered
    for policy in decoded:
        for record in _of(found, [policy.greedy_file]):
            found[record.prompt_id]["greedy"][policy.name] = said(record.responses[0])
    return list(found.values())


def _of(found: Collection[int], shards: Sequence[Path]) -> Iterator[Record]:
    """Read the records of these prompts."""
    if shards:
        yield from (one for one in read_records(*shards) if one.prompt_id in found)


def tokenizer_of(config: Config, directory: RunDirectory) -> Any:
    """Load the tokenizer of a policy that is there, else the model's: a moved run has no model."""
    for policy in listed_policies(config, directory):
        if isinstance(policy.source, Path) and policy.is_there:
            own = {"model": str(policy.source), "model_revision": None}
            return load_tokenizer(config.model_copy(update=own))
    return load_tokenizer(config)
