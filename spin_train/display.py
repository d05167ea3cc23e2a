"""What a run shows in the terminal: a bar a stage, then one table."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from spin_train.artifacts import RunDirectory
from spin_train.config import Config

__all__ = ["evaluations", "results_table", "show_table", "watching"]


@contextmanager
def watching() -> Iterator[Callable[[str, int, int, str], None]]:
    """Show progress on standard error: bars on a terminal, a line a stage elsewhere.

    Yields
    ------
    callable
        Takes stage, done, total and a note.
    """
    if not sys.stderr.isatty():
        last = ""

        def tell(stage: str, done: int, total: int, note: str) -> None:
            nonlocal last
            if stage != last:
                last = stage
                print(f"spin-train: {stage}", file=sys.stderr, flush=True)  # noqa: T201

        yield tell
        return
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("starting workers", total=None, note="")
        current = "starting workers"

        def show(stage: str, done: int, total: int, note: str) -> None:
            nonlocal task, current
            if stage != current:
                size = progress.tasks[-1].total or 1
                progress.update(task, completed=size, total=size)
                task = progress.add_task(stage, total=total, note=note)
                current = stage
            progress.update(task, completed=done, total=total, note=note)

        yield show
        size = progress.tasks[-1].total or 1
        progress.update(task, completed=size, total=size)


def show_table(table: Table) -> None:
    """Print a table on standard output; where that is no terminal, as wide as it needs.

    Parameters
    ----------
    table : rich.table.Table
        What to print.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    console.print(table)


def evaluations(config: Config) -> list[tuple[str, dict[str, Any]]]:
    """Read the evaluations of a finished run.

    Parameters
    ----------
    config : Config
        The run's.

    Returns
    -------
    list of tuple
        Name of the policy and its held-out numbers: p_0, then policy and control by iteration.
    """
    directory = RunDirectory(config.output_dir)
    folders = [("p_0", directory.initial)]
    for k in range(config.iterations):
        folders.append((f"p_{k + 1}", directory.iteration(k)))
        if config.control:
            folders.append((f"control {k + 1}", directory.control(k)))
    return [
        (name, json.loads((folder / "evaluation.json").read_text(encoding="utf-8")))
        for name, folder in folders
        if (folder / "evaluation.json").is_file()  # not where the run stopped early
    ]


def results_table(config: Config) -> Table:
    """Held-out numbers of all policies of a run.

    Parameters
    ----------
    config : Config
        The run's.

    Returns
    -------
    rich.table.Table
        A row a policy; margins and losses are against the opponent of that iteration.
    """
    table = Table(
        "policy",
        "loss",
        "margin (nats)",
        "accuracy",
        "log p(real) (nats)",
        "NLL/token (nats)",
        "opponent's tokens",
        "opponent's stops",
        title=f"{config.algorithm}, held-out prompts (± standard error){_unusual(config)}",
    )
    for name, numbers in evaluations(config):
        played = "margin" in numbers
        table.add_row(
            name,
            f"{numbers['loss']:.4f}" if played else "",
            _with_error(numbers, "margin") if played else "",
            f"{numbers['accuracy']:.3f}" if played else "",
            _with_error(numbers, "real_logps"),
            f"{numbers['real_nll_per_token']:.4f}",
            f"{numbers['generated_tokens']:.1f}" if played else "",
            f"{numbers['generated_stopped']:.3f}" if played else "",
        )
    return table


def _unusual(config: Config) -> str:
    """Name what makes the opponent's samples something else than samples of p_t."""
    temperature = config.generation.temperature
    return "" if temperature == 1.0 else f"; sampled at temperature {temperature:g}, not from p_t"


def _with_error(numbers: dict[str, Any], name: str) -> str:
    return f"{numbers[name]:.3f} ± {numbers[name + '_standard_error']:.3f}"
