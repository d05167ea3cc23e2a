"""The memory of real runs against what `spin-train plan` says of them.

``python -m benchmarks.plan --write`` trains Llamas of three sizes for two steps each, on one and
two ranks, under ZeRO 0, 2 and 3, with both optimisers, and watches the resident memory of the
workers and the size of the run's directory. The table goes into docs/plan.md next to the plan's
numbers. What was measured is kept in ``--out``, and a run that is there is not done again. A run
takes half a minute on two quiet cores; ``--only 17M-3`` chooses by the beginning of the name.

``--gpus --write`` measures nothing: it writes the plans of 7B, 13B and 70B models on known GPUs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.pages import DOCS, write_between
from spin_train.config.files import parse_config
from spin_train.config.yaml12 import yaml_text
from spin_train.languages import build_tokenizer
from spin_train.plan.devices import DEVICES, GIB, device_named
from spin_train.plan.disk import checkpoint_bytes
from spin_train.plan.memory import model_of, program
from spin_train.plan.plan import make_plan

SIZES = {"17M": (384, 6, 1024), "40M": (640, 6, 1728), "92M": (896, 8, 2432)}
"""Width, layers and inner width, by roughly the number of parameters."""
OPTIMISERS = ("rmsprop", "adamw_torch")
ZERO = (0, 2, 3)
RANKS = (1, 2)
LARGE = {
    "7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32},
    "13B": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40},
    "70B": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80},
}
"""Llama 2's shapes."""
LARGE["7B"] |= {"num_attention_heads": 32, "num_key_value_heads": 32}
LARGE["13B"] |= {"num_attention_heads": 40, "num_key_value_heads": 40}
LARGE["70B"] |= {"num_attention_heads": 64, "num_key_value_heads": 8}
_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
MIB = 2**20
PAGE = DOCS / "plan.md"
SYMBOLS = "abcdefgh"
_LOOK_SECONDS = 0.01


@dataclass(frozen=True)
class Case:
    """One run."""

    size: str
    zero: int
    ranks: int
    optim: str
    dtype: str = "float32"
    until: str = "sft/train"
    shared: bool = False
    """Whether policies are shared out (`sharded_inference`) as they sample and score."""

    @property
    def name(self) -> str:
        """Name of its result."""
        whole = "" if self.until == "sft/train" else "-shared" if self.shared else "-whole"
        return f"{self.size}-{self.zero}-{self.ranks}-{self.optim}-{self.dtype}{whole}"


CASES = [
    *(Case(s, z, r, o) for s, z, r, o in product(SIZES, ZERO, RANKS, OPTIMISERS)),
    *(Case("40M", z, r, o, "bfloat16") for z, r, o in product(ZERO, RANKS, OPTIMISERS)),
    Case("40M", 2, 1, "rmsprop", until="iter0/evaluate"),
    Case("40M", 3, 2, "rmsprop", until="iter0/evaluate"),
    *(Case("92M", 2, 2, "rmsprop", until="iter0/evaluate", shared=each) for each in (False, True)),
]


def make(size: str, folder: Path) -> None:
    """Write a model of random weights, and rows to train on."""
    if (folder / "rows.jsonl").exists():
        return
    width, layers, inner = SIZES[size]
    build_tokenizer(SYMBOLS).save_pretrained(folder / "model")
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8000,
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            num_key_value_heads=width // 64,
            max_position_embeddings=1024,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=None,
        )
    ).save_pretrained(folder / "model")
    generator = torch.Generator().manual_seed(1)
    lines = []
    for _ in range(40):
        picks = torch.randint(len(SYMBOLS), (100,), generator=generator).tolist()
        prompt = "".join(SYMBOLS[i] for i in picks)
        lines.append(json.dumps({"prompt": prompt, "response": "".join(sorted(prompt))}))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")


