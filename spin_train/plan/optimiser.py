"""What an optimiser keeps and borrows, tried out on a few numbers."""

import tempfile
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments

from spin_train.config.sections import TrainingConfig
from spin_train.plan.trace import Alive

__all__ = ["Optimiser", "optimiser_of"]

_NUMBERS = 1024
_ADAM = 8.0  # bytes per parameter


@dataclass(frozen=True)
class Optimiser:
    """Bytes per float32 number that it updates."""

    states: float
    """Kept from step to step."""
    borrowed: float
    """Alive at once within a step."""
    all_at_once: bool
    """Whether it borrows for all tensors together, as on GPUs, or for one after the other."""
    known: bool = True
    """False where it could not be tried here, and Adam's numbers stand in."""


def optimiser_of(training: TrainingConfig, *, device: str) -> Optimiser:
    """Take two steps on `_NUMBERS` numbers with the optimiser of a run, as on a type of device."""
    given = training.model_extra or {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                optim=training.optim,
                optim_args=given.get("optim_args"),
                use_cpu=True,
                report_to="none",
            )
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
        weight = torch.nn.Parameter(torch.zeros(_NUMBERS))
        if device == "cuda" and "fused" not in settings and "foreach" in kind([weight]).defaults:
            settings["foreach"] = True  # torch's own choice there
        optimiser = kind([weight], **settings)
        weight.grad = torch.ones_like(weight)
        optimiser.step()
        with Alive([weight, weight.grad, *_tensors(optimiser)]) as alive:
            optimiser.step()
    except Exception:  # a library or a device of its own is missing here
        return Optimiser(_ADAM, 4.0, device == "cuda", known=False)
    states = sum(t.numel() * t.element_size() for t in _tensors(optimiser) if t.numel() > 1)
    return Optimiser(states / _NUMBERS, round(alive.peak / _NUMBERS, 1), device == "cuda")


def _tensors(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    values = (value for state in optimiser.state.values() for value in state.values())
    return [value for value in values if isinstance(value, Tensor)]
