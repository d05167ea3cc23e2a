"""Log-probs, losses, gradients and samples on a CUDA device; skipped where there is none."""

import copy
import logging

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.gemma2 import Gemma2Config
from transformers.models.gemma3 import Gemma3TextConfig
from transformers.models.mistral import MistralConfig
from transformers.models.qwen3 import Qwen3Config

from spin_train.model import logps as ways_of_scoring
from spin_train.model.logps import Group, response_logps, response_loss
from spin_train.sampling import transformers_engine
from spin_train.sampling.decoding import Task
from spin_train.sampling.engine import SamplingSettings
from spin_train.training.objective import Objective

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.process,  # compilers
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DEVICE = "cuda"
GROUPS = [
    Group(list(range(1, 200)), [list(range(5, 90)), list(range(7, 20))]),
    Group([3, 1, 4], [[1, 5, 9], list(range(30, 70))]),
]


SIZES = {
    "vocab_size": 5000,  # above 1024 the softmax of a row is another kernel
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
OTHERS = {
    "window": lambda: MistralConfig(**SIZES, sliding_window=16),
    "window and soft cap": lambda: Gemma2Config(
        **SIZES, head_dim=16, query_pre_attn_scalar=16, sliding_window=16
    ),
    "window in one layer": lambda: Gemma3TextConfig(
        **SIZES, head_dim=16, sliding_window=16, layer_types=["sliding_attention", "full_attention"]
    ),
    "norms of queries": lambda: Qwen3Config(**SIZES, head_dim=32),
}
# Nats per token, and the relative error of loss and gradient.
PRECISIONS = [(torch.float32, 1e-5, 1e-4), (torch.bfloat16, 0.1, 0.1)]


def a_llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES))


def another(name):
    torch.manual_seed(0)
    config = OTHERS[name]()
    own = "eager" if getattr(config, "attn_logit_softcapping", None) else None
    return AutoModelForCausalLM.from_config(config, attn_implementation=own)


def objective_of_run(logps, run):
    policy = logps.view(-1, 2)
    return Objective("spin", beta=0.1)(policy, torch.zeros_like(policy)).sum()


def loss_and_gradient(model):
    model.zero_grad()
    loss, logps = response_loss(model, GROUPS, objective_of_run)
    loss.backward()
    gradient = torch.cat([parameter.grad.flatten().cpu() for parameter in model.parameters()])
    return loss.detach().cpu(), logps.cpu(), gradient


def assert_as_on_the_cpu(model, on_cpu, nats, relative):
    scored = response_logps(model, GROUPS)
    loss, logps, gradient = loss_and_gradient(model)
    expected_loss, expected, expected_gradient = loss_and_gradient(on_cpu)
    lengths = torch.tensor([len(ids) for group in GROUPS for ids in group.responses])
    for got in (scored.detach().cpu(), logps):
        assert ((got - expected).abs() <= nats * lengths).all()
    torch.testing.assert_close(loss, expected_loss, atol=0, rtol=relative)
    assert (gradient - expected_gradient).norm() <= relative * expected_gradient.norm()


@pytest.mark.parametrize(("dtype", "nats", "relative"), PRECISIONS)
def test_shared_prompts_give_the_cpus_values_and_gradient(dtype, nats, relative, caplog):
    on_cpu = a_llama().to(dtype).float()
    model = copy.deepcopy(on_cpu).to(DEVICE, dtype)
    with caplog.at_level(logging.WARNING, "spin_train"):
        assert_as_on_the_cpu(model, on_cpu, nats, relative)
    assert caplog.messages == []  # the fast path was found exact


@pytest.mark.parametrize(("dtype", "nats", "relative"), PRECISIONS)
@pytest.mark.parametrize("way", ways_of_scoring._WAYS)
def test_every_way_gives_the_cpus_values_and_gradient(way, dtype, nats, relative, monkeypatch):
    on_cpu = a_llama().to(dtype).float()
    model = copy.deepcopy(on_cpu).to(DEVICE, dtype)
    chosen = ways_of_scoring._WAYS[way]
    exact_way = ways_of_scoring._exact_way
    monkeypatch.setattr(
        ways_of_scoring,
        "_exact_way",
        lambda called, module, length: (
            chosen if module is model else exact_way(called, module, length)
        ),
    )
    assert_as_on_the_cpu(model, on_cpu, nats, relative)


@pytest.mark.parametrize("name", OTHERS)
def test_windows_and_soft_caps_give_the_cpus_values_and_gradient(name, caplog):
    on_cpu = another(name)
    model = copy.deepcopy(on_cpu).to(DEVICE)
    with caplog.at_level(logging.WARNING, "spin_train"):
        assert_as_on_the_cpu(model, on_cpu, 1e-5, 1e-4)
    assert caplog.messages == []


def test_rows_of_many_lengths_are_compiled_a_few_times(monkeypatch):
    """A kernel for each length would be compiled for hours, or not at all past a limit."""
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True)
    model = a_llama().to(DEVICE)
    torch._dynamo.utils.counters.clear()
    for length in range(40, 400, 18):
        groups = [Group(list(range(length)), [[5, 6, 7] * (length // 9), [8] * (length // 5)])]
        loss, _ = response_loss(model, groups, objective_of_run)
        loss.backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [None, *OTHERS])
def test_a_recorded_step_is_found_exact(name, dtype, caplog):
    model = (another(name) if name else a_llama()).to(DEVICE, dtype).eval()
    with torch.inference_mode(), caplog.at_level(logging.WARNING, "spin_train"):
        way = transformers_engine._exact_way(model)
    assert way is transformers_engine._replayed
    assert caplog.messages == []


def test_samples_of_a_recorded_step_are_those_of_a_cache_that_grows():
    model = a_llama().to(DEVICE).eval()
    generator = torch.Generator().manual_seed(2)
    tasks = [
        Task(n, torch.randint(3, 5000, (3 * n + 1,), generator=generator).tolist(), n, 100)
        for n in reversed(range(40))
    ]
    settings = SamplingSettings(tuple(range(100)), 100, 1.0, 16)
    with torch.inference_mode():
        found = [
            {task.number: sampled for task, sampled in way(model, tasks, settings, lambda: None)}
            for way in (transformers_engine._refilled, transformers_engine._replayed)
        ]
    same = sum(found[0][n].ids == found[1][n].ids for n in found[0])
    assert same >= 38  # rounding may turn a draw that falls between two tokens
    for task in tasks:
        sampled = found[1][task.number]
        scored = response_logps(model, [Group(task.prompt_ids, [sampled.ids])])
        assert sampled.logps == pytest.approx(scored.item(), abs=1e-4 * len(sampled.ids))


def test_a_step_never_waits_for_the_device():
    model = a_llama().to(DEVICE)

    def step(groups):
        loss, _ = response_loss(model, groups, objective_of_run)
        loss.backward()

    step(GROUPS)  # compiles, and compares with the plain forward pass
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(GROUPS[::-1])
    finally:
        torch.cuda.set_sync_debug_mode("default")
