"""A whole plan of a tiny Llama, every number by hand; what does not fit, and what helps."""

import json
import re

import pytest
from typer.testing import CliRunner

from spin_train.cli import app
from spin_train.config.files import load_config
from spin_train.errors import UserError
from spin_train.plan.devices import DEVICES, Device, device_named
from spin_train.plan.disk import checkpoint_bytes
from spin_train.plan.engine import Weights
from spin_train.plan.memory import SCORING, program
from spin_train.plan.optimiser import Optimiser
from spin_train.plan.plan import make_plan
from spin_train.plan.shown import as_text
from tests.train.runs import make_config

# Two embeddings of 11 words by 32; two layers of 4 x 32 x 32, 3 x 32 x 64 and two norms; one norm.
PARAMETERS = 2 * 11 * 32 + 2 * (4 * 32 * 32 + 3 * 32 * 64 + 2 * 32) + 32
CPU = Device("cpu", "cpu", 64 * 2**30)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Config of a small run: 60 rows, 8 held out, SFT of two epochs, two iterations of one."""
    return make_config(tmp_path_factory.mktemp("plan"))


def planned(path, *overrides, device=CPU, **options):
    return make_plan(load_config(path, overrides), device, **options)


def stage(plan, name):
    (found,) = (each for each in plan.memory if each.stage == name)
    return found


def test_steps_batches_and_tokens_are_the_trainers(path):
    plan = planned(path)
    assert (plan.train_rows, plan.held_out_rows) == (52, 8)
    sft, first, second = plan.training
    assert (sft.name, sft.examples, sft.batch, sft.steps) == ("sft/train", 52, 8, 14)  # 2 x 7
    assert (first.name, first.steps, second.steps) == ("iter0/train", 7, 7)
    assert sft.accumulation == 2  # at most four examples at once
    # 5 tokens of a prompt, 5 of its response with the end; the last predicts nothing
    assert sft.tokens == 2 * 52 * (5 + 4)
    assert first.tokens == 52 * (5 + 4 + 5)  # a sample of 6 tokens


def test_samples_are_those_of_all_rows_and_the_last_policys(path):
    plan = planned(path, "generation.samples_per_prompt=2")
    assert [(one.name, one.samples, one.tokens) for one in plan.sampling] == [
        ("iter0/generate", 120, 720),
        ("iter1/generate", 120, 720),
        ("iter1/sample", 16, 96),
    ]


def test_parts_of_a_training_stage_by_hand(path):
    plan = planned(path, "zero_stage=2", "ranks=2")
    assert plan.parameters == PARAMETERS
    parts = stage(plan, "iter1/train").parts
    half = PARAMETERS // 2
    assert parts["weights"] == 4 * PARAMETERS
    assert parts["master weights (float32)"] == 4 * half
    assert parts["optimiser states"] == 4 * half
    assert parts["program and libraries"] == program(device="cpu", ranks=2)["program and libraries"]


def test_what_is_offloaded_is_in_main_memory_and_not_on_the_device(path):
    config = ("zero_stage=3", "ranks=2", "training.dtype=bfloat16")
    whole = planned(path, *config, device=DEVICES["A100-80GB"], here=False)
    moved = ("offload.optimizer=cpu", "offload.parameters=cpu")
    away = planned(path, *config, *moved, device=DEVICES["A100-80GB"], here=False)
    states = 2 * 4 * (PARAMETERS // 2)  # of both ranks of the machine
    assert stage(whole, "iter1/train").parts["optimiser states"] == states // 2
    assert {"weights", "optimiser states", "gradients"} <= stage(whole, "iter1/train").parts.keys()
    left = stage(away, "iter1/train").parts.keys()
    assert not {"weights", "optimiser states", "gradients", "master weights (float32)"} & left
    assert away.host["optimiser states, offloaded"] == states
    assert away.host["master weights (float32), offloaded"] == states
    assert away.host["weights, offloaded"] == states // 2  # two bytes each
    assert not any("offloaded" in part for part in whole.host)
    onto_cpu = planned(path, "zero_stage=3", "ranks=2", *moved)
    here = planned(path, "zero_stage=3", "ranks=2")
    assert stage(onto_cpu, "iter1/train").total == stage(here, "iter1/train").total


def test_a_policy_that_is_shared_out_takes_a_rank_its_share_and_a_layer(path):
    config = ("zero_stage=2", "ranks=4")
    whole = stage(planned(path, *config), SCORING)
    shared = stage(planned(path, *config, "sharded_inference=true"), SCORING)
    assert whole.parts["weights"] == 4 * PARAMETERS
    assert shared.parts["share of the weights"] == PARAMETERS
    assert shared.parts["activations and logits"] == whole.parts["activations and logits"]
    assert shared.parts["weights of layers in use"] == 3 * 4 * 32 * 64  # of an MLP's matrix
    moved = ("sharded_inference=true", "offload.parameters=cpu")
    gpu = {"device": DEVICES["A100-80GB"], "here": False}
    away = planned(path, "zero_stage=3", "ranks=4", *moved, **gpu)
    assert "share of the weights" not in stage(away, "generate").parts
    assert stage(away, "generate").host["share of the weights"] == PARAMETERS


def test_a_policy_that_does_not_fit_on_a_device_is_shared_out(path):
    config = ("ranks=4", "training.micro_batch_tokens=256")
    gpu = {"device": DEVICES["T4"], "here": False}
    shared = planned(path, *config, "sharded_inference=true", **gpu)
    little = Device("small", "cuda", stage(shared, SCORING).total)
    problems = planned(path, *config, device=little, here=False).problems
    (problem,) = [problem for problem in problems if problem.what == SCORING]
    assert any(key.startswith("sharded_inference=true ") for key in problem.keys), problem.keys


def test_a_cache_by_hand(path):
    parts = stage(planned(path), "generate").parts
    # 16 rows of 5 + 6 tokens with room for 64, keys and values of 2 layers, 2 heads of 16, float32
    assert parts["cache of the sampled rows"] == 16 * (5 + 6 + 64) * 2 * 2 * 2 * 16 * 4
    assert parts["next token's probabilities"] == 16 * 11 * 8 * 4


def test_bfloat16_adapters_and_ranks_take_less(path):
    whole = stage(planned(path, "zero_stage=0"), "iter1/train").parts
    narrow = stage(planned(path, "zero_stage=0", "training.dtype=bfloat16"), "iter1/train").parts
    lora = planned(path, "zero_stage=0", "adapter.rank=2")
    assert narrow["weights"] == whole["weights"] / 2
    assert lora.trained_parameters < PARAMETERS / 5
    assert stage(lora, "iter1/train").parts["optimiser states"] == 4 * lora.trained_parameters


def test_rows_may_be_assumed_without_any_data(path):
    plan = planned(path, "data.path=nothing.jsonl", "data.held_out=0.1", rows=200)
    assert (plan.train_rows, plan.held_out_rows) == (180, 20)
    # the context of 64 tokens bounds both
    assert plan.rows == "assumed, prompts of 58 tokens and responses of 6"


def test_missing_data_say_how_to_do_without(path):
    with pytest.raises(UserError, match=r"nothing\.jsonl.*--rows N assumes N rows"):
        planned(path, "data.path=nothing.jsonl")


@pytest.mark.parametrize(
    ("zero_stage", "width", "states", "bytes_per_weight"),
    [
        *((3, 2, 4, 8), (3, 2, 8, 12), (3, 4, 4, 8)),
        *((2, 2, 4, 10), (2, 4, 8, 16), (0, 4, 4, 8), (0, 2, 8, 14)),
    ],
)
def test_a_checkpoint_by_optimiser_and_zero_stage(zero_stage, width, states, bytes_per_weight):
    weights = Weights(trained=1000, frozen=0, largest=10, width=width)
    optimiser = Optimiser(states, 4, all_at_once=False)
    found = checkpoint_bytes(weights, optimiser, zero_stage=zero_stage)
    assert found == 1000 * bytes_per_weight


def test_two_checkpoints_and_all_policies_are_on_disk(path):
    plan = planned(path, "zero_stage=3")
    assert plan.disk["policies (2)"] == 2 * 4 * PARAMETERS  # p_0 and p_1; p_2 comes later
    assert plan.disk["checkpoints during a save (2)"] == 2 * 8 * PARAMETERS
    short = planned(path, "zero_stage=3", "training.save_steps=100")
    assert not [name for name in short.disk if "checkpoints" in name]
    assert short.disk["policies (3)"] == 3 * 4 * PARAMETERS


def test_what_does_not_fit_names_keys_that_were_tried(path):
    room = stage(planned(path, device=DEVICES["T4"]), "iter1/train")
    little = Device("small", "cuda", room.total - 1)
    plan = planned(path, "training.micro_batch_tokens=512", device=little, here=False)
    assert not plan.fits
    problem = next(each for each in plan.problems if each.what == "iter1/train")
    assert problem.needed > little.memory
    for key in problem.keys:
        changes = key.split("   ")[0].split()
        again = planned(path, *changes, device=little, here=False, advise=False)
        assert not [each for each in again.problems if each.what == "iter1/train"], key


def test_a_full_disk_is_a_problem(path, monkeypatch):
    monkeypatch.setattr("spin_train.plan.plan._free", lambda folder: 1000)
    (problem,) = planned(path).problems
    assert (problem.what, problem.available) == ("disk", 1000)
    assert "output_dir" in problem.keys[0]
    assert "keep=last" not in problem.keys
    needed = [sum(planned(path, f"keep={keep}").disk.values()) for keep in ("all", "last")]
    monkeypatch.setattr("spin_train.plan.plan._free", lambda folder: needed[1])
    (problem,) = planned(path).problems
    assert "keep=last" in problem.keys
    assert not planned(path, "keep=last").problems


@pytest.mark.parametrize(
    ("changes", "policies"),
    [
        (["keep=all"], 3),  # p_0 to p_2; p_3 comes when the checkpoints are gone
        (["keep=last"], 1),  # p_2, from which p_3 is trained
        (["keep=best"], 2),
        (["keep=last", "algorithm=tspin_ref"], 2),  # p_0 too
        (["keep=last", "control=true"], 3),  # p_2, control 2, p_3
        (["keep=best", "control=true"], 5),
        (["keep=all", "control=true"], 6),
    ],
)
def test_the_disk_holds_the_policies_that_keep_leaves(path, changes, policies):
    plan = planned(path, "iterations=3", "zero_stage=3", *changes)
    name = next(name for name in plan.disk if name.startswith("policies"))
    assert name == f"policies ({policies})"


def test_the_disk_holds_fewer_samples_where_keep_lets_them_go(path):
    every, last = (
        planned(path, "iterations=4", f"keep={keep}").disk["rows and samples"]
        for keep in ("all", "last")
    )
    assert last < every


def test_ranks_on_a_cpu_share_its_memory(path):
    one = stage(planned(path, "ranks=2", "zero_stage=0"), "iter1/train").total
    half = Device("cpu", "cpu", int(1.5 * one))
    plan = planned(path, "ranks=2", "zero_stage=0", device=half, advise=False)
    assert {problem.what for problem in plan.problems} >= {"iter1/train"}


@pytest.mark.parametrize("device", ["cpu", "H100", "T4"])
def test_the_text_fits_80_columns(path, device):
    text = as_text(planned(path, "control=true", device=device_named(device), here=False))
    assert max(map(len, text.splitlines())) <= 80
    assert "It fits" in text


def test_the_command_prints_json_and_its_exit_code_says_whether_it_fits(path):
    runner = CliRunner()
    fits = runner.invoke(app, ["plan", str(path), "--json", "--device", "cpu"])
    content = json.loads(fits.stdout)
    assert (fits.exit_code, content["fits"]) == (0, True)
    assert content["training"][0]["steps"] == 14
    assert content["memory"][0]["total"] == sum(content["memory"][0]["parts"].values())
    refused = runner.invoke(
        app, ["plan", str(path), "--device", "0.5GiB", "iterations=1", "sft=null"]
    )
    assert isinstance(refused.exception, UserError)  # exit code 2
    assert re.fullmatch(
        r"this run does not fit: generate needs [\d.]+ GiB of 0\.5; "
        r"what helps: no key that was tried: .*",
        str(refused.exception),
    )
    assert "does not fit: iter0/train needs" in refused.stdout
