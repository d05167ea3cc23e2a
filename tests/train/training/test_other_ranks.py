"""A checkpoint is copied for other ranks, or refused with the reason; no process is started."""

import json
import os
import re

import pytest
import torch

from spin_train.errors import UserError
from spin_train.training.checkpoints import COPIES
from spin_train.training.other_ranks import for_these_ranks, write_share
from spin_train.training.plain_checkpoints import as_data
from tests.train.lone import OneRank

SHAPES = {"a": torch.Size([3]), "b": torch.Size([2, 2])}
WEIGHTS = torch.arange(7.0)
STEP = torch.tensor(5.0)
FROZEN = [[1.0, 2.0], [3.0, 99.0]]  # three weights, and what stands in a filler


def optimiser_of_zero_2(rank):
    """What rank 0 or 1 of two keeps of seven elements: four, or three and a filler."""
    weights = WEIGHTS[4 * rank : 4 * rank + 4]
    filled = torch.nn.functional.pad(weights, (0, 4 - len(weights)))
    return {
        "zero_stage": 2,
        "base_optimizer_state": {
            "state": {0: {"step": STEP, "square_avg": 10 * filled}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        },
        "single_partition_of_fp32_groups": [weights],
        "group_paddings": [rank],
        "param_alignment_paddings": [[0, 0]],
        "partition_count": [2],
    }


def optimiser_of_zero_3(rank):
    """Each parameter is cut by itself: a filler after 2, and none after 3 to 6."""
    weights = torch.tensor([[0.0, 1.0, 3.0, 4.0], [2.0, 0.0, 5.0, 6.0]][rank])
    return {
        "zero_stage": 3,
        "optimizer_state_dict": {
            "state": {0: {"step": STEP, "square_avg": 10 * weights}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        },
        "fp32_flat_groups": [weights],
        "partition_count": 2,
    }


def write_checkpoint(folder, zero_stage, *, zero=None, optimiser=None, **model):
    """Write the checkpoint of two ranks; `optimiser` may change what rank 0 or 1 keeps."""
    checkpoint = folder / "checkpoint-5"
    states = checkpoint / "global_step5"
    states.mkdir(parents=True)
    (checkpoint / "latest").write_text("global_step5")
    (checkpoint / "trainer_state.json").write_text("{}")
    for rank in range(2):
        (checkpoint / f"rng_state_{rank}.pth").write_text(str(rank))
        sums = {"logged_at": 4, "loss": 1.0, "sums": {"examples": 2.0}}
        (checkpoint / f"metric_sums_{rank}.json").write_text(json.dumps(sums))
    content = {
        "module": {"a": torch.zeros(0), "b": torch.zeros(0)},
        "buffer_names": [],
        "param_shapes": [SHAPES],
        "frozen_param_shapes": {},
        "frozen_param_fragments": {},
        "dp_world_size": 2,
        "ds_config": {"zero_optimization": {"stage": zero_stage, **(zero or {})}},
        **model,
    }
    for rank in range(2):
        name = "mp_rank_00_model_states.pt"
        if zero_stage == 3:
            name = f"zero_pp_rank_{rank}_{name}"
            if content["frozen_param_shapes"]:
                content["frozen_param_fragments"] = {"c": torch.tensor(FROZEN[rank])}
        torch.save(content, states / name)
        if zero_stage:
            own = (optimiser_of_zero_3 if zero_stage == 3 else optimiser_of_zero_2)(rank)
            if optimiser:
                optimiser(own, rank)
            path = states / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
            torch.save({"optimizer_state_dict": own}, path)
    files = {
        str(path.relative_to(checkpoint)): path.stat().st_size
        for path in checkpoint.rglob("*")
        if path.is_file()
    }
    marker = {"step": 5, "zero_stage": zero_stage, "ranks": 2, "files": files}
    (checkpoint / "complete.json").write_text(json.dumps(marker))
    return checkpoint


def read(folder, pattern):
    (path,) = folder.glob(f"global_step5/{pattern}")
    with as_data(folder):
        return torch.load(path, weights_only=False)


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_one_rank_gets_the_state_of_two(tmp_path, zero_stage):
    checkpoint = write_checkpoint(tmp_path, zero_stage)
    copy = for_these_ranks(checkpoint, OneRank(), zero_stage=zero_stage)
    assert copy == tmp_path / COPIES / "checkpoint-5"
    assert sorted(path.name for path in copy.iterdir()) == [
        *("global_step5", "latest", "metric_sums_0.json", "rng_state.pth", "trainer_state.json"),
    ]
    assert read(copy, "*model_states.pt")["dp_world_size"] == 1
    state = read(copy, "*optim_states.pt")["optimizer_state_dict"]
    key, inner, filler, count = (
        ("fp32_flat_groups", "optimizer_state_dict", [], 1)
        if zero_stage == 3
        else ("single_partition_of_fp32_groups", "base_optimizer_state", [0.0], [1])
    )
    assert state[key][0].tolist() == WEIGHTS.tolist()
    assert state[inner]["state"][0]["square_avg"].tolist() == [*(10 * WEIGHTS).tolist(), *filler]
    assert state[inner]["state"][0]["step"] == STEP
    assert state[inner]["param_groups"] == [{"lr": 0.1, "params": [0]}]
    assert state["partition_count"] == count


def test_one_rank_of_four_writes_its_files_alone(tmp_path):
    checkpoint, copy = write_checkpoint(tmp_path, 2), tmp_path / "copy"
    with as_data(checkpoint):
        write_share(checkpoint, copy, before=2, rank=3, ranks=4, zero_stage=2)
    names = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    own = "global_step5/zero_pp_rank_3_mp_rank_00_optim_states.pt"
    assert names == {own, "rng_state_3.pth", "metric_sums_3.json"}
    state = read(copy, "*optim_states.pt")["optimizer_state_dict"]
    assert state["single_partition_of_fp32_groups"][0].tolist() == [6.0]
    assert state["base_optimizer_state"]["state"][0]["square_avg"].tolist() == [60.0, 0.0]
    assert state["group_paddings"] == [1]


def test_on_several_nodes_ranks_wait_until_they_see_the_whole_copy(tmp_path):
    waited = {}

    class OnNodes(OneRank):
        class board:  # noqa: N801
            wait_for = staticmethod(waited.update)

    checkpoint = write_checkpoint(tmp_path, 2)
    copy = for_these_ranks(checkpoint, OnNodes(), zero_stage=2)
    assert waited == {path: path.stat().st_size for path in copy.rglob("*") if path.is_file()}


def test_weights_that_do_not_train_are_shared_out_again(tmp_path):
    frozen = {"c": torch.Size([1, 3])}
    checkpoint = write_checkpoint(tmp_path, 3, frozen_param_shapes=frozen)
    copy = for_these_ranks(checkpoint, OneRank(), zero_stage=3)
    found = read(copy, "*model_states.pt")["frozen_param_fragments"]
    assert {name: part.tolist() for name, part in found.items()} == {"c": [1.0, 2.0, 3.0]}


def test_without_zero_the_first_rank_has_everything(tmp_path):
    checkpoint = write_checkpoint(tmp_path, 0, optimizer={"step": STEP})
    copy = for_these_ranks(checkpoint, OneRank(), zero_stage=0)
    assert read(copy, "*.pt")["optimizer"] == {"step": STEP}


def test_a_copy_that_a_kill_left_is_written_again(tmp_path):
    checkpoint = write_checkpoint(tmp_path, 2)
    half = tmp_path / COPIES / "checkpoint-5" / "global_step5"
    half.mkdir(parents=True)
    (half / "zero_pp_rank_7_mp_rank_00_optim_states.pt").write_text("half")
    copy = for_these_ranks(checkpoint, OneRank(), zero_stage=2)
    assert read(copy, "*optim_states.pt")


def test_as_many_ranks_read_the_checkpoint_itself(tmp_path):
    class TwoRanks(OneRank):
        size = 2

    checkpoint = write_checkpoint(tmp_path, 2)
    assert for_these_ranks(checkpoint, TwoRanks(), zero_stage=2) == checkpoint
    assert list(tmp_path.iterdir()) == [checkpoint]


def by_rank(state, rank):
    state["base_optimizer_state"]["state"][0]["rms"] = float(rank)


def as_list(state, rank):
    state["base_optimizer_state"] = [state["base_optimizer_state"]["state"][0]]


def too_short(state, rank):
    state["single_partition_of_fp32_groups"][0] = torch.zeros(2)


def of_another(state, rank):
    state.clear()


@pytest.mark.parametrize(
    ("zero_stage", "changes", "reason"),
    [
        (2, {"zero": {"round_robin_gradients": True}}, r"deepspeed\.\S+round_robin_gradients"),
        (3, {"zero": {"zero_hpz_partition_size": 8}}, r"deepspeed\.\S+zero_hpz_partition_size"),
        (3, {"module": {"c": torch.ones(1)}}, "c is not shared out"),
        (3, {"zero": {"sub_group_size": 1}}, "grouped in a way of their own"),
        (2, {"optimiser": by_rank}, "'rms' of the optimiser differs by rank"),
        (2, {"optimiser": as_list}, "not those of ZeRO"),
        (2, {"optimiser": too_short}, "shorter than its parameters"),
        (2, {"optimiser": of_another}, "not those of ZeRO"),
        (2, {"param_shapes": []}, "."),
    ],
)
def test_what_cannot_be_shared_out_again_is_refused_with_both_ways_on(
    tmp_path, zero_stage, changes, reason
):
    checkpoint = write_checkpoint(tmp_path, zero_stage, **changes)
    says = (
        f"{re.escape(str(checkpoint))} was written with ranks=2, and cannot be shared out over "
        rf"ranks=1 \(.*{reason}.*\): use the former number, or add --restart-iteration"
    )
    with pytest.raises(UserError, match=says):
        for_these_ranks(checkpoint, OneRank(), zero_stage=zero_stage)


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    checkpoint = write_checkpoint(tmp_path, 2, scheduler=Code())
    with pytest.raises(UserError, match="holds more than tensors and numbers"):
        for_these_ranks(checkpoint, OneRank(), zero_stage=2)
    assert not (tmp_path / "made").exists()
