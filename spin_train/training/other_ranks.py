"""A training stage that was begun on some ranks goes on with others.

DeepSpeed reads a checkpoint back with as many ranks as have written it. So before a stage resumes
with others, a copy is written next to the checkpoint, as that many ranks would have written it. The
checkpoint itself stays until the next one is complete: a kill in between costs nothing but the
copy.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from spin_train.errors import UserError, one_line
from spin_train.system.files import read_json, write_json
from spin_train.system.ranks import Ranks
from spin_train.training.checkpoints import (
    COPIES,
    files_of_checkpoint,
    latest_complete,
    ranks_of,
    remove_checkpoints,
)
from spin_train.training.cuts import Group, UnknownLayoutError, recut, recut_state, sub_groups
from spin_train.training.plain_checkpoints import as_data
from spin_train.training.sums import sums_of_rank

__all__ = ["checkpoint_to_resume", "for_these_ranks", "write_share"]

_USUAL: dict[str, tuple[Any, ...]] = {
    "round_robin_gradients": (None, False),
    "mics_shard_size": (None, -1),
    "zero_hpz_partition_size": (None, 1),
    "zenflow": (None,),
}
"""Settings of DeepSpeed that change which rank keeps what, and the values that do not."""
_DEFAULT_SUB_GROUP = 1_000_000_000
_ALIGNMENT = {1: 2, 2: 2, 3: 1}  # of a share, in elements, by ZeRO stage


def checkpoint_to_resume(checkpoints: Path, ranks: Ranks, *, zero_stage: int) -> Path | None:
    """Find what a stage goes on from, and delete the rest; all call this together.

    UserError if the last checkpoint does not fit.
    """
    found = None
    if ranks.is_first:
        found = latest_complete(checkpoints, zero_stage=zero_stage)
        remove_checkpoints(checkpoints, keep=found)
    found = ranks.from_first(found)
    if not found:
        return None
    if ranks.board is not None:
        ranks.board.wait_for(
            ranks.from_first(files_of_checkpoint(found) if ranks.is_first else None)
        )
    return for_these_ranks(found, ranks, zero_stage=zero_stage)


def for_these_ranks(checkpoint: Path, ranks: Ranks, *, zero_stage: int) -> Path:
    """Give a checkpoint that these ranks can read: this one, or a copy; all call this together.

    UserError where what it holds cannot be shared out again.
    """
    before = ranks.from_first(ranks_of(checkpoint) if ranks.is_first else None)
    if before == ranks.size:
        return checkpoint
    copy = checkpoint.parent / COPIES / checkpoint.name
    if ranks.is_first:
        shutil.rmtree(copy.parent, ignore_errors=True)
    ranks.barrier()
    try:
        with as_data(checkpoint):
            written = write_share(
                checkpoint,
                copy,
                before=before,
                rank=ranks.rank,
                ranks=ranks.size,
                zero_stage=zero_stage,
            )
    except (UnknownLayoutError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{checkpoint} was written with ranks={before}, and cannot be shared out over "
            f"ranks={ranks.size} ({one_line(error, 200)}): use the former number, or add "
            "--restart-iteration to train this iteration again from its opponent"
        ) from error
    files = {path: size for part in ranks.gather(written) for path, size in part.items()}
    if ranks.board is not None:
        ranks.board.wait_for(files)
    return copy


def write_share(
    checkpoint: Path, copy: Path, *, before: int, rank: int, ranks: int, zero_stage: int
) -> dict[Path, int]:
    """Write what one of `ranks` would have written of a checkpoint; returns files and sizes."""
    tag = (checkpoint / "latest").read_text(encoding="utf-8").strip()
    written: list[Path] = []

    def place(name: str) -> Path:
        written.append(copy / name)
        written[-1].parent.mkdir(parents=True, exist_ok=True)
        return written[-1]

    own = [f"rng_state_{r}.pth" if before > 1 else "rng_state.pth" for r in range(before)]
    sums = [f"metric_sums_{r}.json" for r in range(before)]
    if rank == 0:
        for path in files_of_checkpoint(checkpoint):
            if path.parent == checkpoint and path.name not in {*own, *sums}:
                shutil.copyfile(path, place(path.name))
    # Training draws no random numbers: which rank's state it is makes no difference.
    random_state = f"rng_state_{rank}.pth" if ranks > 1 else "rng_state.pth"
    shutil.copyfile(checkpoint / own[rank % before], place(random_state))
    if all((checkpoint / name).exists() for name in sums):
        summed = sums_of_rank([read_json(checkpoint / name) for name in sums], rank, ranks)
        write_json(place(f"metric_sums_{rank}.json"), summed)
    _write_states(checkpoint / tag, place, tag, before, rank, ranks, zero_stage)
    return {path: path.stat().st_size for path in written}


def _write_states(
    folder: Path,
    place: Callable[[str], Path],
    tag: str,
    before: int,
    rank: int,
    ranks: int,
    zero_stage: int,
) -> None:
    """Write this rank's files of DeepSpeed: those of the model, and those of the optimiser."""
    name = "zero_pp_rank_{}_mp_rank_00_model_states.pt"
    if zero_stage < 3:
        name = "mp_rank_00_model_states.pt"  # rank 0 writes the whole model
    model = _read(folder / name.format(0))
    settings = model["ds_config"].get("zero_optimization", {})
    for key, usual in _USUAL.items():
        if zero_stage and settings.get(key) not in usual:
            raise UnknownLayoutError(f"deepspeed.zero_optimization.{key} is set")
    model["dp_world_size"] = ranks
    if zero_stage:
        optimizer = _optimizer_files(folder, before)
        state = _cut(model, [_read(path) for path in optimizer], rank, ranks, zero_stage)
        own = optimizer[0].name.replace("_rank_0_", f"_rank_{rank}_", 1)
        torch.save(state, place(f"{tag}/{own}"))
    if zero_stage == 3:
        every = [_read(folder / name.format(r)) for r in range(before)]
        model["frozen_param_fragments"] = _frozen(every, rank, ranks)
    if zero_stage == 3 or rank == 0:
        torch.save(model, place(f"{tag}/{name.format(rank)}"))


