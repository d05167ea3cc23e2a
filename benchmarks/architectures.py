"""Every causal language model of transformers, made tiny, through one whole iteration.

``python -m benchmarks.architectures`` sweeps all types, in this process, and prints what became of
each; ``--write`` puts each into the table of docs/models.md as soon as it is done, and leaves the
other rows as they are. Names of types as arguments sweep these alone, ``--left`` those that the
table has no row of, so that a sweep may be cut short and go on.
An iteration is: load, sample, score, compare both, train a step, save, load again and compare.
"""

import argparse
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from benchmarks.pages import DOCS, between, write_between
from spin_train.errors import UserError, one_line
from spin_train.model import logps as scoring
from spin_train.model.loading import load_model, save_policy
from spin_train.model.logps import Group, response_logps, response_loss
from spin_train.sampling import transformers_engine as sampling
from spin_train.sampling.engine import SamplingSettings
from spin_train.stages.parity import PARITY_TOLERANCE

__all__ = ["Outcome", "one_iteration", "tiny_config"]

PAGE = DOCS / "models.md"
VOCABULARY = 64
# Sizes by the names that configurations use for them.
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "embedding_size", "word_embed_proj_dim"), 32
    ),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "decoder_ffn_dim", "dff", "dim_ff", "d_inner"), 48
    ),
    **dict.fromkeys(("ffn_hidden_size", "n_inner", "shared_intermediate_size"), 48),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), 2
    ),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_heads", "attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "swa_num_key_value_heads", "num_kv_heads"), 2),
    "swa_num_attention_heads": 4,
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim"), 8),
    **dict.fromkeys(("swa_head_dim", "dim_head", "index_head_dim"), 8),
    **dict.fromkeys(("rotary_dim",), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 128),
    "context_length": 128,
    **dict.fromkeys(("sliding_window", "attention_window_size", "sliding_window_size"), 16),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("n_shared_experts", "n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size", "mamba_d_head"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "mamba_head_dim"), 8),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "mamba_ngroups"), 1),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size", "block_size", "attention_chunk_size"), 16),
    **dict.fromkeys(("linear_num_key_heads",), 2),
    **dict.fromkeys(("linear_num_value_heads",), 4),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("index_n_heads", "mamba_dt_rank", "time_step_rank"), 4),
    "index_topk": 16,
    "lru_width": 32,
    "attention_hidden_size": 32,
    "d_kv": 8,
    **dict.fromkeys(("bos_token_id", "decoder_start_token_id"), 1),
    "eos_token_id": 2,
    **dict.fromkeys(("pad_token_id", "unk_token_id"), 0),
    "is_decoder": True,  # otherwise some see the tokens that follow
}
# What makes a model of its own kind, where the sizes alone do not.
_OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma2": {"query_pre_attn_scalar": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "use_mamba_kernels": False,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "n_groups": 1, "expand": 2},
    "nemotron_h": {"layers_block_type": ["mamba", "attention"]},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "recurrent_gemma": {"num_hidden_layers": 3, "num_key_value_heads": 1, "intermediate_size": 96},
    "zamba2": {
        "layers_block_type": ["mamba", "hybrid"],
        "num_mem_blocks": 1,
        "mamba_headdim": 8,
        "mamba_expand": 2,
        "use_mem_rope": True,
    },
}
_VERSION = f"with transformers {transformers.__version__}"
_MOST_WEIGHTS = 20_000_000
_PROMPT_TOKENS = (40, 3, 17, 8)
_NEW_TOKENS = 8


@dataclass(frozen=True)
class Outcome:
    """What became of a type of model."""

    kind: str
    """Its name in transformers."""
    sampling: str = ""
    """Way of sampling that is exact on it."""
    scoring: str = ""
    """Way of scoring that is exact on it."""
    verdict: str = "runs"
    """`runs`, or why not."""


class _NoTokenizer:
    def save_pretrained(self, path: Path) -> None:
        pass


def tiny_config(kind: str) -> Any:
    """Make the smallest configuration of a type that its own class accepts."""
    cls = CONFIG_MAPPING[kind]
    return (
        cls(**_sizes_of(cls), **{}) if kind not in _OWN else cls(**{**_sizes_of(cls), **_OWN[kind]})
    )


def _sizes_of(cls: Any) -> dict[str, Any]:
    names = {*getattr(cls, "__dataclass_fields__", {}), *getattr(cls, "attribute_map", {})}
    own = {name: size for name, size in _SIZES.items() if name in names}
    if "kv_lora_rank" in names:  # latent attention: each head has keys of its own
        own["num_key_value_heads"] = own["num_attention_heads"]
    for name, part in getattr(cls, "sub_configs", {}).items():
        if hasattr(part, "__dataclass_fields__"):
            own[name] = _sizes_of(part)
    return own


