"""Saving a policy that is shared out: every rank writes its share of the tensors.

No rank ever holds the whole model. The tensors are cut into as many runs of equal size as there are
ranks, in the model's order. One tensor after another is gathered on all ranks; the one that it
falls to keeps a copy in main memory, and writes them all as one safetensors file::

    model-00001-of-00002.safetensors    rank 0: the first half, and the buffers
    model-00002-of-00002.safetensors    rank 1: the second half
    model.safetensors.index.json        which file holds what, as `from_pretrained` reads it
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from spin_train.errors import DivergedError, UserError, disk_full, one_line
from spin_train.model.loading import disk_message, diverged_message
from spin_train.model.written import compare_file
from spin_train.system.files import write_directory
from spin_train.system.ranks import Ranks

__all__ = [
    "gather_share",
    "owners",
    "save_shares",
    "saves_tensor_by_tensor",
    "write_index",
    "write_share",
]

INDEX = "model.safetensors.index.json"
"""Name that transformers gives the file."""


def owners(sizes: Sequence[int], ranks: int) -> list[int]:
    """Say to which rank each tensor falls: equal runs in bytes, no rank's far above the mean.

    Examples
    --------
    >>> owners([4, 4, 4, 4], 2), owners([1, 1, 6], 2), owners([8], 4)
    ([0, 0, 1, 1], [0, 0, 1], [2])
    """
    total, before, found = sum(sizes), 0, []
    for size in sizes:
        middle = before + size / 2
        found.append(min(ranks - 1, int(middle * ranks / total)) if total else 0)
        before += size
    return found


def saves_tensor_by_tensor(model: Any) -> bool:
    """Say whether every tensor has the same name and shape on disk as in memory.

    Some models, such as mixtures of experts, keep tensors together that their files hold apart.
    """
    empty = {
        name: torch.empty(_shape(p), dtype=p.dtype, device="meta")
        for name, p in model.named_parameters()
    }
    written: dict[str, Tensor] = revert_weight_conversion(model, dict(empty))
    return {n: t.shape for n, t in written.items()} == {n: t.shape for n, t in empty.items()}


def _shape(parameter: Tensor) -> torch.Size:
    """Shape of the whole tensor, also where a rank holds a part."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def gather_share(
    model: nn.Module, *, rank: int, ranks: int, gathered: Callable[[Tensor], Any]
) -> dict[str, Tensor]:
    """Copy the tensors that fall to a rank into main memory; all ranks call this together.

    `gathered` gives a context in which a parameter is whole, as DeepSpeed's `GatheredParameters`.
    Tied tensors count once. The first rank also takes the buffers that are saved.
    """
    parameters = list(model.named_parameters())
    sizes = [_shape(p).numel() * p.element_size() for _, p in parameters]
    mine: dict[str, Tensor] = {}
    for (name, parameter), owner in zip(parameters, owners(sizes, ranks), strict=True):
        with gathered(parameter):
            if owner == rank:
                mine[name] = parameter.detach().to("cpu", copy=True).contiguous()
    if rank == 0:
        names = {name for name, _ in parameters}
        buffers = {name for name, _ in model.named_buffers()}
        for name, value in model.state_dict().items():
            if name in buffers and name not in names:
                mine[name] = value.detach().to("cpu", copy=True).contiguous()
    ignored = getattr(model, "_keys_to_ignore_on_save", None) or ()
    return {name: tensor for name, tensor in mine.items() if name not in ignored}


def write_share(
    folder: Path, tensors: dict[str, Tensor], *, rank: int, ranks: int
) -> dict[str, str]:
    """Write a rank's tensors, read them back and compare; give the file of each by its name.

    UserError if the disk does not hold what was written. A rank without tensors writes nothing.
    """
    if not tensors:
        return {}
    file = folder / f"model-{rank + 1:05d}-of-{ranks:05d}.safetensors"
    save_file(tensors, file, metadata={"format": "pt"})
    names = compare_file(file, tensors)
    return dict.fromkeys(names, file.name)


def write_index(folder: Path, files: Mapping[str, str], *, total: int) -> None:
    """Write which file holds which tensor, and the bytes of all."""
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}
    (folder / INDEX).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def save_shares(model: Any, tokenizer: Any, path: Path, ranks: Ranks) -> None:
    """Write a policy directory whole or not at all, every rank its share; all call this together.

    `model` is the module of an engine under ZeRO-3. What goes wrong on one rank ends all: weights
    that are not finite with DivergedError, a full disk with UserError.
    """
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters

    mine = gather_share(
        model, rank=ranks.rank, ranks=ranks.size, gathered=lambda p: GatheredParameters([p])
    )
    broken = [name for name, value in mine.items() if not value.isfinite().all()]
    if everywhere := [name for names in ranks.gather(broken) for name in names]:
        raise DivergedError(diverged_message(everywhere[0]))
    with write_directory(path) if ranks.is_first else nullcontext() as own:
        files: dict[str, str] = {}
        failure: Exception | None = None
        try:
            if own is not None:
                model.save_pretrained(own, state_dict={})  # all but weights, whose files it deletes
                tokenizer.save_pretrained(own)
        except Exception as error:
            failure = error
        folder = ranks.from_first(own)
        try:
            files = write_share(folder, mine, rank=ranks.rank, ranks=ranks.size)
        except Exception as error:
            failure = failure or error
        if failure is not None and disk_full(failure):
            failure = UserError(disk_message(path))
        size = sum(value.numel() * value.element_size() for value in mine.values())
        told = ranks.gather((files, size, failure and one_line(failure, 500)))
        if failure is not None:
            raise failure
        if others := [line for _, _, line in told if line]:
            raise UserError(others[0])
        if own is not None:
            named = {name: file for written, _, _ in told for name, file in written.items()}
            write_index(own, named, total=sum(size for _, size, _ in told))
