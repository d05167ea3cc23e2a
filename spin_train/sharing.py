"""Commands that give what a run made to other programs: its pairs, its policies."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from spin_train.looking import path_of

__all__ = ["add_commands"]


class _Form(StrEnum):
    SPIN = "spin"
    TRL = "trl"


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the command line, in this order."""
    app.command()(export)


def export(
    run_dir: Annotated[
        Path, typer.Argument(parser=path_of, help="Directory of a run (its output_dir).")
    ],
    form: Annotated[
        _Form,
        typer.Option("--as", help="spin: for uclaml/SPIN. trl: for TRL's DPOTrainer."),
    ],
    to: Annotated[Path, typer.Option(parser=path_of, help="Directory to write; a new one.")],
    iteration: Annotated[
        int | None,
        typer.Option(min=0, help="Iteration whose pairs to write; default: the last one scored."),
    ] = None,
) -> None:
    """Write the pairs of an iteration as text, in the form that another program reads.

    train.parquet holds the pairs that the iteration trains on, and test.parquet
    the held-out ones; `datasets.load_dataset(DIR)` finds both. What the form
    cannot carry is counted and named. The same files come back with
    `data.path=DIR/train.parquet generation.engine=given iterations=1`.
    """
    from spin_train.report.export import WORDS
    from spin_train.report.export import export as write
    from spin_train.run.run import Run

    found = write(Run.open(run_dir), form.value, to, iteration=iteration)
    for split, pairs in found.pairs.items():
        file = f"{found.folder}/{split}.parquet" if pairs else f"no {split}.parquet"
        print(f"{file}: {pairs} pairs of iteration {found.iteration}")
    for name, count in found.counts.items():
        print(f"{count} {WORDS[name]}")
