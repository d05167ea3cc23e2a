"""Generate: the opponent p_K answers the prompts of iteration K."""

import gc
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from spin_train.data.records import write_records
from spin_train.errors import UserError
from spin_train.run.graph import Stage
from spin_train.run.shards import claimed, shards_of
from spin_train.sampling import transformers_engine, vllm_process
from spin_train.sampling.play import fill_shards, sampling_record
from spin_train.stages.work import Work
from spin_train.system.files import write_json

__all__ = ["generate"]


def generate(work: Work, stage: Stage) -> list[Path]:
    """Sample the shards that are not there yet, together with the other ranks."""
    folder = work.run.folder(stage) / "generations"
    settings = folder / "settings.json"
    if work.ranks.is_first:
        write_json(settings, sampling_record(work.config, stage.iteration))
    engine = {"given": _take_given, "vllm": _with_vllm, "hf": _with_transformers}
    engine[work.config.generation.engine](work, stage, folder)
    return [settings, *work.finished_shards(folder)]


def _with_transformers(work: Work, stage: Stage, folder: Path) -> None:
    with work.holding(work.run.policy(stage.iteration), stage) as opponent:
        tokens = fill_shards(
            work.config,
            work.run.directory,
            stage.iteration,
            lambda finished: partial(transformers_engine.sample, opponent.model, finished=finished),
            visit=opponent.visit,
            ranks=work.ranks.size,
            board=work.ranks.board,
        )
    work.speed.count(tokens)


def _with_vllm(work: Work, stage: Stage, folder: Path) -> None:
    # The process claims and writes shards itself. The shards that are there, whichever rank wrote
    # them, say how far the stage is.
    total = len(shards_of(work.run.directory, work.config.generation))
    gc.collect()
    if torch.cuda.is_available():  # what the last stage has let go is free for vLLM only then
        torch.cuda.empty_cache()
    did = vllm_process.run_process(
        work.run.root,
        stage.iteration,
        work.run.policy(stage.iteration).source,
        visit=lambda: work.visit(stage, len(list(folder.glob("*.parquet"))), total),
    )
    work.speed.count_process(did["tokens"], did["peak_memory"])


def _take_given(work: Work, stage: Stage, folder: Path) -> None:
    """Take the other response of each row in place of a sample."""
    shards = shards_of(work.run.directory, work.config.generation)
    for _, shard in claimed(shards, folder, work.ranks.board):
        records = shard.records
        bare = [record.prompt_id for record in records if not record.of_role("given")]
        if bare:
            raise UserError(
                f"generation.engine: given, but row {bare[0] + 1} of {work.config.data.path} "
                "has no other response (generated, rejected)"
            )
        taken = [
            replace(
                record,
                responses=[replace(response, role="generated", iteration=stage.iteration)],
            )
            for record in records
            for response in record.of_role("given")
        ]
        write_records(folder / shard.name, taken)
