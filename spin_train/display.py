"""What a run shows in the terminal: a bar a stage, then tables."""

import math
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

from spin_train.config.schema import Config
from spin_train.run.policies import benchmarks, evaluations, policy_folders
from spin_train.run.status import RunStatus

__all__ = [
    "benchmark_table",
    "duration",
    "results_table",
    "show_table",
    "status_table",
    "watching",
]


_LEGEND = (
    "y: real; y': of the opponent p_t; meter, TV: how far p_t was from the data, an estimate and "
    "what it exceeds\nwith 95 % confidence, 0 proves nothing (docs/metrics.md)"
)


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


def results_table(config: Config) -> Table:
    """Held-out numbers of all policies of a run.

    Parameters
    ----------
    config : Config
        The run's.

    Returns
    -------
    rich.table.Table
        A row a policy, within 140 columns; ``docs/metrics.md`` defines the numbers. Margin, loss,
        KL and meter are against the opponent p_t of that iteration, y' its samples.
    """
    rows = evaluations(config)
    notes = list(dict.fromkeys(note for _, numbers in rows for note in numbers.get("notes", ())))
    table = Table(
        "policy",
        "loss",
        "margin (nats)",
        "accu-\nracy",
        "log p(y) (nats)",
        "log p(y')",
        "NLL/\ntoken",
        "y' to-\nkens",
        "y'\nstops",
        "KL(p_t||p)\n(nats)",
        "meter, and\nat least",
        "TV ≥",
        title=f"{config.algorithm}, held-out prompts (± standard error)",
        caption="\n".join([_LEGEND, *notes]),
    )
    for name, numbers in rows:
        table.add_row(
            name,
            _number(numbers, "loss", 4) if "margin" in numbers else "",
            _with_error(numbers, "margin"),
            _number(numbers, "accuracy", 3),
            _with_error(numbers, "real_logps"),
            _number(numbers, "generated_logps", 2),
            _number(numbers, "real_nll_per_token", 4),
            _number(numbers, "generated_tokens", 1),
            _number(numbers, "generated_stopped", 3),
            _number(numbers, "opponent_kl", 3),
            f"{numbers['meter']:.3f}, {numbers['meter_lower_bound']:.3f}"
            if "meter" in numbers
            else "",
            _number(numbers, "tv_lower_bound", 3),
        )
    return table


def benchmark_table(config: Config) -> Table | None:
    """Results of lm-eval for all policies of a run.

    Parameters
    ----------
    config : Config
        The run's.

    Returns
    -------
    rich.table.Table or None
        A row a policy, a column a task, in per cent, and their mean where all are there; None
        where there are no results.
    """
    found = {name: benchmarks(folder) for name, folder in policy_folders(config)}
    tasks = list(dict.fromkeys(task for results in found.values() for task in results))
    if not tasks:
        return None
    versions = {
        result["lm_eval_version"] for results in found.values() for result in results.values()
    }
    title = f"lm-eval {', '.join(sorted(versions))} (per cent)"
    table = Table("policy", *(task.replace("_", "_\u200b") for task in tasks), "mean", title=title)
    for name, results in found.items():
        values = [results[task]["value"] if task in results else None for task in tasks]
        known = [value for value in values if value is not None]
        mean = sum(known) / len(known) if len(known) == len(tasks) else None
        table.add_row(name, *map(_per_cent, [*values, mean]))
    return table


def status_table(status: RunStatus) -> Table:
    """How far a run is, stage by stage.

    Parameters
    ----------
    status : RunStatus
        From `read_status`.

    Returns
    -------
    rich.table.Table
        A row a stage.
    """
    table = Table("stage", "state", "progress", "time", "time left")
    for stage in status.stages:
        counted = stage.done is not None
        table.add_row(
            stage.name,
            stage.state,
            f"{stage.done}/{stage.total}" if counted else "",
            duration(stage.seconds),
            "" if stage.state == "done" else duration(stage.eta_seconds),
        )
    return table


def duration(seconds: float | None) -> str:
    """Write a time for people.

    Parameters
    ----------
    seconds : float or None
        How long; None where that is not known.

    Returns
    -------
    str
        Such as ``2:05:09``; empty for None.

    Examples
    --------
    >>> duration(7509.4), duration(59.6), duration(None)
    ('2:05:09', '1:00', '')
    """
    if seconds is None:
        return ""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _per_cent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _number(numbers: dict[str, Any], name: str, digits: int) -> str:
    return f"{numbers[name]:.{digits}f}" if name in numbers else ""


def _with_error(numbers: dict[str, Any], name: str) -> str:
    """Write a mean to the second digit of its standard error."""
    if name not in numbers:
        return ""
    error = numbers[f"{name}_standard_error"]
    digits = min(4, max(0, 1 - math.floor(math.log10(error)))) if error > 0 else 3
    return f"{numbers[name]:.{digits}f} ± {error:.{digits}f}"
