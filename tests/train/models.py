"""Tiny models of several architectures, built in code."""

from contextlib import contextmanager

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from transformers.models.bloom import BloomConfig
from transformers.models.cohere import CohereConfig
from transformers.models.gemma2 import Gemma2Config
from transformers.models.gemma3 import Gemma3TextConfig
from transformers.models.gpt2 import GPT2Config
from transformers.models.gpt_neox import GPTNeoXConfig
from transformers.models.granite import GraniteConfig
from transformers.models.llama import LlamaConfig
from transformers.models.mamba import MambaConfig
from transformers.models.mistral import MistralConfig
from transformers.models.phi3 import Phi3Config
from transformers.models.qwen2 import Qwen2Config
from transformers.models.qwen3 import Qwen3Config

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
    # One layer of each kind: a window of 4, and none.
    "gemma3": lambda: Gemma3TextConfig(
        **_SIZES,
        head_dim=4,
        query_pre_attn_scalar=4,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "qwen3": lambda: Qwen3Config(**_SIZES, head_dim=8),
    "phi3": lambda: Phi3Config(**_SIZES, pad_token_id=0),
    "neox": lambda: GPTNeoXConfig(**_SIZES),
    "cohere": lambda: CohereConfig(**_SIZES, logit_scale=0.5),
    "granite": lambda: GraniteConfig(**_SIZES, logits_scaling=2.0, attention_multiplier=0.3),
    # A bias on distances instead of positions, and a state instead of attention: no shared prompts.
    "bloom": lambda: BloomConfig(vocab_size=VOCABULARY, hidden_size=16, n_layer=2, n_head=4),
    "mamba": lambda: MambaConfig(
        vocab_size=VOCABULARY, hidden_size=16, state_size=4, num_hidden_layers=2
    ),
}
NOT_SHARING = ["bloom", "mamba"]
ARCHITECTURES = sorted(_CONFIGS.keys() - NOT_SHARING)


def tiny_model(architecture, dtype=torch.float64, *, seed=0):
    """A model without dropout; the same weights at each call."""
    config = _CONFIGS[architecture]()
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # As `load_model` does: torch's own attention leaves Gemma 2's cap out.
        own = "eager" if getattr(config, "attn_logit_softcapping", None) else None
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=own)
    return model.eval()


def slow_logps(model, groups):
    """One unpadded forward a response, one token after the other."""
    logps = []
    for group in groups:
        for response in group.responses:
            ids = torch.tensor([group.prompt_ids + response])
            log_probs = model(input_ids=ids).logits[0].log_softmax(-1)  # (T, V)
            logp = torch.zeros((), dtype=torch.float64)
            for place, token in enumerate(response, start=len(group.prompt_ids)):
                logp = logp + log_probs[place - 1, token]
            logps.append(logp)
    return torch.stack(logps)


@contextmanager
def float64_throughout():
    """Keep norms and attention from going through float32, as models do whatever their type."""
    to, single, softmax = torch.Tensor.to, torch.Tensor.float, functional.softmax

    def narrows(tensor, wanted):
        return tensor.dtype == torch.float64 and wanted == torch.float32

    def kept_to(self, *args, **kwargs):
        return self if any(narrows(self, x) for x in args) else to(self, *args, **kwargs)

    def kept_float(self, *args, **kwargs):
        return self if self.dtype == torch.float64 else single(self, *args, **kwargs)

    def kept_softmax(tensor, *args, dtype=None, **kwargs):
        return softmax(tensor, *args, dtype=None if narrows(tensor, dtype) else dtype, **kwargs)

    torch.Tensor.to, torch.Tensor.float, functional.softmax = kept_to, kept_float, kept_softmax
    try:
        yield
    finally:
        torch.Tensor.to, torch.Tensor.float, functional.softmax = to, single, softmax


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


def coarse_llama(seed):
    """A bfloat16 model whose log-probs of random tokens are rounded by up to 0.4 nats."""
    sizes = {"hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 6}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    spread = 0.5 if seed == 0 else 0.3
    config = LlamaConfig(vocab_size=1000, **sizes, **heads, initializer_range=spread)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).bfloat16().eval()
