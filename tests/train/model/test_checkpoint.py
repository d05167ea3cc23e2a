"""What a run cannot start from is refused by name, before any weight is used."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from spin_train.config.files import parse_config
from spin_train.errors import UserError
from spin_train.model.checkpoint import refuse_checkpoint
from spin_train.model.loading import load_model, load_tokenizer
from tests.train.models import ARCHITECTURES, NOT_SHARING, tiny_model

QUANTISED = {
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 32},
    "awq": {"quant_method": "awq", "bits": 4, "version": "gemm"},
    "fp8": {"quant_method": "fp8", "weight_block_size": [32, 32]},
    "mxfp4": {"quant_method": "mxfp4"},
    "compressed-tensors": {"quant_method": "compressed-tensors", "config_groups": {}},
    "a method to come": {"quant_method": "a method to come"},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "llama"
    tiny_model("llama", torch.float32).save_pretrained(folder)
    return folder


@pytest.fixture
def variant(saved, tmp_path):
    """A copy of the model with other weights or another configuration."""

    def make(rename=lambda name: name, weights=None, **settings):
        folder = tmp_path / "variant"
        shutil.copytree(saved, folder)
        found = weights or load_file(saved / "model.safetensors")
        renamed = {rename(name): tensor for name, tensor in found.items() if rename(name)}
        save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **settings}))
        return folder

    return make


@pytest.mark.parametrize("part", [None, "text_config"])
@pytest.mark.parametrize("method", QUANTISED)
def test_a_quantised_checkpoint_is_refused_from_its_configuration_alone(method, part, tmp_path):
    settings = {"quantization_config": QUANTISED[method]}
    (tmp_path / "config.json").write_text(json.dumps({part: settings} if part else settings))
    with pytest.raises(UserError, match=rf"^model: .* is quantised \({method}\)"):
        refuse_checkpoint(tmp_path)


def test_what_other_tools_write_of_quantised_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"quantization": {"group_size": 64, "bits": 4}}')
    with pytest.raises(UserError, match=r"is quantised \(quantization\)"):  # MLX
        refuse_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "hf_quant_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"is quantised \(hf_quant_config\.json\)"):  # ModelOpt
        refuse_checkpoint(tmp_path)


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.int32])
def test_weights_of_few_bits_are_refused_whatever_config_json_says(variant, saved, kind):
    weights = load_file(saved / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    folder = variant(weights={**weights, name: (100 * weights[name]).to(kind)})
    with pytest.raises(UserError, match=rf"is quantised \({name} is stored as "):
        refuse_checkpoint(folder)


def test_a_mask_may_have_any_type(variant, saved):
    weights = load_file(saved / "model.safetensors")
    refuse_checkpoint(
        variant(weights={**weights, "h.0.attn.bias": torch.ones(4, dtype=torch.bool)})
    )


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_attention_that_no_run_takes_is_refused(tmp_path, key):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({key: "flash_attention_2"}))
    with pytest.raises(UserError, match=f"{key}='flash_attention_2'.*: remove {key} from it"):
        refuse_checkpoint(tmp_path)
    file.write_text(json.dumps({key: "sdpa"}))
    refuse_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 0},
        {"num_attention_heads": "4"},
        {"max_position_embeddings": 64.0},
        {"rope_parameters": {"rope_type": "no such", "rope_theta": 1e4}},
        {"hidden_act": "no such"},
        {"dtype": "no such"},
    ],
)
def test_a_wrong_value_in_config_json_is_one_line(variant, changes):
    with pytest.raises(UserError, match=r"^model: no causal language model at .*variant \("):
        load_model(variant(**changes), dtype="float32")


@pytest.mark.parametrize("content", ['{"model": {"type": "XYZ"}}', '{"version":'])
def test_a_broken_tokenizer_is_one_line(saved, variant, content):
    folder = variant()
    (folder / "tokenizer.json").write_text(content)
    config = {"model": str(folder), "data": {"path": "d"}, "output_dir": "o"}
    with pytest.raises(UserError, match=r"^model: no tokenizer at "):
        load_tokenizer(parse_config(config))


def test_a_gguf_file_and_a_folder_of_them_are_refused_with_the_command_that_converts(tmp_path):
    file = tmp_path / "m.Q4_K.gguf"
    file.write_bytes(b"GGUF")
    for path in (file, tmp_path):
        with pytest.raises(UserError, match=r"spin-train convert \S*m\.Q4_K\.gguf MODEL"):
            refuse_checkpoint(path)


def test_an_adapter_is_refused_with_the_command_that_merges(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="merge_and_unload"):
        refuse_checkpoint(str(tmp_path))


@pytest.mark.parametrize("name", ["org/hub-name", "no/such/folder"])
def test_what_is_not_a_folder_is_left_to_loading(name):
    refuse_checkpoint(name)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *NOT_SHARING])
def test_a_whole_checkpoint_is_loaded_bit_by_bit(architecture, tmp_path):
    model = tiny_model(architecture, torch.float32)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, dtype="float32").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())


def test_a_reward_models_head_is_not_taken_for_the_models(tmp_path):
    config = tiny_model("llama").config
    model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"^model: .* it lacks lm_head\.weight; .* score\.weight"):
        load_model(tmp_path, dtype="float32")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model."])
def test_weights_under_another_prefix_are_refused(variant, prefix):
    with pytest.raises(UserError, match=r"it lacks .*embed_tokens"):
        load_model(variant(lambda name: prefix + name), dtype="float32")


@pytest.mark.parametrize(
    ("layers", "problem"), [(4, r"it lacks model\.layers\.2"), (1, r"does not use,.*layers\.1")]
)
def test_another_number_of_layers_is_refused(variant, layers, problem):
    with pytest.raises(UserError, match=problem):
        load_model(variant(num_hidden_layers=layers), dtype="float32")


def test_one_missing_tensor_is_named(variant):
    folder = variant(lambda name: name if "layers.1.mlp.up_proj" not in name else None)
    with pytest.raises(UserError, match=r"it lacks model\.layers\.1\.mlp\.up_proj\.weight\. "):
        load_model(folder, dtype="float32")


def test_a_vocabulary_of_another_size_is_refused_with_both_shapes(variant):
    with pytest.raises(UserError, match=r"weight is \(31, 16\) and the model needs \(40, 16\)"):
        load_model(variant(vocab_size=40), dtype="float32")


def test_a_tied_head_need_not_be_there(variant):
    folder = variant(lambda name: name if name != "lm_head.weight" else None, **{})
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "tie_word_embeddings": True}))
    model = load_model(folder, dtype="float32")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_head_of_its_own_under_a_configuration_that_ties_it_is_saved_as_its_own(
    variant, saved, tmp_path
):
    model = load_model(variant(tie_word_embeddings=True), dtype="float32")
    head = load_file(saved / "model.safetensors")["lm_head.weight"]
    assert torch.equal(model.lm_head.weight, head)
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert not again.config.tie_word_embeddings
    assert torch.equal(again.lm_head.weight, head)
