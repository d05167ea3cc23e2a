"""The step on a CUDA device; skipped where there is none."""

import copy
import logging

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from spin_train.logps import Group, response_logps, response_loss
from spin_train.objective import Objective

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
GROUPS = [
    Group(list(range(1, 200)), [list(range(5, 90)), list(range(7, 20))]),
    Group([3, 1, 4], [[1, 5, 9], list(range(30, 70))]),
]


def a_llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config)


def gradient(model, logps):
    model.zero_grad()
    (logps * torch.arange(1, len(logps) + 1, device=logps.device)).sum().backward()
    return torch.cat([parameter.grad.flatten().cpu() for parameter in model.parameters()])


def test_shared_prompts_give_the_cpus_values_and_gradient(caplog):
    on_cpu = a_llama()
    model = copy.deepcopy(on_cpu).cuda()
    with caplog.at_level(logging.WARNING, "spin_train"):
        got = response_logps(model, GROUPS)
    assert caplog.messages == []  # the fast path was found exact
    expected = response_logps(on_cpu, GROUPS)
    torch.testing.assert_close(got.detach().cpu(), expected.detach(), atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(
        gradient(model, got), gradient(on_cpu, expected), atol=1e-3, rtol=1e-3
    )


def test_a_step_never_waits_for_the_device():
    model = a_llama().cuda()
    objective = Objective("spin", beta=0.1)

    def step(groups):
        loss, _ = response_loss(model, groups, loss_of_run)
        loss.backward()

    def loss_of_run(logps, run):
        policy = logps.view(-1, 2)
        return objective(policy, torch.zeros_like(policy)).sum()

    step(GROUPS)  # compiles, and compares with the plain forward pass
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(GROUPS[::-1])
    finally:
        torch.cuda.set_sync_debug_mode("default")
