"""The papers' average scores by iteration, redrawn from the reported numbers, next to own runs.

SPIN's Figure 2 and its MT-Bench scores (arXiv:2401.01335v3), and T-SPIN's averages over ten tasks
(arXiv:2601.08198v1). `--run DIR` adds what a run of `spin-train` has: the mean of its benchmarks,
exact match, or the NLL of held-out responses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, TEXT_WIDTH, VERMILION, style

__all__ = ["Line", "Numbers", "compute", "draw"]

COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE)
MARKERS = "osD^v"


@dataclass(frozen=True)
class Line:
    """Values by policy p_0, p_1, ...: p_0 is the start, p_K what iteration K - 1 made."""

    name: str
    values: dict[int, float]


@dataclass(frozen=True)
class Numbers:
    """What is drawn: lines in panels, by what they measure."""

    reported: dict[str, tuple[Line, ...]]
    levels: dict[str, dict[str, float]]
    """By panel: other policies, as horizontal lines."""
    runs: dict[str, tuple[Line, ...]]


SPIN_LEADERBOARD = (58.14, 60.80, 62.12, 62.97, 63.16)
ONE_MORE_SFT_EPOCH = 57.23
SPIN_MT_BENCH = (5.94, 6.46, 6.65, 6.78)
TSPIN_TASKS = {
    "SPIN": (38.56, 40.07, 39.84, 41.14, 40.92, 40.62),
    "T-SPIN": (38.56, 39.75, 42.56, 42.79, 43.23, 43.47),
    "without history": (38.56, 39.75, 39.45, 41.63, 41.64, 41.79),
}
"""Zephyr-7B; the first is where all start."""
TSPIN_SFT = {"SFT, 200k rows": 42.01, "SFT, 50k rows": 40.65}


def compute(*, runs: Sequence[Path] = ()) -> Numbers:
    """Collect the reported numbers and those of runs.

    Parameters
    ----------
    runs : sequence of Path
        Directories of runs, finished or not.

    Returns
    -------
    Numbers
        Scores in per cent (MT-Bench: of 10), NLL in nats per token.
    """
    found: dict[str, list[Line]] = {}
    for directory in runs:
        for measure, line in _measured(directory):
            found.setdefault(measure, []).append(line)
    leaderboard, mt_bench, tasks = (
        "(a)  SPIN: leaderboard [%]",
        "(b)  SPIN: MT-Bench [of 10]",
        "(c)  T-SPIN: ten tasks [%]",
    )
    return Numbers(
        reported={
            leaderboard: (_line("SPIN", SPIN_LEADERBOARD),),
            mt_bench: (_line("SPIN", SPIN_MT_BENCH),),
            tasks: tuple(_line(name, values) for name, values in TSPIN_TASKS.items()),
        },
        levels={leaderboard: {"one more SFT epoch": ONE_MORE_SFT_EPOCH}, tasks: TSPIN_SFT},
        runs={measure: tuple(lines) for measure, lines in found.items()},
    )


def _line(name: str, values: Sequence[float]) -> Line:
    return Line(name, dict(enumerate(values)))


def _measured(directory: Path) -> list[tuple[str, Line]]:
    """Self-play and, where it is trained, the control: benchmarks, else exact match, else NLL."""
    from spin_train.api import open_run

    policies = open_run(directory).listed
    by_measure: dict[str, dict[str, dict[int, float]]] = {}
    for policy in policies:
        numbers, benchmarks, answers = policy.numbers, policy.benchmarks, policy.answers
        values = {}
        if benchmarks:
            scores = [result["value"] for result in benchmarks.values()]
            values["mean of benchmarks [%]"] = 100 * sum(scores) / len(scores)
        if answers and "exact_match" in answers:
            values["exact match [%]"] = 100 * answers["exact_match"]
        if numbers and "real_nll_per_token" in numbers:
            values["NLL [nats per token]"] = numbers["real_nll_per_token"]
        name = directory.name + (", control" if policy.control else "")
        for measure, value in values.items():
            lines = by_measure.setdefault(measure, {})
            lines.setdefault(name, {})[policy.iteration] = value
    if not by_measure:
        return []
    measure, lines = next(
        (measure, by_measure[measure])
        for measure in ("mean of benchmarks [%]", "exact match [%]", "NLL [nats per token]")
        if measure in by_measure
    )
    return [(measure, Line(name, values)) for name, values in lines.items()]


def draw(numbers: Numbers) -> Figure:
    """Draw the reported averages, and below them the runs if there are any.

    Parameters
    ----------
    numbers : Numbers
        What :func:`compute` returned.

    Returns
    -------
    Figure
        Three panels of the papers, then one per measure of the runs.
    """
    rows = 2 if numbers.runs else 1
    with style():
        figure = Figure(figsize=(TEXT_WIDTH, 2.4 * rows))
        panels = figure.subplots(rows, 3, squeeze=False)
        for axes, (title, lines) in zip(panels[0], numbers.reported.items(), strict=True):
            _draw_lines(axes, lines)
            for (name, level), dashes in zip(
                numbers.levels.get(title, {}).items(), ("--", ":"), strict=False
            ):
                axes.axhline(level, color=GREY, linestyle=dashes, linewidth=0.9, label=name)
            axes.set_title(title, loc="left")
            names = axes.legend(loc="lower right", fontsize=6.5).get_texts()
            low, high = axes.get_ylim()
            axes.set_ylim(low - 0.11 * len(names) * (high - low), high)  # room for the legend
        if numbers.runs:
            for axes in panels[1]:
                axes.axis("off")
            for axes, (measure, lines) in zip(panels[1], numbers.runs.items(), strict=False):
                axes.axis("on")
                _draw_lines(axes, lines)
                axes.set_title(f"runs: {measure}", loc="left")
                axes.legend(fontsize=6.5)
    return figure


def _draw_lines(axes: Axes, lines: Sequence[Line]) -> None:
    for number, line in enumerate(lines):
        axes.plot(
            list(line.values),
            list(line.values.values()),
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle="-" if number < len(COLOURS) else "--",
            label=line.name,
        )
    iterations = sorted({t for line in lines for t in line.values})
    axes.set_xticks(iterations, ["start" if t == 0 else str(t - 1) for t in iterations])
    axes.set_xlabel("after iteration")
