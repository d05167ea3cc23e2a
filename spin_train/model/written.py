"""Whether the tensors on disk are those that were to be written, read back one at a time."""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from spin_train.errors import UserError

__all__ = ["compare_file", "compare_with_disk"]


def compare_with_disk(folder: Path, model: Any, state_dict: dict[str, Tensor]) -> None:
    """Raise UserError unless `folder` holds every tensor of `state_dict`, bit by bit.

    `model` is the one that wrote them: it knows their names on disk. Tensors that share their
    values, such as tied ones, need to be there once.
    """
    wanted = _as_written(model, state_dict)
    seen: set[str] = set()
    for file in sorted(folder.glob("*.safetensors")):
        seen |= compare_file(file, wanted)
    for name in wanted.keys() - seen:
        if not any(_same(wanted[name], wanted[other]) for other in seen):
            raise UserError(
                f"{folder}: transformers did not write {name}, so the policy on disk would not be "
                "the one that was trained: use another version of transformers"
            )


def compare_file(file: Path, wanted: dict[str, Tensor]) -> set[str]:
    """Raise UserError unless each tensor of a file is the wanted one; give the names in it."""
    with safe_open(file, framework="pt") as tensors:
        names = set(tensors.keys())
        for name in sorted(names):
            if name not in wanted or not _same(wanted[name], tensors.get_tensor(name)):
                raise UserError(
                    f"{file}: {name} is not what was trained: check the disk, then run the "
                    "same command again"
                )
    return names


def _as_written(model: Any, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors the names, and the cuts, that they have on disk."""
    if not isinstance(model, PreTrainedModel):  # an adapter around one, which is written alone
        from peft import get_peft_model_state_dict

        learnt: dict[str, Tensor] = get_peft_model_state_dict(model, state_dict=dict(state_dict))
        return learnt
    ignored = model._keys_to_ignore_on_save or ()
    kept = {name: tensor for name, tensor in state_dict.items() if name not in ignored}
    written: dict[str, Tensor] = revert_weight_conversion(model, kept)
    return written


def _same(trained: Tensor, found: Tensor) -> bool:
    same_kind = trained.dtype == found.dtype and trained.shape == found.shape
    return same_kind and torch.equal(trained.cpu(), found.cpu())
