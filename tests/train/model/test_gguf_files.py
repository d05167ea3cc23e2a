import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from spin_train.errors import UserError
from spin_train.model import gguf_files
from spin_train.model.checkpoint import refuse_checkpoint
from spin_train.model.gguf_files import convert
from spin_train.model.loading import load_model

WIDTH, LAYERS, HEADS, WORDS = 64, 2, 2, 32
SHAPES = {
    "attn_q": (WIDTH, WIDTH),
    "attn_k": (WIDTH, WIDTH),
    "attn_v": (WIDTH, WIDTH),
    "attn_output": (WIDTH, WIDTH),
    "ffn_gate": (2 * WIDTH, WIDTH),
    "ffn_up": (2 * WIDTH, WIDTH),
    "ffn_down": (WIDTH, 2 * WIDTH),
}
CHAT = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def gguf():
    return pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def written(gguf, tmp_path_factory):
    """A Llama with tied weights in Q4_1, and the numbers that its values of four bits stand for."""
    file = tmp_path_factory.mktemp("gguf") / "tiny.Q4_1.gguf"
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(WORDS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(
        ["<e>", "<s>", *(chr(ord("a") + n) for n in range(WORDS - 4)), "ab", "cd"]
    )
    writer.add_token_types([3, 3] + [1] * (WORDS - 2))
    writer.add_token_merges(["a b", "c d"])  # before 5.18 transformers reads one as no list
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_chat_template(CHAT)
    generator, numbers = np.random.default_rng(0), {}

    def add(name, shape):
        four_bits = gguf.quants.quantize(
            generator.normal(size=shape).astype(np.float32), gguf.GGMLQuantizationType.Q4_1
        )
        numbers[name] = gguf.quants.dequantize(four_bits, gguf.GGMLQuantizationType.Q4_1)
        writer.add_tensor(name, four_bits, raw_dtype=gguf.GGMLQuantizationType.Q4_1)

    add("token_embd.weight", (WORDS, WIDTH))
    norms = ["output_norm.weight"]
    for layer in range(LAYERS):
        for name, shape in SHAPES.items():
            add(f"blk.{layer}.{name}.weight", shape)
        norms += [f"blk.{layer}.attn_norm.weight", f"blk.{layer}.ffn_norm.weight"]
    for name in norms:
        writer.add_tensor(name, np.ones(WIDTH, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file, numbers


def test_a_gguf_file_becomes_a_model_that_a_run_takes_with_its_numbers(written, tmp_path):
    file, numbers = written
    out = convert(file, tmp_path / "model")
    refuse_checkpoint(out)
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    model = load_model(out, dtype="float32")
    # Saved as in memory, and weights that are tied are there once.
    stored = load_file(out / "model.safetensors")
    assert "lm_head.weight" not in stored
    assert model.lm_head.weight is model.model.embed_tokens.weight
    embedded = torch.from_numpy(numbers["token_embd.weight"])
    assert torch.equal(model.model.embed_tokens.weight, embedded)
    for layer in range(LAYERS):
        down = torch.from_numpy(numbers[f"blk.{layer}.ffn_down.weight"])
        assert torch.equal(model.model.layers[layer].mlp.down_proj.weight, down)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


def test_its_tokenizer_comes_with_its_chat_template(written, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(convert(written[0], tmp_path / "model"))
    assert tokenizer.chat_template == CHAT
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<e>", "<s>", "a"]
    assert tokenizer.eos_token_id == 0


def test_a_text_ends_as_the_file_says_whatever_transformers_read(written):
    read = SimpleNamespace(eos_token_id=1, convert_ids_to_tokens=["<e>", "<s>"].__getitem__)
    gguf_files._take_end_of_text(read, written[0])
    assert read.eos_token == "<e>"


def test_a_directory_that_exists_is_never_written_over(tmp_path):
    with pytest.raises(UserError, match="exists already"):
        convert(tmp_path / "m.gguf", tmp_path)


def test_a_file_that_is_missing_or_broken_is_named(gguf, tmp_path):
    file = tmp_path / "m.gguf"
    with pytest.raises(UserError, match=r"there is no file .*m\.gguf"):
        convert(file, tmp_path / "model")
    file.write_bytes(b"not what it says, and too short for anything")
    with pytest.raises(UserError, match=r"m\.gguf: transformers cannot read it"):
        convert(file, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gguf", None)
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"pip install 'spin-toolkit\[gguf\]'"):
        convert(file, tmp_path / "model")
