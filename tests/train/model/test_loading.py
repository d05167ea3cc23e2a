import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    MixtralConfig,
    OPTConfig,
    PhimoeConfig,
)

from spin_train.config.files import parse_config
from spin_train.errors import UserError
from spin_train.model.loading import ends_of_text, load_model, save_policy, teach_ends
from tests.train.models import tiny_model
from tests.train.tokenizers import byte_level

SIZES = {
    "vocab_size": 31,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
MOE = {
    "intermediate_size": 24,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "initializer_range": 0.3,
}
NOISY = {
    "sampled experts": lambda: PhimoeConfig(**SIZES, **MOE, router_jitter_noise=0.01),
    "router jitter": lambda: MixtralConfig(**SIZES, **MOE, router_jitter_noise=0.1),
    "layers left out": lambda: OPTConfig(
        **SIZES, ffn_dim=24, word_embed_proj_dim=16, layerdrop=0.5, dropout=0.2, init_std=0.3
    ),
}


@pytest.mark.parametrize(("architecture", "attention"), [("gemma2", "eager"), ("llama", "sdpa")])
def test_a_model_whose_attention_is_capped_is_loaded_with_one_that_has_the_cap(
    architecture, attention, tmp_path
):
    tiny_model(architecture).save_pretrained(tmp_path)
    model = load_model(tmp_path, dtype="float32")
    assert model.config._attn_implementation == attention


def saved(folder, *, named, ends, **changes):
    """A model whose tokenizer and settings name their own ends of text."""
    model = tiny_model("llama")
    model.config.eos_token_id = named
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=0)
    model.save_pretrained(folder)
    tokenizer = byte_level(eos="</s>")  # id 2
    tokenizer.save_pretrained(folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return tokenizer


@pytest.mark.parametrize(
    ("named", "ends", "all_ends"),
    [(2, 2, [2]), (3, [4, 5], [2, 3, 4, 5]), ([3, 4], None, [2, 3, 4]), (None, 3, [2, 3])],
)
def test_every_end_of_text_that_a_model_names_counts(tmp_path, named, ends, all_ends):
    saved(tmp_path, named=named, ends=ends)
    content = {"model": str(tmp_path), "data": {"path": "d"}, "output_dir": "o"}
    assert ends_of_text(parse_config(content)) == all_ends
    if ends is not None and named is not None:
        (tmp_path / "generation_config.json").unlink()
        found = ends_of_text(parse_config(content))
        assert found == sorted({2, *(named if isinstance(named, list) else [named])})


def test_an_end_below_0_is_none_and_a_broken_file_of_them_is_refused(tmp_path):
    saved(tmp_path, named=-1, ends=[4, -1])
    config = parse_config({"model": str(tmp_path), "data": {"path": "d"}, "output_dir": "o"})
    assert ends_of_text(config) == [2, 4]
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(UserError, match=r"generation_config\.json' is not a valid JSON file"):
        ends_of_text(config)


@pytest.mark.parametrize("changes", [{}, {"temperature": 0.6, "do_sample": False}])
def test_a_policy_stops_where_it_was_taught_to(tmp_path, changes):
    """In anyone's server, which reads generation_config.json."""
    tokenizer = saved(tmp_path / "start", named=3, ends=3, **changes)
    model = load_model(tmp_path / "start", dtype="float32")
    teach_ends(model, (5, 3))
    save_policy(model, model.state_dict(), tokenizer, tmp_path / "policy")
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert policy.generation_config.eos_token_id == [5, 3]
    assert policy.generation_config.temperature == changes.get("temperature")


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", NOISY)
def test_training_computes_what_evaluation_computes(kind, checkpointing, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(NOISY[kind]()).save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    model = load_model(tmp_path, dtype="float32").eval()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        expected = model(ids).logits
        plain.train()  # one draw may change nothing, of many one does: there is noise to switch off
        assert any(not torch.equal(plain(ids).logits, expected) for _ in range(50))
        assert torch.equal(plain.eval()(ids).logits, expected)  # and nothing else changes
    if checkpointing:
        old_name = model.gradient_checkpointing_enable  # the only one before transformers 5.23
        getattr(model, "activation_checkpointing_enable", old_name)()
    assert model.train().training
    with torch.no_grad():
        assert torch.equal(model(ids).logits, expected)
    layers = [module for module in model.modules() if hasattr(module, "gradient_checkpointing")]
    assert all(layer.training == checkpointing for layer in layers if layer is not model)
