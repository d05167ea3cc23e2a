"""SPIN on a real pretrained model: two sentences of a story in, the next two out, then stop.

``python -m benchmarks.stories --data FOLDER`` makes the rows, runs `spin-train run` on the config
it writes, prints the table of held-out numbers, and with ``--write`` puts it into docs/recipes.md.
FOLDER holds ``stories260K/`` (a Llama of 260,032 parameters, by karpathy/tinyllamas) and
``tinystories/tinystories_1000.json`` (a list of TinyStories texts).
"""

import argparse
import json
import os
import re
import time
from pathlib import Path
from typing import Any

from benchmarks.pages import DOCS, write_between
from spin_train.config.files import parse_config
from spin_train.config.schema import Config
from spin_train.config.yaml12 import yaml_text
from spin_train.display import watching
from spin_train.driver import selfplay
from spin_train.run.run import Run
from spin_train.system.files import read_json

ROOT = Path(__file__).parents[1]
SETTINGS = {
    # The model has no chat template; a response begins with the space after its prompt.
    "template": "{prompt}",
    "data": {"held_out": 150, "max_response_tokens": 160, "too_long": "drop"},
    "seed": 1,
    "iterations": 2,
    # beta, epochs, mixing and optimiser as published; learning rates for so small a model.
    "beta": 0.1,
    "learning_rate": 2e-5,
    "epochs": 2,
    "mixing": 1,
    "sft": {"epochs": 2, "learning_rate": 3e-4},
    "control": True,
    "generation": {"max_new_tokens": 160, "batch_size": 64},
    "training": {"batch_size": 16},
    "zero_stage": 2,
    "ranks": 2,
}
_SENTENCE_END = re.compile(r"(?:(?<=[.!?])|(?<=[.!?]\"))\s+(?=[A-Z\"])")


def story_rows(stories: list[str]) -> list[dict[str, str]]:
    """Rows of first two sentences and next two, from stories that are plain ASCII.

    Parameters
    ----------
    stories : list of str
        Whole stories.

    Returns
    -------
    list of dict
        ``prompt`` and ``response``; stories of fewer than four sentences give none.
    """
    rows = []
    for story in stories:
        sentences = _SENTENCE_END.split(" ".join(story.split()))
        if story.isascii() and len(sentences) >= 4:
            prompt, response = " ".join(sentences[:2]), " ".join(sentences[2:4])
            rows.append({"prompt": prompt, "response": f" {response}"})
    return rows


def write_run(source: Path, out: Path, *, rows: int | None = None, **changes: Any) -> Config:
    """Write rows and config of the run.

    Parameters
    ----------
    source : Path
        Folder with the model and the stories.
    out : Path
        Where rows, config and run go.
    rows : int, optional
        Take only the first so many.
    **changes
        Top-level keys of the config to change.

    Returns
    -------
    Config
        As saved in ``stories.yaml``.
    """
    out.mkdir(parents=True, exist_ok=True)
    stories = read_json(source / "tinystories" / "tinystories_1000.json")
    lines = [json.dumps(row) for row in story_rows(stories)[:rows]]
    (out / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    content = {
        "model": str(source / "stories260K"),
        "output_dir": str(out / "run"),
        **SETTINGS,
        **changes,
    }
    content["data"] = {"path": str(out / "rows.jsonl"), **content["data"]}
    (out / "stories.yaml").write_text(yaml_text(content), encoding="utf-8")
    return parse_config(content)


def markdown_table(run: Run) -> str:
    """Format the held-out numbers of a finished run.

    Parameters
    ----------
    run : Run
        Finished.

    Returns
    -------
    str
        A Markdown table with one row per policy.
    """
    lines = [
        "| policy | log p(real), nats | NLL per token, nats | margin, nats | held-out loss |",
        "|---|---|---|---|---|",
    ]
    for name, numbers in run.evaluations.items():
        real = f"{numbers['real_logps']:.2f} ± {numbers['real_logps_standard_error']:.2f}"
        cells = [name, real, f"{numbers['real_nll_per_token']:.4f}", "", ""]
        if "margin" in numbers:
            cells[3] = f"{numbers['margin']:.2f} ± {numbers['margin_standard_error']:.2f}"
            cells[4] = f"{numbers['loss']:.4f}"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    default = os.environ.get("SPIN_DATA", str(ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default), help="model and stories")
    parser.add_argument("--out", type=Path, default=Path("runs/stories"), help="of this run")
    parser.add_argument("--write", action="store_true", help="put the table into docs/recipes.md")
    arguments = parser.parse_args()
    run = Run.of(write_run(arguments.data, arguments.out))
    started = time.monotonic()
    with watching() as watch:
        selfplay.play(run, watch=watch)
    seconds = time.monotonic() - started
    summary = read_json(run.directory.data_summary)
    text = (
        f"{summary['train']} prompts to train on, {summary['held_out']} held out; "
        f"{seconds:.0f} s on {len(os.sched_getaffinity(0))} cores, {run.config.ranks} ranks, "
        f"ZeRO-{run.config.zero_stage}.\n\n{markdown_table(run)}"
    )
    print(text)
    if arguments.write:
        write_between(DOCS / "recipes.md", "stories", text)


if __name__ == "__main__":
    main()
