"""Train: transformers' Trainer under DeepSpeed, from a start to a saved policy."""

import gc
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from transformers import TrainerCallback, TrainingArguments, set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.integrations.integration_utils import TensorBoardCallback

from spin_train.config.engine import engine_settings
from spin_train.config.schema import Config
from spin_train.data.records import Record, count_records, read_records
from spin_train.errors import StoppedError, UserError
from spin_train.model.adapters import attach, is_adapter, write_learnt
from spin_train.model.engines import destroy_engine
from spin_train.model.loading import load_policy, load_tokenizer, save_policy, teach_ends
from spin_train.model.logps import expect_rows_up_to
from spin_train.model.routers import router_loss
from spin_train.model.shares import save_shares, saves_tensor_by_tensor
from spin_train.run.graph import Stage
from spin_train.sampling.play import stop_ids_of
from spin_train.seeds import seed_of
from spin_train.stages.parity import note_path, noted_logps, write_note
from spin_train.stages.work import Work
from spin_train.system.ranks import Ranks
from spin_train.training.batching import MicroBatches
from spin_train.training.checkpoints import RunCallback
from spin_train.training.examples import examples_of
from spin_train.training.objective import (
    Objective,
    control_objective,
    selfplay_objective,
    sft_objective,
)
from spin_train.training.other_ranks import checkpoint_to_resume
from spin_train.training.plain_checkpoints import as_data
from spin_train.training.repeatable import sums_in_one_order
from spin_train.training.speed import SpeedLines
from spin_train.training.trainer import SpinTrainer, collate

__all__ = [
    "TrainingTask",
    "fit",
    "released_afterwards",
    "train",
    "training_arguments",
    "training_task",
]

_LOG = logging.getLogger(__name__)
_LEAST_LINES = 10  # of metrics.jsonl, so that a short stage shows a curve too


@dataclass(frozen=True)
class TrainingTask:
    """What a training stage does."""

    start: str | Path
    """Model it starts from."""
    records: Sequence[Record]
    """Records to train on, scored by the opponent unless the objective is SFT."""
    objective: Objective
    """The loss."""
    learning_rate: float
    """Peak learning rate, per step."""
    epochs: float
    """Passes over the examples."""
    seed: int
    """Seed of the order of the examples."""


def train(work: Work, stage: Stage) -> list[Path]:
    """Train the policy of a stage together with the other ranks."""
    folder = work.run.folder(stage)
    fit(training_task(work, stage), work=work, stage=stage)
    if not work.ranks.is_first:  # which alone has written
        return []
    policy = [path for path in (folder / "policy").iterdir() if path.is_file()]
    return [*policy, note_path(folder / "policy"), folder / "metrics.jsonl"]


def training_task(work: Work, stage: Stage) -> TrainingTask:
    """Set the start, records, loss and length of a training stage."""
    config, run, k = work.config, work.run, stage.iteration
    seed = seed_of(config.seed, "train", k)  # the control's order too
    if k < 0:
        assert config.sft is not None
        return TrainingTask(
            start=config.model,
            records=read_records(run.directory.train_rows),
            objective=sft_objective(),
            learning_rate=config.sft.learning_rate,
            epochs=config.sft.epochs,
            seed=seed,
        )
    scored = run.directory.iteration(k) / "scored"
    records = read_records(*work.files_in(scored, "train-*.parquet"))
    expected = count_records(run.directory.train_rows)
    if len(records) != expected:
        raise UserError(
            f"{scored} holds {len(records)} of {expected} training rows: "
            "restore its shards, or start in a new output_dir"
        )
    return TrainingTask(
        start=(run.control(k) if stage.control else run.policy(k)).source,
        records=records,
        objective=_control(config, k, records) if stage.control else selfplay_objective(config, k),
        learning_rate=config.at("learning_rate", k),
        epochs=config.at("epochs", k),
        seed=seed,
    )


