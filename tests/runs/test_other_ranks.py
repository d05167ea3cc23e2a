"""A training stage that two ranks began goes on with one or four."""

import shutil
import threading
import time

import pytest
from transformers import AutoModelForCausalLM

from spin_train.system.files import read_json
from tests.train.runs import losses, make_config, succeed

pytestmark = pytest.mark.process

STAGE = "sft/train"
SETTINGS = {
    "ranks": 2,
    "iterations": 1,
    "sft": {"epochs": 6, "learning_rate": 3e-4},
    "rows": 61,  # 53 to train on: a global batch of 8 divides evenly, the last of an epoch does not
}
TOLERANCE = 1e-4
"""Of a loss, in nats; gradients are summed in another order."""


def settings_of(zero_stage, optim, **changes):
    # A line of metrics for every second step: what was summed since the last one goes on too.
    training = {"optim": optim, "logging_steps": 2, "save_steps": 3, "weight_decay": 0.01}
    return {**SETTINGS, "zero_stage": zero_stage, "training": training, **changes}


def stop_once_saved(config, run):
    """Start a run, and let it save and stop after its first checkpoint; returns its last one."""
    checkpoints = run / "sft" / "checkpoints"
    over = threading.Event()

    def watch():
        while not over.is_set() and not list(checkpoints.glob("checkpoint-*/complete.json")):
            time.sleep(0.002)
        (run / ".stop").touch()  # as the driver does when it is told to stop

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        succeed("run", config, "--until", STAGE)
    finally:
        over.set()
        watcher.join()
    (checkpoint,) = checkpoints.glob("checkpoint-*")
    return checkpoint


def weights_of(run):
    return AutoModelForCausalLM.from_pretrained(run / "sft/policy").state_dict()


def differences(run, other):
    """How far losses (nats) and weights of two runs are apart, at most."""
    found, wanted = losses(run, "sft"), losses(other, "sft")
    assert found.keys() == wanted.keys()
    weights = weights_of(other)
    return (
        max(abs(found[step] - wanted[step]) for step in wanted),
        max(
            (weight - weights[name]).abs().max().item() for name, weight in weights_of(run).items()
        ),
    )


def resumed(folder, settings, numbers):
    """Differences to the unstopped run for each number of ranks that it goes on with."""
    unstopped = folder / "unstopped"
    succeed("run", make_config(folder, **settings, output_dir=str(unstopped)), "--until", STAGE)
    run, kept = folder / "run", folder / "kept"
    checkpoint = stop_once_saved(make_config(folder, **settings), run)
    assert read_json(checkpoint / "complete.json")["ranks"] == 2
    shutil.copytree(run, kept)
    found = {}
    for ranks in numbers:
        shutil.rmtree(run)
        shutil.copytree(kept, run)
        succeed("run", make_config(folder, **settings), f"ranks={ranks}", "--until", STAGE)
        assert not list((run / "sft/checkpoints").iterdir())
        found[ranks] = differences(run, unstopped)
    return found


def test_a_stage_of_two_ranks_goes_on_with_one(tmp_path):
    ((of_losses, _),) = resumed(tmp_path, settings_of(2, "rmsprop"), [1]).values()
    assert of_losses < TOLERANCE


ROWS = [(stage, optim) for stage in (1, 2, 3) for optim in ("adamw_torch", "rmsprop")]
SMALL_GROUPS = {"zero_optimization": {"sub_group_size": 4000}}  # so that ZeRO 3 has several


@pytest.mark.slow
@pytest.mark.parametrize(("zero_stage", "optim"), [(0, "rmsprop"), *ROWS])
def test_two_ranks_go_on_as_one_and_as_four(tmp_path, zero_stage, optim):
    """The table of docs/cluster.md; `-s` shows its rows."""
    changes = {"deepspeed": SMALL_GROUPS} if zero_stage == 3 else {}
    found = resumed(tmp_path, settings_of(zero_stage, optim, **changes), [1, 4])
    for ranks, (of_losses, of_weights) in found.items():
        row = f"ZeRO {zero_stage} | {optim} | 2 -> {ranks} | {of_losses:.1g} | {of_weights:.1g}"
        print(row)  # noqa: T201
    assert max(of_losses for of_losses, _ in found.values()) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [2, 3])
@pytest.mark.parametrize(
    "changes",
    [{"adapter": {"rank": 4}}, {"offload": {"optimizer": "cpu"}}],
    ids=["adapter", "offload"],
)
def test_adapters_and_offloaded_shares_go_on_with_one_rank(tmp_path, zero_stage, changes):
    settings = settings_of(zero_stage, "adamw_torch", **changes)
    ((of_losses, of_weights),) = resumed(tmp_path, settings, [1]).values()
    print(f"ZeRO {zero_stage} | {changes} | {of_losses:.1g} | {of_weights:.1g}")  # noqa: T201
    assert of_losses < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [2, 3])
def test_in_bfloat16_losses_part_by_its_rounding(tmp_path, zero_stage):
    settings = settings_of(zero_stage, "rmsprop")
    settings["training"]["dtype"] = "bfloat16"
    ((of_losses, of_weights),) = resumed(tmp_path, settings, [1]).values()
    print(f"ZeRO {zero_stage} | bfloat16 | {of_losses:.1g} | {of_weights:.1g}")  # noqa: T201
    assert of_losses < 100 * TOLERANCE
