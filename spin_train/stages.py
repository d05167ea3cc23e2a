"""What each stage of a run does, on one rank; each reads and writes only artefacts."""

import gc
import importlib.resources
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from transformers import TrainingArguments, set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from spin_train.artifacts import RunDirectory, write_json
from spin_train.batching import MicroBatches, examples_of, token_runs
from spin_train.checkpoints import RunCallback, latest_complete, remove_checkpoints
from spin_train.config import Config
from spin_train.data import Renderer, prepare
from spin_train.errors import StoppedError, UserError
from spin_train.evaluation import held_out_sums, summarise
from spin_train.generation import sample_responses, seed_of
from spin_train.logps import Group, response_logps
from spin_train.models import load_model, load_tokenizer, model_limits, model_source, save_policy
from spin_train.objective import (
    Objective,
    control_objective,
    selfplay_objective,
    sft_objective,
)
from spin_train.ranks import Progress, Ranks
from spin_train.records import Record, Response, read_records, write_records
from spin_train.selfplay import Stage
from spin_train.trainer import SpinTrainer, collate

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
        config = self.config
        start, records, objective, learning_rate, epochs = self._training_task(stage)
        seed = seed_of(config.seed, "train", stage.iteration)  # the control's order too
        batches = MicroBatches(
            examples_of(records, objective),
            batch_size=config.training.batch_size,
            micro_batch_tokens=config.training.micro_batch_tokens,
            micro_batch_size=config.training.micro_batch_size,
            ranks=self.ranks.size,
            epochs=epochs,
            seed=seed,
        )
        if batches.steps == 1 and config.training.warmup_steps > 0:
            raise UserError(
                f"{stage.name} would be one optimiser step, and warm-up gives the first a learning "
                "rate of 0: lower training.batch_size, raise epochs, or set training.warmup_steps=0"
            )
        checkpoints = folder / "checkpoints"
        resume = None
        if self.ranks.is_first:
            resume = latest_complete(
                checkpoints, zero_stage=config.zero_stage, ranks=self.ranks.size
            )
            remove_checkpoints(checkpoints, keep=resume)
        resume = self.ranks.from_first(resume)
        arguments = self._training_arguments(
            checkpoints,
            accumulation=batches.accumulation,
            learning_rate=learning_rate,
            seed=seed % 2**32,
        )
        callback = RunCallback(
            self.ranks,
            self.progress,
            stage=stage.name,
            folder=folder,
            zero_stage=config.zero_stage,
        )
        set_seed(seed % 2**32)
        with _released_afterwards():
            self._fit(start, arguments, batches, objective, callback, resume, folder / "policy")

    def _fit(
        self,
        start: str | Path,
        arguments: TrainingArguments,
        batches: MicroBatches,
        objective: Objective,
        callback: RunCallback,
        resume: Path | None,
        policy: Path,
    ) -> None:
        """Train and save; on return nothing here holds the engine any more."""
        trainer = SpinTrainer(
            model=load_model(start, dtype=self.config.training.dtype, **self._source(start)),
            args=arguments,
            train_dataset=batches,
            data_collator=collate,
            callbacks=[callback],
            objective=objective,
            dtype=self.config.training.dtype,
            ranks=self.ranks,
        )
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        if callback.stopped:
            raise StoppedError
        state_dict = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if self.ranks.is_first:
            model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
            save_policy(model, state_dict, load_tokenizer(self.config), policy)
        self.ranks.barrier()
        _destroy(trainer.model_wrapped)
        trainer.accelerator.free_memory()

    def _training_task(
        self, stage: Stage
    ) -> tuple[str | Path, list[Record], Objective, float, float]:
        """Where a training stage starts, on what, for which loss, and for how long."""
        config, k = self.config, stage.iteration
        if stage.name == "sft/train":
            assert config.sft is not None
            rows = read_records(self.run.train_rows)
            sft = config.sft
            return config.model, rows, sft_objective(), sft.learning_rate, sft.epochs
        shards = sorted((self.run.iteration(k) / "scored").glob("train-*.parquet"))
        records = [record for shard in shards for record in read_records(shard)]
        expected = len(read_records(self.run.train_rows))
        if len(records) != expected:
            raise UserError(
                f"{self.run.iteration(k)}/scored holds {len(records)} training rows of {expected}: "
                "restore its shards, or start in a new output_dir"
            )
        learning_rate, epochs = config.at("learning_rate", k), config.at("epochs", k)
        if stage.control:
            start = self.run.control(k - 1) / "policy" if k > 0 else self._opponent(0)
            return start, records, control_objective(config, k), learning_rate, epochs
        return self._opponent(k), records, selfplay_objective(config, k), learning_rate, epochs

    def _training_arguments(
        self, checkpoints: Path, *, accumulation: int, learning_rate: float, seed: int
    ) -> TrainingArguments:
        config, training = self.config, self.config.training
        settings = importlib.resources.files("spin_train") / "configs"
        on_cpu = self.ranks.device.type == "cpu"
        managed: dict[str, Any] = {
            "output_dir": str(checkpoints),
            "per_device_train_batch_size": 1,  # a micro-batch, of several examples
            "gradient_accumulation_steps": accumulation,
            "num_train_epochs": 1,  # the data set itself runs through all passes
            "train_sampling_strategy": "sequential",
            "learning_rate": learning_rate,
            "seed": seed,
            "bf16": training.dtype == "bfloat16",
            "use_cpu": on_cpu,
            "deepspeed": str(settings / f"zero{config.zero_stage}.json"),
            "save_strategy": "steps",
            "disable_tqdm": True,
            "remove_unused_columns": False,
            "logging_nan_inf_filter": False,
            "dataloader_pin_memory": not on_cpu,
        }
        known = {"batch_size", "micro_batch_size", "micro_batch_tokens", "dtype"}
        given = {key: value for key, value in training.model_dump().items() if key not in known}
        try:
            return TrainingArguments(**{"report_to": "none", **managed, **given})
        except (TypeError, ValueError) as error:
            raise UserError(f"training: TrainingArguments refuses this: {error}") from None

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
            write_json(folder / "evaluation.json", summarise(merged))

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
        model = load_model(path, dtype=self.config.training.dtype, **self._source(path))
        return model.to(self.ranks.device).eval()

    def _source(self, path: str | Path) -> dict[str, Any]:
        if path == self.config.model:
            return model_source(self.config)
        return {"trust_remote_code": self.config.trust_remote_code}


def _shard_name(split: str, index: int) -> str:
    return f"{split}-{index:05d}.parquet"


def _destroy(engine: Any) -> None:
    """End a DeepSpeed engine so that its memory can be freed."""
    optimizer = engine.optimizer
    engine.destroy()
    # The optimizer keeps autograd nodes whose hooks keep it and the engine: a cycle through C++
    # that no collection sees, of a whole model a training stage.
    engine.optimizer = engine.basic_optimizer = engine.lr_scheduler = None
    if optimizer is not None:
        vars(optimizer).clear()
    for parameter in engine.module.parameters():
        parameter.data, parameter.grad = torch.empty(0), None
        if hasattr(parameter, "ds_tensor"):  # this rank's part under ZeRO-3
            parameter.ds_tensor.data = torch.empty(0)


@contextmanager
def _released_afterwards() -> Iterator[None]:
    """Leave no trace of a training stage: what it set for the process, and its memory."""
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        AcceleratorState._reset_state()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
