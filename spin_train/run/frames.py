"""Metrics and samples of a run as data frames."""

import json
from pathlib import Path
from typing import Any

import pandas

from spin_train.config.schema import Config
from spin_train.data.records import Response, read_records
from spin_train.errors import UserError
from spin_train.model.loading import load_tokenizer
from spin_train.run.directory import RunDirectory
from spin_train.run.graph import Stage

__all__ = ["metrics_frame", "samples_frame"]


def metrics_frame(root: Path, stages: list[Stage]) -> pandas.DataFrame:
    """One row per logged line of each training stage."""
    rows: list[dict[str, Any]] = []
    for stage in stages:
        path = root / stage.folder / "metrics.jsonl"
        if stage.kind != "train" or not path.is_file():
            continue
        own = {"stage": stage.name, "iteration": stage.iteration, "control": stage.control}
        lines = path.read_text(encoding="utf-8").splitlines()
        rows += [own | json.loads(line) for line in lines]
    return pandas.DataFrame(rows)


def samples_frame(config: Config, directory: RunDirectory, iteration: int) -> pandas.DataFrame:
    """One row per response of an iteration; the scored shards where they are there."""
    folder = directory.iteration(iteration)
    shards = sorted((folder / "scored").glob("*.parquet"))
    shards = shards or sorted((folder / "generations").glob("*.parquet"))
    if not shards:
        raise UserError(f"no samples in {folder}: iteration {iteration} has not been sampled yet")
    tokenizer = load_tokenizer(config)

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
