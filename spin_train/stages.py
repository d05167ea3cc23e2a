"""What each stage of a run does, on one rank; each reads and writes only artefacts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spin_train.artifacts import RunDirectory, write_json
from spin_train.batching import token_runs
from spin_train.config import Config
from spin_train.data import Renderer, prepare
from spin_train.errors import StoppedError, UserError
from spin_train.evaluation import held_out_sums, summarise
from spin_train.generation import sample_responses, seed_of
from spin_train.leaderboards import benchmark_tasks, run_task, wrapped
from spin_train.logps import Group, response_logps
from spin_train.models import load_policy, load_tokenizer, model_limits
from spin_train.objective import control_objective, selfplay_objective, sft_objective
from spin_train.ranks import Progress, Ranks
from spin_train.records import Record, Response, read_records, write_records
from spin_train.selfplay import Stage
from spin_train.training import TrainingTask, fit

__all__ = ["StageRunner"]

SPLITS = ("train", "held_out")
# Tokens taken through the model at once, in training micro-batches: scoring keeps no activations.
_SCORING = 4


@dataclass(frozen=True)
class StageRunner:
    """One rank's hands: does a stage, and says which files it left."""

    config: Config
    run: RunDirectory
    ranks: Ranks
    progress: Progress

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
            return list(self._shards(folder / "generations"))
        if stage.kind == "score":
            self._score(stage.iteration)
            self.ranks.barrier()
            return list(self._shards(folder / "scored"))
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
        train, held_out, summary = prepare(
            config.data,
            renderer,
            context=context,
            max_new_tokens=config.generation.max_new_tokens,
            seed=config.seed,
        )
        largest = max(
            max(ids)
            for record in (*train, *held_out)
            for ids in (record.prompt_ids, record.responses[0].ids)
        )
        if largest >= vocabulary:
            raise UserError(
                f"the tokenizer gives token id {largest} and the model knows {vocabulary} ids: "
                "they do not belong together"
            )
        write_records(self.run.train_rows, train)
        write_records(self.run.held_out_rows, held_out)
        write_json(self.run.data_summary, {**summary, "stop_id": renderer.stop_id})

    def _generate(self, iteration: int) -> None:
        settings = self.config.generation
        stop_id = Renderer(load_tokenizer(self.config), self.config.template).stop_id
        folder = self.run.iteration(iteration) / "generations"
        model: Any = None
        for split, index, records in self._my_shards("generate", iteration):
            shard = folder / _shard_name(split, index)
            if shard.exists():
                continue
            model = model or self._load(self._opponent(iteration))
            responses = sample_responses(
                model,
                [record.prompt_ids for record in records],
                stop_id=stop_id,
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                seed=seed_of(self.config.seed, "generate", iteration, split, index),
                role="generated",
                iteration=iteration,
            )
            sampled = [
                Record(record.prompt_id, record.prompt_ids, [response])
                for record, response in zip(records, responses, strict=True)
            ]
            write_records(shard, sampled)

    def _score(self, iteration: int) -> None:
        folder = self.run.iteration(iteration) / "scored"
        model: Any = None
        for split, index, records in self._my_shards("score", iteration):
            shard = folder / _shard_name(split, index)
            if shard.exists():
                continue
            model = model or self._load(self._opponent(iteration))
            unscored = self._with_samples(records, split, index, iteration)
            write_records(shard, self._scored(model, unscored))

    @torch.inference_mode()
    def _scored(self, model: Any, records: Sequence[Record]) -> list[Record]:
        groups = [
            Group(record.prompt_ids, [response.ids for response in record.responses])
            for record in records
        ]
        tokens = _SCORING * self.config.training.micro_batch_tokens
        runs = [response_logps(model, run) for run in token_runs(groups, tokens)]
        logps = iter(torch.cat(runs).tolist())
        return [record.with_logps([next(logps) for _ in record.responses]) for record in records]

    def _with_samples(
        self, records: Sequence[Record], split: str, index: int, iteration: int
    ) -> list[Record]:
        """Return records with this iteration's samples, the mixed-in earlier ones, and proto."""
        # Held-out numbers are about the opponent itself, so nothing is mixed in there.
        oldest = iteration if split == "held_out" else max(0, iteration - self.config.mixing)
        responses = [list(record.responses) for record in records]
        for source in range(iteration, oldest - 1, -1):
            for row, sample in zip(responses, self._samples(source, split, index), strict=True):
                row.append(sample)
        if self.config.algorithm == "tspin":
            for row, sample in zip(responses, self._samples(0, split, index), strict=True):
                row.append(Response("proto", sample.ids, sample.finish_reason, iteration=0))
        return [
            Record(record.prompt_id, record.prompt_ids, row)
            for record, row in zip(records, responses, strict=True)
        ]

    def _samples(self, iteration: int, split: str, index: int) -> list[Response]:
        shard = self.run.iteration(iteration) / "generations" / _shard_name(split, index)
        return [record.responses[0] for record in read_records(shard)]

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
        records = [record for shard in shards for record in read_records(shard)]
        expected = len(read_records(self.run.train_rows))
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
            records = [record for shard in shards for record in read_records(shard)]
        mine = records[self.ranks.rank :: self.ranks.size]
        model = self._load(policy)
        tokens = _SCORING * self.config.training.micro_batch_tokens
        values = held_out_sums(model, mine, objective, tokens=tokens) if mine else {}
        gathered = self.ranks.gather(values)
        if self.ranks.is_first:
            names = {name: None for part in gathered for name in part}
            merged = {name: [v for part in gathered for v in part.get(name, [])] for name in names}
            temperature = self.config.generation.temperature
            summary = summarise(merged, temperature=temperature)
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

    def _my_shards(self, action: str, iteration: int) -> Iterator[tuple[str, int, list[Record]]]:
        """Yield this rank's shards: the same rows each, whatever the number of ranks."""
        size = self.config.generation.batch_size
        rows = {
            "train": read_records(self.run.train_rows),
            "held_out": read_records(self.run.held_out_rows),
        }
        shards = [
            (split, start // size, rows[split][start : start + size])
            for split in SPLITS
            for start in range(0, len(rows[split]), size)
        ]
        stage = f"iter{iteration}/{action}"
        for number, shard in enumerate(shards):
            if number % self.ranks.size == self.ranks.rank:
                self.ranks.raise_if_stopping()
                self.progress.report(stage, number, len(shards))
                yield shard

    def _shards(self, folder: Path) -> Iterator[Path]:
        yield from sorted(folder.glob("*.parquet"))

    def _opponent(self, iteration: int) -> str | Path:
        """Name the model that plays in iteration K: p_K."""
        if iteration > 0:
            return self.run.iteration(iteration - 1) / "policy"
        return self.run.sft / "policy" if self.config.sft else self.config.model

    def _load(self, path: str | Path) -> Any:
        model = load_policy(path, self.config)
        return model.to(self.ranks.device).eval()


def _shard_name(split: str, index: int) -> str:
    return f"{split}-{index:05d}.parquet"
