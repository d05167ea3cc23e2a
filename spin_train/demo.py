"""The demo: a small language with known p_data, a model from scratch, the whole self-play loop.

Nothing is downloaded. The run itself is `driver.selfplay.play` on the config that is saved, the
code path of every real run. The demo only prepares data, tokenizer and model before the run, and
measures the exact divergence to p_data after it, which needs a known language.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from spin_theory.languages import NoisySort
from spin_train.config.files import override, parse_config
from spin_train.config.schema import Config
from spin_train.config.yaml12 import yaml_text
from spin_train.data.records import read_records
from spin_train.lab.tabulate import tabulate
from spin_train.languages import language_data
from spin_train.model.loading import load_model
from spin_train.run.policies import Policy
from spin_train.run.run import Run
from spin_train.sampling.engine import SamplingSettings
from spin_train.sampling.play import stop_ids_of
from spin_train.sampling.transformers_engine import sample
from spin_train.seeds import seed_of
from spin_train.system.files import write_directory, write_json
from spin_train.system.ownership import DEMO_HEAD, claim, is_demo

__all__ = ["Measurement", "build", "demo_table", "measure", "run_demo"]

LANGUAGE = NoisySort(alphabet="abcdefgh", length=5, sharpness=0.7)
PROMPTS = 2400
HELD_OUT = 200
SEED = 7


def build(out: Path, *, ranks: int, overrides: Sequence[str] = ()) -> Config:
    """Write the demo's data, tokenizer, untrained model and config (``demo.yaml``).

    Files that exist already are kept.
    """
    model, rows = out / "model", out / "rows.jsonl"
    drawn = language_data(LANGUAGE, prompts=PROMPTS + HELD_OUT, seed=SEED)
    content = {
        "model": str(model),
        "template": drawn.template,
        "data": {"path": str(rows), "held_out": HELD_OUT},
        "output_dir": str(out / "run"),
        "seed": SEED,
        "algorithm": "spin",
        "iterations": 3,
        "beta": 5.0,
        "learning_rate": 3e-5,
        "epochs": 2,
        "sft": {"epochs": 4, "learning_rate": 1e-3},
        "control": True,
        "generation": {"max_new_tokens": 12, "batch_size": 200},
        "training": {"batch_size": 32, "save_steps": 100},
        "zero_stage": 2,
        "ranks": ranks,
    }
    override(content, overrides)
    config = parse_config(content, source="demo")
    claim(out, key="--out", is_ours=is_demo)
    (out / "demo.yaml").write_text(DEMO_HEAD + yaml_text(content), encoding="utf-8")
    if not model.is_dir():
        with write_directory(model) as partial:
            drawn.tokenizer.save_pretrained(partial)
            build_model(len(drawn.tokenizer)).save_pretrained(partial)
    if not rows.is_file():
        lines = [json.dumps(row) for row in drawn.rows]
        rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return config


def build_model(vocabulary: int) -> LlamaForCausalLM:
    """Make a small Llama with random weights, on the CPU in float32."""
    torch.manual_seed(seed_of(SEED, "model") % 2**32)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=64,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=None,
        )
    )


@dataclass(frozen=True)
class Measurement:
    """Measurements of a policy that need a known language."""

    policy: str
    kl: float
    """KL(p_data || p_theta), exact over responses, mean over held-out prompts, nats."""
    valid_mass: float
    """Probability that a sample is valid, exact, mean over held-out prompts."""
    valid_samples: float
    """Fraction of valid samples, with one sample per held-out prompt."""
    margin: float | None
    """Held-out margin against the opponent of its iteration, mean, nats; None for p_0."""


def measure(run: Run, policy: Policy) -> Measurement:
    """Measure one policy against p_data on the held-out prompts.

    Exact where `Measurement` says so: every response that p_data allows is scored.
    """
    model = load_model(policy.source, dtype="float32").eval()
    records = read_records(run.directory.held_out_rows)
    samples = sample(
        model,
        [record.prompt_ids for record in records],
        [seed_of(SEED, "measure", record.prompt_id) for record in records],
        SamplingSettings(
            stop_ids_of(run.directory),
            run.config.generation.max_new_tokens,
            1.0,
            batch_size=len(records),
        ),
    )
    drawn = language_data(LANGUAGE, prompts=0, seed=SEED)  # for its tokens
    prompts = [
        drawn.decode(record.prompt_ids[:-1]) for record in records
    ]  # without the > at the end
    spaces = [LANGUAGE.enumerate(prompt) for prompt in prompts]
    with torch.inference_mode():
        table = tabulate(
            model,
            [record.prompt_ids for record in records],
            [[drawn.encode(response) for response in responses] for responses, _ in spaces],
        )
    kls = [
        (data.exp() * (data - policy_log_probs)).sum().item()
        for (_, data), policy_log_probs in zip(spaces, table.log_probs, strict=True)
    ]
    valid = [
        sampled.finish_reason == "stop"
        and LANGUAGE.is_valid(prompt, drawn.decode(sampled.ids[:-1]))
        for prompt, sampled in zip(prompts, samples, strict=True)
    ]
    return Measurement(
        policy=policy.name,
        kl=sum(kls) / len(kls),
        valid_mass=1 - table.outside.mean().item(),
        valid_samples=sum(valid) / len(valid),
        margin=(policy.numbers or {}).get("margin"),
    )


def run_demo(
    out: Path,
    *,
    ranks: int,
    overrides: Sequence[str] = (),
    watch: Callable[[str, int, int, str], None] | None = None,
) -> tuple[Run, list[Measurement]]:
    """Build, run and measure the demo, or resume one that was cut short.

    The configuration is saved as ``demo.yaml``, and ``spin-train run`` on it does the same run. The
    measurements of p_0, then of policy and control of each iteration, are saved as ``demo.json``.
    """
    from spin_train.driver import selfplay

    transformers.logging.disable_progress_bar()
    run = Run.of(build(out, ranks=ranks, overrides=overrides))
    selfplay.play(run, watch=watch)
    measurements = []
    for number, policy in enumerate(run.listed):
        if watch is not None:
            watch("exact divergence", number, len(run.listed), policy.name)
        measurements.append(measure(run, policy))
    write_json(out / "demo.json", [vars(measurement) for measurement in measurements])
    return run, measurements


def demo_table(measurements: Sequence[Measurement]) -> Table:
    """Show the measurements, one row per policy."""
    table = Table(
        "policy",
        "KL(p_data||p) (nats)",
        "valid mass",
        "valid samples",
        "margin (nats)",
        title="held-out prompts; control = continued SFT, same rows, steps, optimiser, rate",
    )
    for row in measurements:
        table.add_row(
            row.policy,
            f"{row.kl:.4f}",
            f"{row.valid_mass:.4f}",
            f"{row.valid_samples:.3f}",
            "" if row.margin is None else f"{row.margin:.3f}",
        )
    return table
