"""Small runs for tests: a model, its rows, a config, and the command line in its own process."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import transformers
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from spin_train.data.records import read_records
from spin_train.languages import build_tokenizer
from tests.train import warm

SYMBOLS = "abcdefgh"
SHORT = {"sft": None, "iterations": 1}
"""What little a test of messages needs."""
transformers.logging.disable_progress_bar()


def make_model(folder, *, seed=0, dropout=0.0, width=32, context=64):
    """A two-layer Llama with random weights and a one-symbol-a-token tokenizer."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(SYMBOLS)
    tokenizer.save_pretrained(folder)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=context,
            attention_dropout=dropout,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=None,
        )
    ).save_pretrained(folder)


def make_rows(path, count=60):
    """Rows whose response is the prompt, sorted."""
    generator = torch.Generator().manual_seed(1)
    lines = []
    for _ in range(count):
        picks = torch.randint(len(SYMBOLS), (4,), generator=generator).tolist()
        prompt = "".join(SYMBOLS[i] for i in picks)
        lines.append(json.dumps({"prompt": prompt, "response": "".join(sorted(prompt))}))
    path.write_text("\n".join(lines) + "\n")


def make_config(folder, *, width=32, rows=60, **changes):
    """Write model, rows and config of a small run; returns the config's path."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model").is_dir():
        make_model(folder / "model", width=width)
        make_rows(folder / "rows.jsonl", rows)
    content = {
        "model": str(folder / "model"),
        "template": "{prompt}>",
        "data": {"path": str(folder / "rows.jsonl"), "held_out": 8},
        "output_dir": str(folder / "run"),
        "iterations": 2,
        "beta": 0.5,
        "learning_rate": 1e-3,
        "epochs": 1,
        "sft": {"epochs": 2, "learning_rate": 3e-3},
        "generation": {"max_new_tokens": 6, "batch_size": 16},
        "training": {
            "batch_size": 8,
            "micro_batch_size": 4,
            "save_steps": 3,
            "logging_steps": 1,
        },
        "zero_stage": 0,
        "ranks": 1,
    }
    for key, value in changes.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def start(*arguments, **options):
    """Start the command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "spin_train", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
        **options,
    )


def run(*arguments, timeout=300, cold=False, **options):
    """Run the command line; returns (exit code, standard output, standard error).

    It starts warm, see `tests.train.warm`, unless it is to start as a user's does, or with options
    of `subprocess.Popen`.
    """
    environment = {**os.environ, "COLUMNS": "200"}
    if not (cold or options) and warm.fits(environment):
        return warm.run(list(map(str, arguments)), environment=environment, timeout=timeout)
    process = start(*arguments, **options)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, out, err


def succeed(*arguments, **options):
    """Run the command line and demand exit code 0."""
    code, out, err = run(*arguments, **options)
    assert code == 0, err + logs_of(arguments)
    return out


def refused(*arguments, **options):
    """The one line of a run that ends with exit code 2."""
    code, out, err = run(*arguments, **options)
    lines = [line for line in err.strip().splitlines() if "Traceback" not in line]
    assert code == 2, (code, out, err)
    assert "Traceback" not in err
    assert lines[-1].startswith("spin-train: ")
    return lines[-1]


def logs_of(arguments):
    config = Path(str(arguments[1]))
    if not config.is_file():
        return ""
    folder = Path(yaml.safe_load(config.read_text())["output_dir"]) / "logs"
    return "".join(log.read_text()[-4000:] for log in sorted(folder.glob("*.log")))


def weights(run_folder):
    """SHA-256 of every safetensors file of a run, by its place in it."""
    return {
        str(path.relative_to(run_folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(run_folder).rglob("policy/*.safetensors"))
    }


def metrics(run_folder):
    """Text of every metrics.jsonl of a run, by its place in it."""
    return {
        str(path.relative_to(run_folder)): path.read_text()
        for path in sorted(Path(run_folder).rglob("metrics.jsonl"))
    }


def records_of(folder, pattern):
    """All records of the files of a pattern, in order."""
    return [r for path in sorted(folder.glob(pattern)) for r in read_records(path)]


def losses(run_folder, stage):
    """Logged losses of a training stage, by step."""
    lines = (Path(run_folder) / stage / "metrics.jsonl").read_text().splitlines()
    rows = map(json.loads, lines)
    return {row["step"]: row["loss"] for row in rows if "loss" in row}
