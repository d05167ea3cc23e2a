"""LoRA: what is learnt is on disk, and the opponent is never the bare base."""

import json

import pytest
import torch

from spin_train.config.files import load_config, parse_config
from spin_train.config.sections import AdapterConfig
from spin_train.driver import selfplay
from spin_train.errors import UserError
from spin_train.model.adapters import attach, is_adapter, with_adapter, write_learnt
from spin_train.model.loading import load_model
from spin_train.model.logps import Group, response_logps
from spin_train.run.run import Run
from tests.strategies import QUICK
from tests.train.models import slow_logps, tiny_model
from tests.train.runs import make_config

GROUPS = [Group([3, 4, 5], [[6, 7, 2], [8, 2]]), Group([9], [[10, 11, 12, 2]])]
ARCHITECTURES = ["llama", "gpt2", "qwen3", "neox"][: 2 if QUICK else 4]


def adapter(**changes):
    return AdapterConfig(**{"rank": 2, "alpha": 8, **changes})


def logps(model):
    return slow_logps(model.eval(), GROUPS).detach()


def learn(model, seed):
    """As if trained: every adapter weight that would be is drawn again."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)


@pytest.fixture(params=ARCHITECTURES)
def base(request, tmp_path):
    tiny_model(request.param).double().save_pretrained(tmp_path / "base")
    return lambda: load_model(tmp_path / "base", dtype="float64")


def test_a_new_adapter_changes_no_logp_and_is_all_that_trains(base):
    model, before = base(), logps(base())
    attach(model, adapter())
    assert torch.equal(logps(model), before)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    response_logps(model, GROUPS).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("between", ["merge", "stack"])
def test_two_stages_end_on_disk_as_they_ended_in_memory(base, tmp_path, between):
    config = adapter(between=between)
    before = None
    for stage in range(2):
        folder = tmp_path / f"policy{stage}"
        start = base() if before is None else loaded(base, before, between)
        attach(start, config)
        learn(start, stage)
        expected = logps(start)
        fresh = base() if before is None or between == "stack" else loaded(base, before, between)
        stacked_on = before if between == "stack" else None
        write_learnt(fresh, stacked_on, config, start.state_dict()).save_pretrained(folder)
        assert is_adapter(folder) == (between == "stack")
        torch.testing.assert_close(logps(loaded(base, folder, between)), expected)
        assert (logps(base()) - expected).abs().max() > 0.1, "the stage learnt nothing"
        before = folder
    if between == "stack":
        assert json.loads((before / "adapter_config.json").read_text())["r"] == 2 * config.rank


def loaded(base, folder, between):
    if between == "stack":
        return with_adapter(base(), folder)
    return load_model(folder, dtype="float64")


def test_the_product_of_an_adapter_is_added_alpha_over_rank_times():
    model, place = tiny_model("llama"), "model.layers.0.self_attn.q_proj"
    before = model.get_parameter(f"{place}.weight").detach().clone()
    attach(model, adapter())
    learn(model, 0)
    learnt = model.state_dict()
    a, b = (learnt[f"{place}.lora_{part}.new.weight"] for part in "AB")
    merged = write_learnt(tiny_model("llama"), None, adapter(), learnt)
    expected = before + adapter().alpha / adapter().rank * b @ a
    torch.testing.assert_close(merged.get_parameter(f"{place}.weight").detach(), expected)


def test_an_adapter_has_no_dropout_in_training():
    model = tiny_model("llama")
    attach(model, adapter())
    learn(model, 0)
    training = response_logps(model.train(), GROUPS).detach()
    evaluated = response_logps(model.eval(), GROUPS).detach()
    torch.testing.assert_close(training, evaluated, atol=0, rtol=0)


@pytest.mark.parametrize("names", [[], ["model.layers.9.self_attn.q_proj.lora_A.new.weight"]])
def test_a_stage_whose_adapter_cannot_be_found_again_is_no_policy(names):
    learnt = {name: torch.ones(2, 16) for name in names}
    with pytest.raises(RuntimeError, match="adapter weights do not fit"):
        write_learnt(tiny_model("llama"), None, adapter(), learnt)


def test_an_unmerged_adapter_is_frozen_under_a_new_one(base, tmp_path):
    start = base()
    attach(start, adapter())
    learn(start, 0)
    write_learnt(base(), None, adapter(between="stack"), start.state_dict()).save_pretrained(
        tmp_path / "policy"
    )
    model = with_adapter(base(), tmp_path / "policy", merge=False)
    torch.testing.assert_close(logps(model), logps(start))
    attach(model, adapter())
    torch.testing.assert_close(logps(model), logps(start))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(".new." in name for name in trained)


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(UserError, match="target_modules"):
        attach(tiny_model("llama"), adapter(target_modules=["nowhere"]))


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"adapter": {"quantised": True}}, "between: stack"),
        ({"adapter": {"between": "stack"}, "zero_stage": 3}, "zero_stage"),
    ],
)
def test_contradictions_are_refused(keys, word):
    content = {"model": "m", "data": {"path": "d"}, "output_dir": "o", **keys}
    with pytest.raises(UserError, match=word):
        parse_config(content)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_quantised_names_the_way_out(tmp_path):
    config = make_config(tmp_path, adapter={"quantised": True, "between": "stack"})
    with pytest.raises(UserError, match="bitsandbytes"):
        selfplay.play(Run.of(load_config(config)))
    assert not (tmp_path / "run").exists()
