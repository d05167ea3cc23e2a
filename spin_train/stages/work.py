"""What each stage of a run does, on one rank; each reads and writes only artefacts."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from spin_train.config.schema import Config
from spin_train.data.records import Record, Response, count_records, read_records, write_records
from spin_train.data.rendering import Renderer
from spin_train.errors import StoppedError, UserError
from spin_train.model.loading import load_policy, load_tokenizer, model_limits
from spin_train.model.logps import Group, response_logps
from spin_train.model.packing import token_blocks
from spin_train.run.directory import RunDirectory
from spin_train.run.graph import Stage
from spin_train.run.shards import Shard, claimed, forget_claims, shards_of
from spin_train.sampling import transformers_engine, vllm_engine, vllm_process
from spin_train.sampling.play import fill_shards, sampling_record
from spin_train.seeds import seed_of
from spin_train.stages.benchmark import benchmark_tasks, run_task, wrapped
from spin_train.stages.evaluate import held_out_sums, summarise
from spin_train.stages.prepare import Limits, prepare
from spin_train.stages.score import parity_problem
from spin_train.stages.train import TrainingTask, fit
from spin_train.system.files import write_json
from spin_train.system.progress import Progress
from spin_train.system.ranks import Ranks
from spin_train.training.objective import control_objective, selfplay_objective, sft_objective

__all__ = ["StageRunner"]

# Tokens taken through the model at once, in training micro-batches: scoring keeps no activations.
_SCORING = 4

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageRunner:
    """One rank's hands: does a stage, and says which files it left."""

    config: Config
    run: RunDirectory
    ranks: Ranks
    progress: Progress

    def __post_init__(self) -> None:
        if self.config.generation.engine == "vllm":
            vllm_engine.require_vllm()  # before hours of training, not after

    def do(self, stage: Stage) -> list[Path]:
        """Do one stage together with the other ranks.

        Parameters
        ----------
        stage : Stage
            What to do.

        Returns
        -------
        list of Path
            The files it left, complete on return of every rank.

        Raises
        ------
        UserError
            If something the user can mend stands in the way.
        StoppedError
            If the driver asked to stop; what was done so far is on disk.
        """
        folder = self.folder(stage)
        if stage.kind == "prepare":
            if self.ranks.is_first:
                self._prepare()
            return [self.run.train_rows, self.run.held_out_rows, self.run.data_summary]
        if stage.kind == "generate":
            self._generate(stage.iteration)
            self.ranks.barrier()  # all ranks' shards are there to be listed
            return [folder / "generations/settings.json", *self._complete(folder / "generations")]
        if stage.kind == "reference":
            self._score_by_reference(stage.iteration)
            self.ranks.barrier()
            return self._complete(folder / "reference")
        if stage.kind == "score":
            self._score(stage.iteration)
            self.ranks.barrier()
            return self._complete(folder / "scored")
        if stage.kind == "train":
            self._train(stage, folder)
            policy = [path for path in (folder / "policy").iterdir() if path.is_file()]
            return [*policy, folder / "metrics.jsonl"]
        if stage.kind == "benchmark":
            self._benchmark(stage, folder)
            return sorted((folder / "benchmark").glob("*.json"))
        self._evaluate(stage, folder)
        return [folder / "evaluation.json"]

    def folder(self, stage: Stage) -> Path:
        """Directory of a stage.

        Parameters
        ----------
        stage : Stage
            Any.

        Returns
        -------
        Path
            Under the run's root.
        """
        return self.run.root / stage.name.rpartition("/")[0]

    def _prepare(self) -> None:
        config = self.config
        renderer = Renderer(load_tokenizer(config), config.template)
        context, vocabulary = model_limits(config)
        summary = prepare(
            config.data,
            renderer,
            Limits(context, config.generation.max_new_tokens, vocabulary),
            train=self.run.train_rows,
            held_out=self.run.held_out_rows,
            seed=config.seed,
            watch=lambda rows: self.progress.report("data/prepare", 0, 1, f"{rows} rows"),
        )
        bare = summary["train"] + summary["held_out"] - summary["given"]
        if config.generation.engine == "given" and bare:
            raise UserError(
                f"generation.engine: given, but {bare} rows of {config.data.path} have no other "
                "response (generated, rejected)"
            )
        write_json(self.run.data_summary, {**summary, "stop_id": renderer.stop_id})

    def _generate(self, iteration: int) -> None:
        folder = self.run.iteration(iteration) / "generations"
        if self.ranks.is_first:
            write_json(folder / "settings.json", sampling_record(self.config, iteration))
        if self.config.generation.engine == "given":
            self._take_given(iteration)
            return
        opponent = self._opponent(iteration)
        if self.config.generation.engine == "vllm":
            # The process itself claims and writes shards; what is there is how far all ranks are.
            total = len(shards_of(self.run, self.config.generation))
            vllm_process.sample_in_process(
                self.run.root,
                iteration,
                opponent,
                visit=lambda: self._visit(
                    f"iter{iteration}/generate", len(self._shards(folder)), total
                ),
            )
            return
        fill_shards(
            self.config,
            self.run,
            iteration,
            lambda: partial(
                transformers_engine.sample,
                self._load(opponent),
                between=self.ranks.raise_if_stopping,
            ),
            visit=partial(self._visit, f"iter{iteration}/generate"),
        )

    def _take_given(self, iteration: int) -> None:
        folder = self.run.iteration(iteration) / "generations"
        for _, shard in claimed(shards_of(self.run, self.config.generation), folder):
            records = shard.records
            bare = [record.prompt_id for record in records if not record.of_role("given")]
            if bare:
                raise UserError(
                    f"generation.engine: given, but row {bare[0] + 1} of {self.config.data.path} "
                    "has no other response (generated, rejected)"
                )
            taken = [
                replace(record, responses=[replace(r, role="generated", iteration=iteration)])
                for record in records
                for r in record.of_role("given")
            ]
            write_records(folder / shard.name, taken)

    def _visit(self, stage: str, done: int, total: int) -> None:
        self.ranks.raise_if_stopping()
        self.progress.report(stage, done, total)

    def _score(self, iteration: int) -> None:
        folder = self.run.iteration(iteration) / "scored"
        shards = shards_of(self.run, self.config.generation)
        model: Any = None
        for number, shard in claimed(shards, folder):
            self._visit(f"iter{iteration}/score", number, len(shards))
            model = model or self._load(self._opponent(iteration))
            scored = self._scored(model, self._to_score(shard, iteration), by="opponent")
            problem = parity_problem(scored, self.config, iteration)
            if problem and self.config.generation.parity == "refuse":
                raise UserError(problem)
            if problem:
                _log.warning("%s", problem)
            write_records(folder / shard.name, scored)

    def _score_by_reference(self, iteration: int) -> None:
        """Score by p_0 in a stage of its own, so that one model is in memory."""
        folder = self.run.iteration(iteration) / "reference"
        shards = shards_of(self.run, self.config.generation)
        model: Any = None
        for number, shard in claimed(shards, folder):
            self._visit(f"iter{iteration}/reference", number, len(shards))
            model = model or self._load(self._opponent(0))
            records = self._with_samples(shard, iteration)
            write_records(folder / shard.name, self._scored(model, records, by="reference"))

    def _to_score(self, shard: Shard, iteration: int) -> Sequence[Record]:
        if self.config.algorithm == "tspin_ref":
            return read_records(self.run.iteration(iteration) / "reference" / shard.name)
        return self._with_samples(shard, iteration)

    @torch.inference_mode()
    def _scored(
        self, model: Any, records: Sequence[Record], *, by: Literal["opponent", "reference"]
    ) -> list[Record]:
        groups = [
            Group(record.prompt_ids, [response.ids for response in record.responses])
            for record in records
        ]
        tokens = _SCORING * self.config.training.micro_batch_tokens
        runs = [response_logps(model, run) for run in token_blocks(groups, tokens)]
        logps = iter(torch.cat(runs).tolist())
        return [
            record.with_logps([next(logps) for _ in record.responses], by=by) for record in records
        ]

    def _with_samples(self, shard: Shard, iteration: int) -> list[Record]:
        """Return records with this iteration's samples, the mixed-in earlier ones, and proto."""
        # Held-out numbers are about the opponent itself, so nothing is mixed in there.
        mixing = 0 if shard.split == "held_out" else self.config.mixing
        records = shard.records
        responses = [record.of_role("real") for record in records]
        for source in range(iteration, max(0, iteration - mixing) - 1, -1):
            for row, samples in zip(responses, self._samples(source, shard), strict=True):
                row += samples
        if self.config.algorithm != "spin":
            for row, samples in zip(responses, self._samples(0, shard), strict=True):
                row += [replace(sample, role="proto") for sample in samples]
        return [
            Record(record.prompt_id, record.prompt_ids, row)
            for record, row in zip(records, responses, strict=True)
        ]

    def _samples(self, iteration: int, shard: Shard) -> list[list[Response]]:
        path = self.run.iteration(iteration) / "generations" / shard.name
        return [record.responses for record in read_records(path)]

    def _train(self, stage: Stage, folder: Path) -> None:
        fit(
            self._training_task(stage),
            config=self.config,
            ranks=self.ranks,
            progress=self.progress,
            stage=stage.name,
            folder=folder,
        )

    def _training_task(self, stage: Stage) -> TrainingTask:
        """Where a training stage starts, on what, for which loss, and for how long."""
        config, k = self.config, stage.iteration
        seed = seed_of(config.seed, "train", k)  # the control's order too
        if stage.name == "sft/train":
            assert config.sft is not None
            return TrainingTask(
                start=config.model,
                records=read_records(self.run.train_rows),
                objective=sft_objective(),
                learning_rate=config.sft.learning_rate,
                epochs=config.sft.epochs,
                seed=seed,
            )
        shards = sorted((self.run.iteration(k) / "scored").glob("train-*.parquet"))
        records = read_records(*shards)
        expected = count_records(self.run.train_rows)
        if len(records) != expected:
            raise UserError(
                f"{self.run.iteration(k)}/scored holds {len(records)} training rows of {expected}: "
                "restore its shards, or start in a new output_dir"
            )
        start, objective = self._opponent(k), selfplay_objective(config, k)
        if stage.control:
            start = self.run.control(k - 1) / "policy" if k > 0 else self._opponent(0)
            objective = control_objective(config, k)
        return TrainingTask(
            start=start,
            records=records,
            objective=objective,
            learning_rate=config.at("learning_rate", k),
            epochs=config.at("epochs", k),
            seed=seed,
        )

    def _evaluate(self, stage: Stage, folder: Path) -> None:
        k = stage.iteration
        if stage.name == "initial/evaluate":
            policy, objective = self._opponent(0), sft_objective()
            records = read_records(self.run.held_out_rows)
        else:
            policy, objective = folder / "policy", selfplay_objective(self.config, k)
            shards = sorted((self.run.iteration(k) / "scored").glob("held_out-*.parquet"))
            records = read_records(*shards)
        mine = records[self.ranks.rank :: self.ranks.size]
        model = self._load(policy)
        tokens = _SCORING * self.config.training.micro_batch_tokens
        values = held_out_sums(model, mine, objective, tokens=tokens) if mine else {}
        gathered = self.ranks.gather(values)
        if self.ranks.is_first:
            names = {name: None for part in gathered for name in part}
            merged = {name: [v for part in gathered for v in part.get(name, [])] for name in names}
            generation = self.config.generation
            summary = summarise(
                merged,
                temperature=generation.temperature,
                given=generation.engine == "given",
            )
            write_json(folder / "evaluation.json", summary)

    def _benchmark(self, stage: Stage, folder: Path) -> None:
        """Run the tasks that have no file yet, on the first rank; the others wait, task by task."""
        tasks = benchmark_tasks(self.config)
        judge: Any = None
        for number, task in enumerate(tasks):
            if self.ranks.stop_requested():  # the same answer on all, who meet again below
                raise StoppedError
            self.progress.report(stage.name, number, len(tasks), task.name)
            path = folder / "benchmark" / f"{task.name}.json"
            if self.ranks.is_first and not path.exists():
                policy = self._opponent(0) if stage.iteration < 0 else folder / "policy"
                judge = judge or wrapped(
                    self._load(policy), load_tokenizer(self.config), self.config
                )
                write_json(path, run_task(judge, task, self.config))
            self.ranks.barrier()

    def _complete(self, folder: Path) -> list[Path]:
        if self.ranks.is_first:
            forget_claims(folder)
        return self._shards(folder)

    def _shards(self, folder: Path) -> list[Path]:
        return sorted(folder.glob("*.parquet"))

    def _opponent(self, iteration: int) -> str | Path:
        """Name the model that plays in iteration K: p_K."""
        if iteration > 0:
            return self.run.iteration(iteration - 1) / "policy"
        return self.run.sft / "policy" if self.config.sft else self.config.model

    def _load(self, path: str | Path) -> Any:
        model = load_policy(path, self.config)
        return model.to(self.ranks.device).eval()
