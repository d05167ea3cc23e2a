"""Commands that give what a run made to other programs: its pairs, its policies."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from spin_train.looking import path_of
from spin_train.printable import printable

__all__ = ["add_commands"]


class _Form(StrEnum):
    SPIN = "spin"
    TRL = "trl"


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the command line, in this order."""
    for command in (export, push):
        app.command()(command)


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


def push(
    run_dir: Annotated[
        Path, typer.Argument(parser=path_of, help="Directory of a run (its output_dir).")
    ],
    to: Annotated[str, typer.Option(help="OWNER/NAME of the repository; a new one is made.")],
    policy: Annotated[
        str, typer.Option(help="2 or p_2, 'control 2', or best: by selection.metric.")
    ] = "best",
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private; refuse a public one.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be sent; needs no token.")
    ] = False,
) -> None:
    """Send a policy with its model card to the Hugging Face hub.

    The token is that of `hf auth login` or HF_TOKEN; HF_ENDPOINT names another
    hub. What is sent are the files that the run recorded for this policy, and
    README.md. Read that card before: it names the model and the data by the
    paths or names that the run had for them.
    """
    from spin_train.report import push as sending
    from spin_train.run.run import Run

    run = Run.open(run_dir)
    parcel = sending.pack(run, sending.named_policy(run, policy), to)
    kind = "a private" if private else "a public"
    print(f"{parcel.policy.name} to {parcel.endpoint}/{to}, {kind} repository if it is new:")
    for name, size in parcel.files.items():
        print(f"  {size:>13,} {name}")
    if parcel.kept_back:
        print(f"not of the run, so not sent: {', '.join(parcel.kept_back)}")
    if dry_run:
        print("dry run: nothing was sent. The card:")
        print(printable(parcel.card))
        return
    print(f"sent: {sending.push(parcel, private=private)}")
