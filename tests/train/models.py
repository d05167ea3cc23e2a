"""Tiny models of several architectures, built in code."""

import torch
from transformers import AutoModelForCausalLM
from transformers.models.gemma2 import Gemma2Config
from transformers.models.gpt2 import GPT2Config
from transformers.models.llama import LlamaConfig
from transformers.models.mistral import MistralConfig
from transformers.models.qwen2 import Qwen2Config

VOCABULARY = 31
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,  # far from uniform, so that a wrong token or position shows
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_CONFIGS = {
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=16,
        n_layer=2,
        n_head=4,
        n_positions=64,
        initializer_range=0.5,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "llama": lambda: LlamaConfig(**_SIZES),
    "qwen2": lambda: Qwen2Config(**_SIZES),
    # Windows shorter than a row: padding must not push real tokens out of them.
    "mistral": lambda: MistralConfig(**_SIZES, sliding_window=4),
    "gemma2": lambda: Gemma2Config(
        **_SIZES, head_dim=4, query_pre_attn_scalar=4, sliding_window=4, tie_word_embeddings=True
    ),
}
ARCHITECTURES = sorted(_CONFIGS)


def tiny_model(architecture, dtype=torch.float64, *, seed=0):
    """A model without dropout; the same weights at each call."""
    config = _CONFIGS[architecture]()
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval()


def uniform_model(dtype=torch.float64):
    """A GPT-2 with zero weights: every token has probability 1 / VOCABULARY."""
    model = tiny_model("gpt2", dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


def constant_model(probs, dtype=torch.float32):
    """A GPT-2 whose next token has the probabilities `probs` whatever came before."""
    config = GPT2Config(
        vocab_size=len(probs),
        n_embd=4,
        n_layer=1,
        n_head=1,
        n_positions=64,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.transformer.ln_f.bias[0] = 1.0  # the last hidden state, everywhere
        model.lm_head.weight[:, 0] = torch.tensor(probs).log().clamp(min=-1e4)
    return model