def _control(config: Config, iteration: int, records: Sequence[Record]) -> Objective:
    """Make the control's objective; T-SPIN's looks at the scores of all training examples."""
    if not config.has_triplets:
        return control_objective(config, iteration)
    examples = examples_of(records, selfplay_objective(config, iteration))
    scores = torch.tensor(
        [(each.opponent_logps, each.reference_logps or each.opponent_logps) for each in examples],
        dtype=torch.float64,
    )  # (B, 2, roles)
    weights = torch.tensor([each.weight for each in examples], dtype=torch.float64)
    return control_objective(config, iteration, (scores[:, 0], scores[:, 1]), weights)


def fit(task: TrainingTask, *, work: Work, stage: Stage) -> None:
    """Train, together with the other ranks, and save the policy.

    Raises `UserError` for one step with a learning rate of 0, a refused value of TrainingArguments
    or scores that are not the opponent's, `DivergedError` if the loss or a weight is not finite,
    and `StoppedError` if the driver asked to stop; a checkpoint is then on disk.
    """
    config, ranks = work.config, work.ranks
    folder = work.run.folder(stage)
    batches = MicroBatches(
        examples_of(task.records, task.objective),
        batch_size=config.training.batch_size,
        micro_batch_tokens=config.training.micro_batch_tokens,
        micro_batch_size=config.training.micro_batch_size,
        ranks=ranks.size,
        epochs=task.epochs,
        seed=task.seed,
    )
    if batches.steps == 1 and config.training.warmup_steps > 0:
        raise UserError(
            f"{stage.name} would have one optimiser step, and warm-up starts at a learning "
            "rate of 0: lower training.batch_size, raise epochs, or set training.warmup_steps=0"
        )
    checkpoints = folder / "checkpoints"
    resume = checkpoint_to_resume(checkpoints, ranks, zero_stage=config.zero_stage)
    arguments = training_arguments(
        config,
        checkpoints,
        accumulation=batches.accumulation,
        steps=batches.steps,
        learning_rate=task.learning_rate,
        seed=task.seed % 2**32,
        on_cpu=ranks.device.type == "cpu",
    )
    speed = SpeedLines(folder / "speed.jsonl", batches, work.speed)
    callback = RunCallback(
        ranks,
        work.progress,
        speed,
        stage=stage.name,
        folder=folder,
        zero_stage=config.zero_stage,
        resume=resume,
    )
    events = work.run.directory.logs / "tensorboard" / stage.folder
    writers = _event_writers(arguments, ranks, events, resume)
    ends = stop_ids_of(work.run.directory)
    policy = folder / "policy"
    with released_afterwards():
        _fit(task, work, arguments, batches, callback, speed, writers, resume, policy, ends)


def _fit(
    task: TrainingTask,
    work: Work,
    arguments: TrainingArguments,
    batches: MicroBatches,
    callback: RunCallback,
    speed: SpeedLines,
    writers: list[TrainerCallback],
    resume: Path | None,
    policy: Path,
    ends: Sequence[int],
) -> None:
    """Train and save; on return nothing here holds the engine any more."""
    config, ranks = work.config, work.ranks
    model = load_policy(task.start, config)
    expect_rows_up_to(model, work.longest_row)
    set_seed(task.seed % 2**32)
    if config.adapter:
        attach(model, config.adapter)
    trainer = SpinTrainer(
        model=model,
        args=arguments,
        train_dataset=batches,
        data_collator=collate,
        callbacks=[callback, *writers],
        objective=task.objective,
        dtype=config.training.dtype,
        ranks=ranks,
        sums=callback.sums,
        routers=router_loss(model, config.training.router_loss),
        speed=speed,
    )
    with sums_in_one_order(), as_data(resume):
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if callback.stopped:
        raise StoppedError
    note = noted_logps(trainer.model_wrapped, batches[0].examples[0].group)
    _save(trainer, task.start, work, note, policy, ends)
    ranks.barrier()
    destroy_engine(trainer.model_wrapped)
    trainer.accelerator.free_memory()


