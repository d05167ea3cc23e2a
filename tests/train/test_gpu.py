"""The step on a CUDA device; skipped where there is none."""

import copy
import logging

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from spin_train.model.logps import Group, response_logps, response_loss
from spin_train.training.objective import Objective

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DEVICE = "cuda"
GROUPS = [
    Group(list(range(1, 200)), [list(range(5, 90)), list(range(7, 20))]),
    Group([3, 1, 4], [[1, 5, 9], list(range(30, 70))]),
]


def a_llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=5000,  # above 1024 the softmax of a row is another kernel
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config)


def objective_of_run(logps, run):
    policy = logps.view(-1, 2)
    return Objective("spin", beta=0.1)(policy, torch.zeros_like(policy)).sum()


def loss_and_gradient(model):
    model.zero_grad()
    loss, logps = response_loss(model, GROUPS, objective_of_run)
    loss.backward()
    gradient = torch.cat([parameter.grad.flatten().cpu() for parameter in model.parameters()])
    return loss.detach().cpu(), logps.cpu(), gradient


# Nats per token, and the relative error of loss and gradient.
@pytest.mark.parametrize(
    ("dtype", "nats", "relative"), [(torch.float32, 1e-5, 1e-4), (torch.bfloat16, 0.1, 0.1)]
)
def test_shared_prompts_give_the_cpus_values_and_gradient(dtype, nats, relative, caplog):
    on_cpu = a_llama().to(dtype).float()
    model = copy.deepcopy(on_cpu).to(DEVICE, dtype)
    with caplog.at_level(logging.WARNING, "spin_train"):
        scored = response_logps(model, GROUPS)
    assert caplog.messages == []  # the fast path was found exact
    loss, logps, gradient = loss_and_gradient(model)
    expected_loss, expected, expected_gradient = loss_and_gradient(on_cpu)
    lengths = torch.tensor([len(ids) for group in GROUPS for ids in group.responses])
    for got in (scored.detach().cpu(), logps):
        assert ((got - expected).abs() <= nats * lengths).all()
    torch.testing.assert_close(loss, expected_loss, atol=0, rtol=relative)
    assert (gradient - expected_gradient).norm() <= relative * expected_gradient.norm()


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
