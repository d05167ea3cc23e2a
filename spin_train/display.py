"""What a run shows in the terminal or in a notebook: one bar per stage, then tables."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

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
from rich.text import Text

from spin_train.printable import printable
from spin_train.run.run import Run
from spin_train.run.status import RunStatus
from spin_train.run.tables import answers_table, benchmark_table, duration, memory, pace
from spin_train.system.surroundings import quiet

if TYPE_CHECKING:
    from spin_train.report.comparison import Comparison

__all__ = [
    "show_answers",
    "show_comparison",
    "show_results",
    "show_table",
    "speed_table",
    "status_table",
    "watching",
]


@contextmanager
def watching() -> Iterator[Callable[[str, int, int, str], None]]:
    """Show progress on standard error: bars on a terminal or in a notebook, else lines.

    Yields a function that takes stage, done, total and a note.
    """
    console = Console(stderr=True)
    if not (sys.stderr.isatty() or console.is_jupyter):
        last = ""

        def tell(stage: str, done: int, total: int, note: str) -> None:
            nonlocal last
            if stage != last:
                last = stage
                try:
                    print(f"spin-train: {stage}", file=sys.stderr, flush=True)  # noqa: T201
                except BrokenPipeError:  # nobody reads: no reason to stop the run
                    quiet(sys.stderr)

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
    with Progress(*columns, console=console) as progress:
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


class _Console(Console):
    """Loses what nobody reads: the run is done, and its numbers are in files."""

    def on_broken_pipe(self) -> None:
        """Let the run end as it would."""
        quiet(sys.stdout)


def show_table(table: Table) -> None:
    """Print a table on standard output, as wide as it needs where that is not a terminal."""
    console = _Console()
    if not console.is_terminal:
        console = _Console(width=140)
    console.print(table)


def show_results(run: Run, *, wide: bool = False) -> None:
    """Print the tables of a run, its best policy, and a control that is better."""
    for table in (run.table(wide=wide), answers_table(run.listed), benchmark_table(run.listed)):
        if table is not None:
            show_table(table)
    best, better, metric = run.best, run.better_control, run.config.selection.metric
    if best is not None:
        place = "removed by keep" if run.has_removed(best.policy) else best.policy.source
        _say(f"best by {metric}: {best.name} ({best.value:.4g}), {place}")
    if best is not None and better is not None:
        place = "removed by keep" if run.has_removed(better.policy) else better.policy.source
        _say(
            f"{better.name} is better ({better.value:.4g}), {place}: continued SFT "
            f"on the same rows, for as many steps, did more for {metric} than self-play"
        )


def _say(line: str) -> None:
    print(line)  # noqa: T201


def show_answers(answers: Sequence[Mapping[str, Any]]) -> None:
    """Print prompts with the human response and each policy's, as text that marks nothing up."""
    console = Console(highlight=False)

    def show(name: str, text: str, style: str = "") -> None:
        shown = printable(text).replace("\n", "\n" + " " * 9)
        console.print(Text(f"{name:<8} ", style="bold").append(shown, style=style))

    for answer in answers:
        console.rule(f"prompt {answer['prompt_id']}")
        show("prompt", answer["prompt"])
        for human in answer["human"]:
            show("human", human, "green")
        for name, of_policy in answer["answers"].items():
            for one in of_policy:
                show(name, _marked(one))
        for name, one in answer["greedy"].items():
            show(f"{name}, greedy", _marked(one))


def _marked(answer: Mapping[str, Any]) -> str:
    """Text of an answer; one that did not end by itself says so."""
    cut = "" if answer["finish_reason"] == "stop" else " [cut at max_new_tokens]"
    return (answer["response"] or "(nothing)") + cut


def show_comparison(found: "Comparison", *, wide: bool = False) -> None:
    """Print runs side by side, with what speaks against comparing them first."""
    from spin_train.report import comparison_tables as tables

    show_table(tables.as_text(tables.run_table(found), "Runs"))
    for doubt in found.doubts:
        _say(f"! {doubt}")
    differing = tables.differing_table(found)
    if differing.rows:
        show_table(tables.as_text(differing, "Keys that differ"))
    else:
        _say("Nothing differs in the configurations but where the runs lie.")
    if wide:
        show_table(tables.as_text(tables.wide_numbers(found), "Held-out numbers", wide=True))
    else:
        for title, table in tables.number_tables(found).items():
            show_table(tables.as_text(table, title))
    for verdict in found.verdicts:
        _say(verdict)
    _say("In brackets: 95 % intervals over prompts; they say nothing about other seeds.")


def status_table(status: RunStatus) -> Table:
    """Show how far a run is, one row per stage."""
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


def speed_table(status: RunStatus) -> Table | None:
    """Show how fast stages were and how much memory they took; None before any was measured."""
    table = Table("stage", "tokens/s", "peak memory of a rank")
    for stage in status.stages:
        if stage.peak_memory is not None:
            speed = pace(stage.tokens_per_second)
            table.add_row(stage.name, speed, memory(stage.peak_memory, stage.device_memory))
    return table if table.rows else None
