"""One small real run of each kind: what its data look like, its keys, and what comes out.

``python -m benchmarks.recipes tspin --data FOLDER`` plays one of them on the Llama of 260,032
parameters in ``FOLDER/stories260K`` and prints its table; ``all`` plays all, and ``--write`` puts
the tables into docs/recipes.md. The model is far too small to solve anything: what a table shows is
that the kind of run works end to end, and what its numbers look like.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from benchmarks.pages import DOCS, write_between
from benchmarks.stories import markdown_table, story_rows
from spin_train.api import Run, run
from spin_train.data.records import read_records
from spin_train.system.files import read_json

ROOT = Path(__file__).parents[1]

COMMON: dict[str, Any] = {
    "seed": 1,
    "iterations": 2,
    "beta": 0.1,
    "learning_rate": 2e-5,
    "epochs": 1,
    "sft": {"epochs": 1, "learning_rate": 3e-4},
    "generation": {"max_new_tokens": 96, "batch_size": 64},
    "training": {"batch_size": 16},
    "zero_stage": 2,
    "ranks": 2,
}
DATA: dict[str, Any] = {
    "held_out": 100,
    "rows": 300,
    "max_prompt_tokens": 256,
    "max_response_tokens": 256,
    "too_long": "drop",
}


def stories(source: Path, out: Path) -> dict[str, Any]:
    """Rows of the first two sentences of a story and the next two.

    Parameters
    ----------
    source, out : Path
        Where data are, and where rows go.

    Returns
    -------
    dict
        Keys of a run on them.
    """
    texts = read_json(source / "tinystories" / "tinystories_1000.json")
    path = out / "stories.jsonl"
    path.write_text("\n".join(map(json.dumps, story_rows(texts))) + "\n", encoding="utf-8")
    return {"template": "{prompt}", "data": {**DATA, "path": str(path)}}


def official(source: Path, out: Path) -> dict[str, Any]:
    """Pairs in the shape of the official SPIN sets, trained on as they are.

    Parameters
    ----------
    source, out : Path
        Where data are, and where rows go.

    Returns
    -------
    dict
        Keys of the run.

    Notes
    -----
    The pairs are made first, as the official scripts do: p_0 answers the prompts.
    """
    keys = {**stories(source, out), "iterations": 1}
    played = run({**_base(source, out / "opponent"), **keys})
    directory = played.directory
    tokenizer = AutoTokenizer.from_pretrained(played.policies["p_1"])
    path = out / "official.jsonl"
    rows = []
    for shard in sorted((directory.iteration(0) / "scored").glob("*.parquet")):
        for record in read_records(shard):
            prompt: Any = tokenizer.decode(record.prompt_ids, skip_special_tokens=True)
            answers: dict[str, Any] = {
                name: tokenizer.decode(record.of_role(name)[0].ids, skip_special_tokens=True)
                for name in ("real", "generated")
            }
            if all(answer.strip() for answer in answers.values()):
                rows.append({name: _pair(prompt, answer) for name, answer in answers.items()})
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return {
        **keys,
        "model": str(directory.sft / "policy"),
        "sft": None,
        "data": {**DATA, "path": str(path)},
        "generation": {**COMMON["generation"], "engine": "given"},
    }


def tspin(source: Path, out: Path) -> dict[str, Any]:
    """T-SPIN with the published alpha and history weight.

    Parameters
    ----------
    source, out : Path
        Where data are, and where rows go.

    Returns
    -------
    dict
        Keys of the run.
    """
    return {**stories(source, out), "algorithm": "tspin", "beta": 1.0, "iterations": 3}


def lora(source: Path, out: Path) -> dict[str, Any]:
    """Train LoRA adapters, stacked over the iterations.

    Parameters
    ----------
    source, out : Path
        Where data are, and where rows go.

    Returns
    -------
    dict
        Keys of the run.
    """
    adapter = {"rank": 8, "alpha": 16, "between": "stack"}
    rates = {"learning_rate": 3e-4, "sft": {"epochs": 1, "learning_rate": 3e-3}}
    return {**stories(source, out), "adapter": adapter, **rates}


def multi_turn(source: Path, _: Path) -> dict[str, Any]:
    """Take the last answer of ShareGPT conversations.

    Parameters
    ----------
    source : Path
        Where data are.
    _ : Path
        Not needed.

    Returns
    -------
    dict
        Keys of the run.
    """
    path = source / "multi_turn" / "dummy_conversation.json"
    return {
        "template": "zephyr",
        "data": {**DATA, "path": str(path), "held_out": 40, "malformed": "drop"},
    }


def gsm8k(source: Path, _: Path) -> dict[str, Any]:
    """Answer the questions of GSM8K.

    Parameters
    ----------
    source : Path
        Where data are.
    _ : Path
        Not needed.

    Returns
    -------
    dict
        Keys of the run.
    """
    path = source / "gsm8k" / "train.jsonl"
    return {"template": "tspin", "data": {**DATA, "path": str(path)}}


RECIPES: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "official": official,
    "tspin": tspin,
    "lora": lora,
    "multi-turn": multi_turn,
    "gsm8k": gsm8k,
}


def play(name: str, source: Path, out: Path) -> str:
    """Play a recipe.

    Parameters
    ----------
    name : str
        One of `RECIPES`.
    source : Path
        Folder with the model and the data.
    out : Path
        Where rows and runs go.

    Returns
    -------
    str
        Markdown: how long it took, on what, and the table.
    """
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    keys = RECIPES[name](source, folder)
    started = time.monotonic()
    played = run({**_base(source, folder / "run"), **keys})
    return _report(played, time.monotonic() - started)


def _base(source: Path, out: Path) -> dict[str, Any]:
    return {"model": str(source / "stories260K"), "output_dir": str(out), **COMMON}


def _pair(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _report(played: Run, seconds: float) -> str:
    directory = played.directory
    summary = read_json(directory.data_summary)
    counts = ", ".join(
        f"{summary[key]} {name}"
        for key, name in (
            ("rows", "rows read"),
            ("dropped_malformed", "malformed"),
            ("dropped_too_long", "too long"),
            ("train", "to train on"),
            ("held_out", "held out"),
        )
        if summary.get(key)
    )
    return f"{counts}; {seconds:.0f} s on two cores.\n\n{markdown_table(played)}"


def _chosen(name: str) -> Iterator[str]:
    yield from RECIPES if name == "all" else [name]


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("recipe", choices=[*RECIPES, "all"])
    default = os.environ.get("SPIN_DATA", str(ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default), help="model and data")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"), help="of the runs")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/recipes.md")
    arguments = parser.parse_args()
    for name in _chosen(arguments.recipe):
        text = play(name, arguments.data, arguments.out)
        print(f"{name}: {text}\n")
        if arguments.write:
            write_between(DOCS / "recipes.md", name, text)


if __name__ == "__main__":
    main()