def _read(path: Path) -> Any:
    """Content of a file of DeepSpeed, within `as_data`; tensors are read where they are used."""
    return torch.load(path, map_location="cpu", mmap=True, weights_only=True)


def _optimizer_files(folder: Path, ranks: int) -> list[Path]:
    """Files of the optimiser's shares, by rank; those of bfloat16 have a prefix."""
    name = "zero_pp_rank_{}_mp_rank_00_optim_states.pt"
    for prefix in ("", "bf16_"):
        paths = [folder / (prefix + name).format(rank) for rank in range(ranks)]
        if all(path.exists() for path in paths):
            return paths
    raise UnknownLayoutError("its files of optimiser states are not those of ZeRO")


def _frozen(models: Sequence[dict[str, Any]], rank: int, ranks: int) -> dict[str, torch.Tensor]:
    """Cut the weights that do not train, such as those below an adapter; the optimiser has none."""
    buffers = set(models[0]["buffer_names"])
    for name, value in models[0]["module"].items():
        if value.numel() and name not in buffers:
            raise UnknownLayoutError(f"{name} is not shared out")
    found = {}
    for name, shape in (models[0]["frozen_param_shapes"] or {}).items():
        whole = Group([0], [[shape.numel()]])
        parts = [[model["frozen_param_fragments"][name].flatten()] for model in models]
        (found[name],) = recut(parts, whole, whole, rank=rank, ranks=ranks, alignment=1)
    return found


def _cut(
    model: dict[str, Any], files: Sequence[dict[str, Any]], rank: int, ranks: int, zero_stage: int
) -> dict[str, Any]:
    """Cut the optimiser's file of a new rank; in `model`, note how parameters are grouped now."""
    former = [file["optimizer_state_dict"] for file in files]
    inner = "optimizer_state_dict" if zero_stage == 3 else "base_optimizer_state"
    weights = "fp32_flat_groups" if zero_stage == 3 else "single_partition_of_fp32_groups"
    if not isinstance(former[0].get(inner), dict):
        raise UnknownLayoutError("its optimiser states are not those of ZeRO")
    alignment = _ALIGNMENT[zero_stage]
    groups = former[0][inner]["param_groups"]
    if zero_stage == 3:
        most = model["ds_config"].get("zero_optimization", {}).get("sub_group_size")
        most = _DEFAULT_SUB_GROUP if most is None else int(most)
        befores, afters, shapes = _regrouped(model["param_shapes"], groups, len(files), ranks, most)
        model["param_shapes"] = shapes
    else:
        fillers = former[0]["param_alignment_paddings"]
        sizes = [
            sum(shape.numel() for shape in shapes.values()) + sum(between)
            for shapes, between in zip(model["param_shapes"], fillers, strict=True)
        ]
        befores = afters = [Group([i], [[size]]) for i, size in enumerate(sizes)]
    flats: list[torch.Tensor] = []
    state: dict[int, dict[str, Any]] = {}
    how = {"rank": rank, "ranks": ranks, "alignment": alignment}
    for old, new in zip(befores, afters, strict=True):
        shares = [[each[weights][i] for i in old.flats] for each in former]
        flats += recut(shares, old, new, **how)
        states = [[each[inner]["state"][i] for i in old.flats] for each in former]
        state |= zip(new.flats, recut_state(states, old, new, **how), strict=True)
    content = dict(former[0])
    content[inner] = {
        "state": state,
        "param_groups": [
            {**group, "params": list(new.flats)} for group, new in zip(groups, afters, strict=True)
        ],
    }
    content[weights] = flats
    if zero_stage == 3:
        content["partition_count"] = ranks
    else:
        filled = [
            min(flat.numel(), max(0, size - rank * flat.numel()))
            for flat, size in zip(flats, sizes, strict=True)
        ]
        content[weights] = [flat[:n].clone() for flat, n in zip(flats, filled, strict=True)]
        content["group_paddings"] = [
            flat.numel() - n for flat, n in zip(flats, filled, strict=True)
        ]
        content["partition_count"] = [ranks] * len(flats)
        content.pop("param_slice_mappings", None)  # of the former shares, and not read here
    return {**files[0], "optimizer_state_dict": content}


def _regrouped(
    shapes: Sequence[dict[str, torch.Size]],
    groups: Sequence[dict[str, Any]],
    before: int,
    ranks: int,
    most: int,
) -> tuple[list[Group], list[Group], list[dict[str, torch.Size]]]:
    """Share out the parameters of each group over flat tensors, as ZeRO 3 would."""
    befores: list[Group] = []
    afters: list[Group] = []
    regrouped: list[dict[str, torch.Size]] = []
    for group in groups:
        flats = group["params"]
        members = [item for i in flats for item in shapes[i].items()]
        sizes = [shape.numel() for _, shape in members]
        known = [len(shapes[i]) for i in flats]
        if [len(part) for part in sub_groups(sizes, before, most=most)] != known:
            raise UnknownLayoutError("its parameters are grouped in a way of their own")
        parts = sub_groups(sizes, ranks, most=most)
        first = len(regrouped)
        befores.append(Group(flats, [[s.numel() for s in shapes[i].values()] for i in flats]))
        afters.append(
            Group(range(first, first + len(parts)), [[sizes[i] for i in part] for part in parts])
        )
        regrouped += [dict(members[i] for i in part) for part in parts]
    return befores, afters, regrouped
