"""What the passes hold, counted: by hand, and against the same passes with numbers."""

import copy

import pytest
import torch

from spin_train.model.logps import response_loss
from spin_train.model.packing import Group
from spin_train.plan.trace import Alive, Trace, trace_prompts, trace_scoring, trace_training
from tests.train.models import tiny_model

GROUPS = [Group([1] * 20, [[1] * 20, [1] * 12]), Group([1] * 9, [[1] * 30, [1] * 7])]
ROOM = 64  # columns behind the last one of a cache


def loss(logps, block):
    return -logps.sum()


def on_meta(architecture, dtype=torch.float32):
    return copy.deepcopy(tiny_model(architecture, dtype)).to("meta")


def test_tensors_count_from_their_first_to_their_last_moment():
    with Alive([]) as alive:
        first = torch.zeros(10)  # 40 bytes
        second = first + 1
        view = second[2:]  # nothing new
        del first
        third = torch.zeros(5, dtype=torch.float64)  # 40 bytes, in the place of the first
    assert (alive.now, alive.peak) == (80, 80)
    del second
    assert alive.now == 80  # the view still holds it
    del view, third
    assert alive.now == 0


def test_what_was_there_before_does_not_count():
    weight = torch.zeros(100)
    with Alive([weight]) as alive:
        weight.view(10, 10).add_(1)
    assert alive.peak == 0


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3", "gemma2"])
def test_training_holds_what_the_same_passes_hold_with_numbers(architecture):
    real = tiny_model(architecture, torch.float32)
    response_loss(real, GROUPS, loss)  # the way of computing is chosen
    with Alive([*real.parameters(), *real.buffers()]) as counted:
        total, _ = response_loss(real, GROUPS, loss)
        total.backward()
    traced = trace_training(on_meta(architecture), GROUPS, loss, device="cpu")
    # with numbers there is a buffer of 64 MiB for logits, of which as much is used as they take
    assert traced.peak == pytest.approx(counted.peak - 2**26, rel=0.15)


def test_gradients_of_weights_are_the_rest_of_the_peak():
    model = on_meta("llama")
    weights = sum(4 * parameter.numel() for parameter in model.parameters())
    traced = trace_training(model, GROUPS, loss, device="cpu")
    assert traced.peak - traced.passing <= weights
    assert all(parameter.grad is None for parameter in model.parameters())


def test_activations_grow_with_tokens_and_shrink_with_bytes():
    one = trace_training(on_meta("llama"), GROUPS, loss, device="cuda")
    two = trace_training(on_meta("llama"), GROUPS * 2, loss, device="cuda")
    half = trace_training(on_meta("llama", torch.bfloat16), GROUPS, loss, device="cuda")
    assert two.activations == pytest.approx(2 * one.activations, rel=0.05)
    assert 0.5 * one.activations < half.activations < 0.8 * one.activations


def test_recomputed_activations_are_not_held():
    model = on_meta("llama")
    plain = trace_training(model, GROUPS, loss, device="cuda")
    model.gradient_checkpointing_enable()
    model.train()
    again = trace_training(model, GROUPS, loss, device="cuda")
    assert again.activations < plain.activations / 3


def test_scoring_holds_less_than_training():
    training = trace_training(on_meta("llama"), GROUPS, loss, device="cuda")
    assert 0 < trace_scoring(on_meta("llama"), GROUPS, device="cuda") < training.passing / 2


def test_the_cache_of_prompts_has_keys_and_values_of_every_layer_and_column():
    _, kept = trace_prompts(on_meta("llama"), rows=3, tokens=11, device="cuda")
    layers, heads, size = 2, 2, 4
    assert kept == 3 * (11 + ROOM) * layers * 2 * heads * size * 4


def test_attention_is_the_trainers_again_afterwards():
    from transformers import AttentionInterface

    from spin_train.model.attention import ATTENTION, packed_attention

    trace_scoring(on_meta("llama"), GROUPS, device="cuda")
    assert AttentionInterface()[ATTENTION] is packed_attention
    assert isinstance(Trace(1, 1, 1), Trace)
