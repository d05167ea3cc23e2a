"""Rehearse: one step of a tiny stand-in, so that settings fail before anything is sampled.

Optimisers and schedules refuse their settings when they are built, and some only when they step.
Hours of sampling come before that. So a stand-in of a few weights takes one step through the code
of the training stages: transformers' Trainer under DeepSpeed, with the arguments of the run.
"""

import copy
import gc
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import SaveStrategy

from spin_train.config.schema import Config
from spin_train.config.sections import TrainingConfig
from spin_train.errors import UserError, one_line
from spin_train.model.engines import destroy_engine
from spin_train.stages.train import released_afterwards, training_arguments
from spin_train.system.ranks import Ranks

__all__ = ["needs_rehearsal", "rehearse"]

_STEPS = 20  # steps of the schedule: room for a warm-up, a plateau and a decay


def needs_rehearsal(training: TrainingConfig) -> bool:
    """Say whether any setting goes to transformers that the defaults do not hold."""
    usual = TrainingConfig()
    names = ("optim", "lr_scheduler_type")
    changed = any(getattr(training, name) != getattr(usual, name) for name in names)
    return changed or bool(training.model_extra)


def rehearse(config: Config, ranks: Ranks) -> None:
    """Take one step with the optimiser and the schedule of the run; all ranks call it together.

    Whatever fails in it is a UserError that names the settings: the stand-in itself is sound.
    """
    try:
        with tempfile.TemporaryDirectory() as folder, _frozen(), released_afterwards():
            _step(config, ranks, Path(folder))
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"training: {_given(config.training)} cannot train here: "
            f"{one_line(error, 400)} ({type(error).__name__}, before anything was sampled)"
        ) from error


@contextmanager
def _frozen() -> Iterator[None]:
    """Keep the collector to what is made from here on: it runs thrice, over all modules."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _given(training: TrainingConfig) -> str:
    """Name the settings that may be at fault, optimiser and schedule first."""
    names = ["optim", "lr_scheduler_type", *(training.model_extra or {})]
    return ", ".join(f"{name}={getattr(training, name)!r}" for name in names)


class _OneStep(TrainerCallback):
    """Stop at once: the schedule is made for more."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ask the Trainer to stop."""
        control.should_training_stop = True


class _Rehearsal(Trainer):
    """Any loss will do."""

    def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> torch.Tensor:
        """Sum of the logits, to give every weight a gradient."""
        logits: torch.Tensor = model(**inputs).logits
        return logits.float().square().mean()


def _step(config: Config, ranks: Ranks, folder: Path) -> None:
    rates = [config.at("learning_rate", k) for k in range(config.iterations)]
    rates += [config.sft.learning_rate] if config.sft else []
    arguments = training_arguments(
        config,
        folder,
        accumulation=1,
        steps=_STEPS,
        learning_rate=min(rates),  # some schedules have a least learning rate
        seed=0,
        on_cpu=ranks.device.type == "cpu",
    )
    arguments.report_to, arguments.save_strategy = [], SaveStrategy.NO
    tiny = LlamaConfig(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    model = LlamaForCausalLM(tiny).to(getattr(torch, config.training.dtype))
    _refuse_idle(config.training, arguments, model)
    rows = [{"input_ids": torch.arange(4)}] * (_STEPS * ranks.size)
    trainer = _Rehearsal(model=model, args=arguments, train_dataset=rows, callbacks=[_OneStep()])
    trainer.train()
    destroy_engine(trainer.model_wrapped)
    trainer.accelerator.free_memory()


def _refuse_idle(training: TrainingConfig, arguments: TrainingArguments, model: Any) -> None:
    """Refuse a setting of the optimiser or the schedule that the chosen one does not read."""
    given = training.model_extra or {}
    constant = training.lr_scheduler_type in ("constant", "constant_with_warmup")
    if constant and given.get("lr_scheduler_kwargs"):
        raise UserError(
            f"remove training.lr_scheduler_kwargs: {training.lr_scheduler_type} takes none"
        )
    usual = {field.name: field.default for field in fields(TrainingArguments)}
    for name in ("adam_beta1", "adam_beta2", "adam_epsilon", "optim_args", "optim_target_modules"):
        if given.get(name, usual[name]) == usual[name]:
            continue
        without = copy.copy(arguments)
        setattr(without, name, usual[name])
        try:
            same = _optimiser(without, model) == _optimiser(arguments, model)
        except (KeyError, ValueError):  # it cannot do without
            same = False
        if same:
            raise UserError(f"remove training.{name}: optim={training.optim} does not read it")


def _optimiser(arguments: TrainingArguments, model: Any) -> tuple[Any, str]:
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    return kind, repr(settings)
