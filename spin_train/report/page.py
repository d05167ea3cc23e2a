"""One self-contained page about a run: what was done, what came out, what the policies answer."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spin_train.config.schema import Config
from spin_train.config.yaml12 import yaml_text
from spin_train.errors import UserError
from spin_train.report.cautions import cautions_of
from spin_train.report.estimates import CONFIDENCE, margins_by_prompt
from spin_train.report.figures import require_matplotlib
from spin_train.report.pictures import by_iteration, while_training
from spin_train.report.tables import (
    benchmark_rows,
    main_table,
    provenance,
    stage_table,
    wide_table,
)
from spin_train.report.templates import fill
from spin_train.report.wording import summarise_run
from spin_train.run.frames import prompts_with_samples
from spin_train.run.run import Run
from spin_train.system.files import read_object, write_atomically

__all__ = ["render", "write_report"]


def write_report(run: Run, out: Path | None = None, *, prompts: int = 500) -> Path:
    """Write the page about a run, finished or not; returns where it lies.

    `prompts` is how many held-out prompts it shows with their responses.
    """
    require_matplotlib()
    path = out or run.root / "report.html"
    if path.is_dir():
        raise UserError(f"--out {path} is a directory; name a file")
    text = render(run, prompts=prompts)
    with write_atomically(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def render(run: Run, *, prompts: int = 500) -> str:
    """Make the page as HTML."""
    shown, of, why_not = _responses(run, prompts)
    judges = list(dict.fromkeys(name for item in shown for name in item.margins))
    played = [policy.name for policy in run.listed if not policy.control]
    return fill(
        "report.html.jinja",
        script="report.js",
        title=run.root.resolve().name if run.root.name in ("", ".", "run") else run.root.name,
        folder=str(run.root),
        facts=_facts(run),
        summary=summarise_run(run),
        confidence=f"{CONFIDENCE:.0%}".replace("%", " %"),
        cautions=cautions_of(run),
        held_out=by_iteration(run),
        training=while_training(run),
        numbers=main_table(run),
        benchmarks=benchmark_rows(run),
        all_numbers=wide_table(run),
        responses=shown,
        prompts=of,
        why_not=why_not,
        judges=judges,
        judge=next((name for name in reversed(played) if name in judges), ""),
        provenance=provenance(run),
        stages=stage_table(run),
        config=yaml_text(run.config.model_dump()),
        branched=run.manifest().content.get("branched_from"),
        written=time.strftime("%Y-%m-%d %H:%M"),
    )


def _facts(run: Run) -> dict[str, str]:
    """Say in a few words what was run."""
    config = run.config
    facts = {"method": config.algorithm.upper().replace("TSPIN", "T-SPIN"), "model": config.model}
    if config.algorithm != "space":
        facts["beta"] = _schedule(config, "beta")
    facts["learning rate"] = _schedule(config, "learning_rate")
    facts["iterations"] = f"{config.iterations}"
    if run.directory.data_summary.is_file():
        summary = read_object(run.directory.data_summary)
        facts["training rows"] = f"{summary['train']:,}"
        facts["held-out rows"] = f"{summary['held_out']:,}"
    facts["control"] = "continued SFT" if config.control else "none"
    facts["seed"] = str(config.seed)
    return facts


def _schedule(config: Config, name: str) -> str:
    values = [f"{config.at(name, k):g}" for k in range(config.iterations)]
    return values[0] if len(set(values)) < 2 else ", ".join(values)


@dataclass(frozen=True)
class _Answer:
    who: str
    text: str
    cut: bool
    greedy: bool = False


@dataclass(frozen=True)
class _Item:
    """A prompt with all that was answered."""

    number: int
    prompt: str
    human: list[str]
    answers: list[_Answer]
    margins: dict[str, float]


def _responses(run: Run, most: int) -> tuple[list[_Item], int, str]:
    """List held-out prompts with every policy's answers; how many there are; why there are none."""
    try:
        found = prompts_with_samples(run.config, run.directory, split="held_out")
    except UserError as error:
        return [], 0, str(error)
    margins = {policy.name: margins_by_prompt(policy) for policy in run.listed}
    items = [
        _Item(
            one["prompt_id"],
            one["prompt"],
            one["human"],
            [_answer(who, a) for who, answers in one["answers"].items() for a in answers]
            + [_answer(who, a, greedy=True) for who, a in one["greedy"].items()],
            {
                who: of[one["prompt_id"]]
                for who, of in margins.items()
                if math.isfinite(of.get(one["prompt_id"], math.nan))
            },
        )
        for one in found[:most]
    ]
    return items, len(found), ""


def _answer(who: str, said: dict[str, Any], *, greedy: bool = False) -> _Answer:
    return _Answer(who, said["response"], said["finish_reason"] != "stop", greedy)