def config_of(case: Case, folder: Path) -> dict[str, Any]:
    """Write down the configuration of a run."""
    return {
        "model": str(folder / "model"),
        "template": "{prompt}>",
        "data": {"path": str(folder / "rows.jsonl"), "held_out": 8},
        "output_dir": str(folder / case.name),
        "iterations": 1,
        "epochs": 0.25,
        "learning_rate": 1e-4,
        "sft": {"epochs": 0.25, "learning_rate": 1e-4},
        "generation": {"max_new_tokens": 32, "batch_size": 8},
        "training": {
            "batch_size": 4,
            "micro_batch_tokens": 512,
            "optim": case.optim,
            "dtype": case.dtype,
            "save_steps": 1,
            "warmup_steps": 0,
        },
        "evaluation": {"samples": False},
        "zero_stage": case.zero,
        "ranks": case.ranks,
        "sharded_inference": case.shared,
    }


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """Do a run, and give the largest resident memory of a worker by stage, and of the disk."""
    make(case.size, folder)
    config = folder / f"{case.name}.yaml"
    config.write_text(yaml_text(config_of(case, folder)))
    out = folder / case.name
    command = [sys.executable, "-m", "spin_train", "run", str(config), "--until", case.until]
    peaks: dict[str, float] = {}
    disk = 0
    started = time.monotonic()
    with (folder / f"{case.name}.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        looked = 0.0
        while process.poll() is None:
            stage = _stage(out)
            for worker in _workers(process.pid):
                peaks[stage] = max(peaks.get(stage, 0.0), _resident(worker))
            if time.monotonic() - looked > 0.1:
                disk, looked = max(disk, _bytes_in(out)), time.monotonic()
            time.sleep(_LOOK_SECONDS)
    if process.returncode:
        sys.exit((folder / f"{case.name}.txt").read_text()[-2000:])
    seconds = time.monotonic() - started
    subprocess.run(["rm", "-rf", str(out)], check=True)
    return {"peaks": peaks, "disk": disk, "seconds": seconds}


def _stage(out: Path) -> str:
    try:
        return str(json.loads((out / ".progress.json").read_text())["stages"][-1])
    except (OSError, ValueError, LookupError):
        return "start"


def _workers(driver: int) -> Iterator[int]:
    """Find the workers among the processes that descend from a driver."""
    waiting = [driver]
    while waiting:
        parent = waiting.pop()
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            waiting.append(child)
            try:
                words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
            except OSError:
                continue
            if "spin_train.driver.worker" in words and "deepspeed.launcher.launch" not in words:
                yield child


def _resident(process: int) -> float:
    """Resident memory of a process without shared memory, bytes."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    fields = dict(line.split(":", 1) for line in lines)
    kinds = ("RssAnon", "RssFile")
    return sum(float(fields[kind].split()[0]) * 1024 for kind in kinds if kind in fields)


def _bytes_in(folder: Path) -> int:
    total = 0
    for where, _, names in os.walk(folder):  # which passes over folders that are gone
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(where, name)).st_size
    return total


def compared(case: Case, found: dict[str, Any], folder: Path) -> Iterator[list[str]]:
    """Give a row of the table for each kind of stage of a run: plan, measured, difference."""
    config = parse_config({**config_of(case, folder), "output_dir": str(folder / "nothing")})
    plan = make_plan(config, device_named("cpu"), advise=False)
    model = model_of(config, device="cpu")
    saved = checkpoint_bytes(model.weights, model.optimiser, zero_stage=case.zero)
    (base,) = program(device="cpu", ranks=case.ranks).values()
    for stage in plan.memory:
        name = {"generate": "iter0/generate", "score": "iter0/score"}.get(stage.stage, stage.stage)
        if name not in found["peaks"]:
            continue
        real = found["peaks"][name]
        of_model = (stage.total - base) / (real - base) - 1
        yield [
            case.size,
            str(case.zero),
            str(case.ranks),
            "AdamW" if "adam" in case.optim else "RMSprop",
            case.dtype,
            f"{name}, shared out" if case.shared and stage.stage == name[6:] else name,
            f"{stage.total / MIB:,.0f}",
            f"{real / MIB:,.0f}",
            f"{100 * (stage.total / real - 1):+.1f}",
            f"{100 * of_model:+.0f}",
            f"{2 * saved / MIB:,.0f}" if name == case.until else "",
            f"{found['disk'] / MIB:,.0f}" if name == case.until else "",
        ]


def measured_table(out: Path) -> str:
    """Compare all that was measured with its plan, as Markdown."""
    head = ["model", "ZeRO", "ranks", "optimiser", "type", "stage"]
    head += ["plan, MiB", "measured", "off by, %", "without the program, %"]
    head += ["two checkpoints, MiB", "disk measured"]
    rows = []
    for case in CASES:
        file = out / "results" / f"{case.name}.json"
        if file.exists():
            make(case.size, out / case.size)
            rows += list(compared(case, json.loads(file.read_text()), out / case.size))
    off = [abs(float(row[8])) for row in rows]
    met = sum(each <= 15 for each in off)
    line = (
        f"{met} of {len(rows)} peaks are within 15 %. The worst is off by {max(off):.1f} %, half "
        f"of them by at most {statistics.median(off):.1f} %."
    )
    return f"{line}\n\n{_markdown(head, rows)}"


def gpu_table(folder: Path) -> str:
    """Plan 7B, 13B and 70B models for known GPUs, as Markdown; nothing is measured."""
    head = ["model", "devices", "train, RMSprop", "train, AdamW", "generate", "score", "trains on"]
    rows = []
    for name, shape in LARGE.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(_LLAMA | shape))
        for ranks in (1, 2, 4, 8, 16, 32, 64):
            plans = [
                make_plan(
                    parse_config(
                        {
                            "model": str(folder / name),
                            "data": {"path": "rows"},
                            "output_dir": str(folder / "run"),
                            "training": {
                                "dtype": "bfloat16",
                                "optim": optim,
                                "gradient_checkpointing": True,
                            },
                            "zero_stage": 3,
                            "ranks": ranks,
                            "iterations": 1,
                        }
                    ),
                    DEVICES["B200"],
                    rows=400,
                    here=False,
                    advise=False,
                )
                for optim in OPTIMISERS
            ]
            totals = [{stage.stage: stage.total for stage in plan.memory} for plan in plans]
            train = max(total["iter0/train"] for total in totals)
            fits = [device for device in DEVICES.values() if device.memory >= train]
            least = min((device.memory for device in fits), default=None)
            rows.append(
                [
                    name,
                    str(ranks),
                    *(f"{total['iter0/train'] / GIB:.1f}" for total in totals),
                    *(f"{totals[0][stage] / GIB:.1f}" for stage in ("generate", "score")),
                    ", ".join(device.name for device in fits if device.memory == least) or "none",
                ]
            )
    return _markdown(head, rows)


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.name}")
    parser.add_argument("--gpus", action="store_true", help="plan for GPUs; measure nothing")
    parser.add_argument("--tables", action="store_true", help="measure nothing more")
    parser.add_argument("--out", type=Path, default=Path("runs/plan"), help="folder of results")
    parser.add_argument("--only", default="", help="beginning of the names of runs")
    arguments = parser.parse_args()
    results = arguments.out / "results"
    results.mkdir(parents=True, exist_ok=True)
    if arguments.gpus:
        _show("plan: gpus", gpu_table(arguments.out), write=arguments.write)
        return
    exact = arguments.only in [case.name for case in CASES]
    for case in CASES:
        file = results / f"{case.name}.json"
        chosen = case.name == arguments.only or (not exact and case.name.startswith(arguments.only))
        if arguments.tables or not chosen or file.exists():
            continue
        measured = measure(case, arguments.out / case.size)
        file.write_text(json.dumps(measured, indent=2) + "\n")
        print(case.name, {k: round(v / 2**20) for k, v in measured["peaks"].items()}, flush=True)
    _show("plan: measured", measured_table(arguments.out), write=arguments.write)


def _show(name: str, text: str, *, write: bool) -> None:
    print(text)
    if write:
        write_between(PAGE, name, text)


if __name__ == "__main__":
    main()
