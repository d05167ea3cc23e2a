"""A finished run, written file by file: nothing is trained, and no process is started."""

import json
from dataclasses import replace

import torch

from spin_train.config.files import parse_config
from spin_train.config.yaml12 import yaml_text
from spin_train.data.records import Record, Response, write_records
from spin_train.run.manifest import Manifest
from spin_train.run.run import Run
from spin_train.stages.evaluate import summarise, write_examples
from spin_train.system.files import write_json
from tests.train.tokenizers import byte_level

HOSTILE = (
    "</div><script>document.title = 'owned'</script><img src=x onerror=\"owned=1\"> & {{ 7*7 }}"
)
TRICKS = "bell \x07, null \x00, turned \u202eabc, \ud7ff end"
EFFECT = {"p_0": 0.0, "p_1": 0.1, "control 1": 0.4, "p_2": 0.2, "control 2": 0.6}
"""By how many nats log p of a human response rises."""


def finish(root, *, prompts=40, effect=None, upto=None, answers=True, **changes):
    """Write a run of two iterations with control; `upto` is the last policy that is evaluated."""
    effect = EFFECT if effect is None else effect
    content = {
        "model": str(root / "model"),
        "data": {"path": str(root / "rows.jsonl"), "held_out": prompts},
        "output_dir": str(root),
        "iterations": 2,
        "beta": 0.1,
        "learning_rate": 1e-5,
        "control": True,
        **changes,
    }
    run = Run.of(parse_config(content))
    root.mkdir(parents=True)
    tokenizer = byte_level()
    tokenizer.save_pretrained(root / "model")
    run.directory.config_file.write_text(yaml_text(run.config.model_dump()), encoding="utf-8")

    def ids(text):
        return tokenizer(text, add_special_tokens=False).input_ids

    rows = [
        Record(
            10 + n,
            ids(f"prompt {n} {HOSTILE if n == 0 else ''}"),
            [Response("real", ids(f"human {n} {TRICKS if n == 0 else ''}"), "stop")],
        )
        for n in range(prompts)
    ]
    write_records(run.directory.held_out_rows, rows)
    summary = {"source": {"path": "rows.jsonl", "sha256": "ab" * 32}, "rows": 2 * prompts}
    summary |= {"train": prompts, "held_out": prompts, "notes": ["a note on the data"]}
    write_json(run.directory.data_summary, summary)
    manifest = Manifest(run.directory)
    manifest.content["versions"] = {"torch": "2.13.0", "spin-toolkit": "0.1"}
    manifest.complete("data/prepare", [run.directory.held_out_rows], seconds=1.5)

    generator = torch.Generator().manual_seed(3)
    base = (-20 + 5 * torch.randn(prompts, generator=generator)).double()
    for policy in run.listed:
        k = policy.iteration
        if k and not policy.control:
            _sample(run, k - 1, rows, ids)
        values = _values(base, effect[policy.name], rows, generator, judged=k > 0)
        warnings = ["a warning about p_2"] if policy.name == "p_2" else []
        write_json(policy.evaluation, summarise(values) | {"warnings": warnings})
        write_examples(policy.evaluation_by_example, values)
        if answers:
            _answer(policy, rows, ids)
        if k:
            lines = _logged(control=policy.control)
            (policy.evaluation.parent / "metrics.jsonl").write_text("\n".join(lines) + "\n")
            weights = policy / "model.safetensors"
            tokenizer.save_pretrained(weights.parent)
            weights.write_bytes(policy.name.encode())
            stage = f"{policy.evaluation.parent.relative_to(root)}/train"
            manifest.complete(stage, [weights], seconds=60.0 * k)
        if policy.name == upto:
            return run
    last = run.policy(run.config.iterations)
    sampled = [
        replace(row, responses=[_said(ids, f"sample of {last.name} for {n}")])
        for n, row in enumerate(rows)
    ]
    write_records(last.samples_file, sampled)
    return run


def _sample(run, k, rows, ids):
    sampled = [
        Record(
            row.prompt_id,
            row.prompt_ids,
            [
                Response(
                    "generated", ids(f"sample of p_{k} for {n}"), "length" if n == 1 else "stop", k
                )
            ],
        )
        for n, row in enumerate(rows)
    ]
    write_records(run.directory.iteration(k) / "generations" / "held_out-00000.parquet", sampled)


def _said(ids, text):
    return Response("generated", ids(text), "stop", 2)


def _values(base, rise, rows, generator, *, judged):
    noise = 0.05 * torch.randn(len(rows), generator=generator, dtype=torch.float64)
    real = base + rise + (noise if rise else 0)
    values = {
        "loss": (-real).tolist(),
        "real_logps": real.tolist(),
        "real_tokens": [10.0] * len(rows),
        "prompt": list(range(len(rows))),
        "prompt_id": [row.prompt_id for row in rows],
    }
    if judged:
        margin = torch.linspace(-2.0, 3.0, len(rows), dtype=torch.float64) + rise
        values |= {
            "margin": margin.tolist(),
            "real_log_ratio": (0.5 * margin).tolist(),
            "generated_log_ratio": (-0.5 * margin).tolist(),
            "generated_logps": (real - margin).tolist(),
            "generated_tokens": [12.0] * len(rows),
            "generated_stopped": [1.0] * (len(rows) - 1) + [0.0],
        }
    return values


def _answer(policy, rows, ids):
    greedy = [
        Record(
            row.prompt_id,
            row.prompt_ids,
            [Response("greedy", ids(f"greedy of {policy.name} for {n}"), "stop")],
        )
        for n, row in enumerate(rows)
    ]
    write_records(policy.greedy_file, greedy)
    counted = {"prompts": len(rows), "exact_match": 0.25, "notes": []}
    write_json(policy.answers_file, counted | {"exact_match_low": 0.125, "exact_match_high": 0.4})


def _logged(*, control):
    lines = []
    for step in range(5, 30, 5):
        line = {"step": step, "loss": 0.7 - step / 100, "grad_norm": 1.0, "logps/real": -20.0}
        if not control:
            line |= {"rewards/real": step / 50, "rewards/generated": -step / 40}
            line |= {"rewards/accuracy": 0.5 + step / 100}
        lines.append(json.dumps(line))
    return lines
