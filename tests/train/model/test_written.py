"""A policy on disk holds the tensors that were trained, bit by bit."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from spin_train.errors import UserError
from spin_train.model.written import compare_with_disk
from tests.train.models import tiny_model


def moe_model():
    """Experts in one tensor in memory, and in one per expert on disk."""
    config = Qwen3MoeConfig(
        vocab_size=31,
        hidden_size=16,
        intermediate_size=24,
        moe_intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=64,
    )
    return AutoModelForCausalLM.from_config(config)


MODELS = {
    "llama": lambda: tiny_model("llama", torch.float32),
    "tied": lambda: tiny_model("gemma2", torch.bfloat16),
    "experts": moe_model,
}


@pytest.fixture(params=MODELS)
def written(request, tmp_path):
    model = MODELS[request.param]()
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    return model, tmp_path


def change(folder, alter):
    """Write the first file of weights again, altered."""
    file = min(folder.glob("*.safetensors"))
    tensors = load_file(file)
    alter(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def test_what_was_written_is_accepted(written):
    model, folder = written
    compare_with_disk(folder, model, model.state_dict())


def test_one_other_bit_is_noticed(written):
    model, folder = written

    def alter(tensors):
        name, tensor = next(iter(tensors.items()))
        tensor.view(-1).view(torch.uint8)[0] ^= 1
        altered.append(name)

    altered = []
    change(folder, alter)
    with pytest.raises(UserError, match=f"{altered[0]} is not what was trained"):
        compare_with_disk(folder, model, model.state_dict())


def test_a_tensor_that_is_not_there_is_noticed(written):
    model, folder = written
    change(folder, lambda tensors: tensors.popitem())
    with pytest.raises(UserError, match="did not write"):
        compare_with_disk(folder, model, model.state_dict())


def test_another_type_is_noticed(written):
    model, folder = written
    change(folder, lambda tensors: tensors.update({k: v.double() for k, v in tensors.items()}))
    with pytest.raises(UserError, match="is not what was trained"):
        compare_with_disk(folder, model, model.state_dict())