def _save(
    trainer: SpinTrainer,
    start: str | Path,
    work: Work,
    note: dict[str, Any],
    policy: Path,
    ends: Sequence[int],
) -> None:
    """Save the trained policy; under ZeRO-3 every rank saves its share, where that is possible."""
    config, ranks = work.config, work.ranks
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    shared = config.zero_stage == 3 and ranks.size > 1 and not config.adapter
    if shared and saves_tensor_by_tensor(model):
        unset_hf_deepspeed_config()
        teach_ends(model, ends)
        save_shares(model, load_tokenizer(config), policy, ranks)
    else:
        state_dict = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        unset_hf_deepspeed_config()  # under ZeRO-3 every rank would load what the first one loads
        if ranks.is_first:
            if config.adapter:
                model = _adapted(start, config, state_dict)
                state_dict = model.state_dict()
            teach_ends(model, ends)
            save_policy(model, state_dict, load_tokenizer(config), policy)
    if ranks.is_first:
        write_note(policy, note)


def _adapted(start: str | Path, config: Config, state_dict: dict[str, Any]) -> Any:
    """Policy that a stage with adapters ends with: whole weights, or one adapter."""
    assert config.adapter is not None
    if config.adapter.between == "merge":
        return write_learnt(load_policy(start, config), None, config.adapter, state_dict)
    before = start if is_adapter(start) else None
    return write_learnt(load_policy(config.model, config), before, config.adapter, state_dict)


def training_arguments(
    config: Config,
    checkpoints: Path,
    *,
    accumulation: int,
    steps: int,
    learning_rate: float,
    seed: int,
    on_cpu: bool,
) -> TrainingArguments:
    """Arguments of a training stage; UserError where transformers refuses one."""
    training = config.training
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
        "deepspeed": engine_settings(
            config.zero_stage,
            dtype=config.training.dtype,
            offload=config.offload.model_dump(),
            further=config.deepspeed,
        ),
        "save_strategy": "steps",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,
        "dataloader_pin_memory": not on_cpu,
    }
    report_to = "tensorboard" if importlib.util.find_spec("tensorboard") else "none"
    known = {"batch_size", "micro_batch_size", "micro_batch_tokens", "dtype", "router_loss"}
    given = {key: value for key, value in training.model_dump().items() if key not in known}
    given["logging_steps"] = min(training.logging_steps, max(1, steps // _LEAST_LINES))
    try:
        return TrainingArguments(**{"report_to": report_to, **managed, **given})
    except (TypeError, ValueError) as error:
        raise UserError(f"training: TrainingArguments refuses this: {error}") from None


def _event_writers(
    arguments: TrainingArguments, ranks: Ranks, events: Path, resume: Path | None
) -> list[TrainerCallback]:
    """TensorBoard's callback, which would otherwise write into the checkpoint directory."""
    reporters = list(arguments.report_to or [])  # TrainingArguments has made a list of it
    if "tensorboard" not in reporters:
        if ranks.is_first and not importlib.util.find_spec("tensorboard"):
            _LOG.warning(
                "tensorboard is not installed (pip install tensorboard): see metrics.jsonl"
            )
        return []
    arguments.report_to = [name for name in reporters if name != "tensorboard"]
    if not ranks.is_first:
        return []
    from torch.utils.tensorboard import SummaryWriter

    step = int(resume.name.rpartition("-")[2]) if resume else 0
    # What a killed start logged beyond its checkpoint is logged again: readers drop the first.
    return [TensorBoardCallback(SummaryWriter(str(events), purge_step=step + 1))]


@contextmanager
def released_afterwards() -> Iterator[None]:
    """Undo a training stage's settings of the process, and free its memory."""
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        AcceleratorState._reset_state()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