def one_iteration(kind: str, folder: Path) -> Outcome:
    """Take a tiny model of a type through one iteration in an empty folder."""
    try:
        config = tiny_config(kind)
        config.initializer_range = 0.2  # far from uniform, so that a wrong token shows
        with torch.device("meta"):  # the number of weights, before they take memory
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        weights = sum(p.numel() for p in model.parameters())
        if weights > _MOST_WEIGHTS:
            return Outcome(kind, verdict=f"not made small here ({weights / 1e6:.0f} M weights)")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.save_pretrained(folder / "model")
    except Exception as error:
        return Outcome(kind, verdict=f"not made small here ({one_line(error, 60)})")
    try:
        return _played(kind, folder)
    except UserError as error:
        said = str(error).removeprefix("model: ").replace(f"{folder}/", "")
        return Outcome(kind, verdict=f"refused: {one_line(said, 90)}")


def _played(kind: str, folder: Path) -> Outcome:
    model = load_model(folder / "model", dtype="float32").eval()
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (count,), generator=generator).tolist()

    prompts = [ids(count) for count in _PROMPT_TOKENS]
    settings = SamplingSettings((2,), max_new_tokens=_NEW_TOKENS, temperature=1.0, batch_size=3)
    samples = sampling.sample(model, prompts, range(len(prompts)), settings)
    groups = [Group(p, [ids(6), s.ids]) for p, s in zip(prompts, samples, strict=True)]
    with torch.no_grad():
        scores = response_logps(model, groups)
    tolerance = PARITY_TOLERANCE["float32"]
    for sample, score in zip(samples, scores[1::2].tolist(), strict=True):
        if not abs(sample.logps - score) <= tolerance.allowed(len(sample.ids)):
            return Outcome(kind, verdict=f"parity: {abs(sample.logps - score):.2g} nats off")
    optimiser = torch.optim.SGD(model.train().parameters(), lr=1e-3)
    loss, _ = response_loss(
        model, groups, lambda logps, _: -(logps[::2] - logps[1::2]).sigmoid().sum()
    )
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    with torch.no_grad():
        trained = response_logps(model.eval(), groups)
    save_policy(model, model.state_dict(), _NoTokenizer(), folder / "policy")
    with torch.no_grad():
        again = response_logps(load_model(folder / "policy", dtype="float32").eval(), groups)
    if not torch.allclose(again, trained, atol=1e-3, rtol=0):
        return Outcome(kind, verdict=f"saved: {(again - trained).abs().max():.2g} nats off")
    return Outcome(
        kind,
        _name(sampling._WAYS, sampling._chosen[model]),
        _name(scoring._WAYS, scoring._chosen[model]),
    )


def _name(ways: Any, chosen: dict[int, Any]) -> str:
    (way,) = {id(way): way for way in chosen.values()}.values()
    names: dict[str, Any] = ways
    return next(name for name, known in names.items() if known == way)


def table(outcomes: Iterable[Outcome]) -> str:
    """Write the outcomes as Markdown."""
    lines = ["| type | sampling | scoring | verdict |", "|---|---|---|---|"]
    lines += [f"| {o.kind} | {o.sampling} | {o.scoring} | {o.verdict} |" for o in outcomes]
    runs = sum(line.endswith("| runs |") for line in lines)
    return "\n".join([f"{runs} of {len(lines) - 2} types run, {_VERSION}.", "", *lines])


def outcomes_of(text: str) -> dict[str, Outcome]:
    """Read a table back, by type; nothing of one that was made with other versions."""
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
    found = [Outcome(*(cell.strip() for cell in row[1:5])) for row in rows[1:]]
    return {outcome.kind: outcome for outcome in found} if f"{_VERSION}." in text else {}


def main() -> None:
    """Sweep the types and show what became of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", help="types to sweep; all of them if none is named")
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.name}")
    parser.add_argument("--left", action="store_true", help="only types without a row there")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    known = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    before = outcomes_of(between(PAGE, "architectures"))
    rows = {kind: outcome for kind, outcome in before.items() if kind in known}
    outcomes = []
    for kind in arguments.kinds or known:
        if arguments.left and kind in rows:
            continue
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcome = one_iteration(kind, Path(folder))
            except Exception as error:
                outcome = Outcome(kind, verdict=f"{type(error).__name__}: {one_line(error, 80)}")
        outcomes.append(outcome)
        print(f"{outcome} {time.monotonic() - started:.1f} s", flush=True)
        rows[kind] = outcome
        if arguments.write:
            write_between(PAGE, "architectures", table(rows[kind] for kind in sorted(rows)))
    expected = ("runs", "refused", "not made small")
    failed = [o.kind for o in outcomes if not o.verdict.startswith(expected)]
    if failed:
        raise SystemExit(f"neither run nor refused: {', '.join(failed)}")


if __name__ == "__main__":
    main()
