"""The study as tables for the terminal and for a page, and as a figure."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from spin_train.lab.study.arms import CONTROL
from spin_train.lab.study.cells import Cell, Study
from spin_train.lab.study.verdicts import FEWEST, Mean, Result, results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "draw",
    "equal_cells",
    "largest_cells",
    "page_cells",
    "result_cells",
    "save_figure",
    "tables",
    "verdict_cells",
]

_HEAD = (
    "arm",
    "rate, steps",
    "KL (nats)",
    "minus SFT's",
    "valid mass",
    "greedy",
    "log p(real)",
    "against the base",
    "against SFT",
)
_NAMES = {"kl": "KL", "valid": "valid mass", "greedy": "greedy accuracy"}
_VERDICTS = (
    "measure",
    "better than SFT",
    "no difference",
    "worse",
    "too few seeds",
    "better than the base",
)
_BLUE, _RED, _GREY = "#0072B2", "#D55E00", "#595959"
_COLOURS = {"better": _BLUE, "worse": _RED}


def result_cells(found: Sequence[Result]) -> list[tuple[str, ...]]:
    """Cells of the results of one base, their head first."""
    rows = []
    for result in found:
        start = result.arm is None
        control = not start and result.from_control == Mean(0.0, 0.0)
        rows.append(
            (
                result.arm or "the base",
                result.setting,
                _shown(result.kl),
                "" if control else _shown(result.from_control, signed=True),
                _shown(result.valid),
                _shown(result.greedy),
                "" if start else _shown(result.displacement, signed=True),
                "" if start else result.against_base,
                "" if control else result.against_control,
            )
        )
    return [_HEAD, *rows]


def _shown(mean: Mean, *, signed: bool = False) -> str:
    value = f"{mean.value:+.3f}" if signed else f"{mean.value:.3f}"
    return value if math.isnan(mean.half) else f"{value} ± {mean.half:.3f}"


def page_cells(found: Sequence[Result]) -> list[tuple[str, ...]]:
    """Cells of one table for all bases, their head first."""
    rows = [
        (f"{base}, {of_base[0].seeds} seeds" if number == 0 else "", *row)
        for base, of_base in by_base(found).items()
        for number, row in enumerate(result_cells(of_base)[1:])
    ]
    return [("base", *_HEAD), *rows]


def verdict_cells(cells: Sequence[Cell], study: Study) -> list[tuple[str, ...]]:
    """Cells of a table of verdicts by each measure, which settings are also chosen by."""
    rows = []
    for measure, name in _NAMES.items():
        arms = [one for one in results(cells, study, by=measure) if one.arm not in (None, CONTROL)]
        against = [one.against_control for one in arms]
        better = [f"{one.arm} ({one.base})" for one in arms if one.against_control == "better"]
        alone = [one for one in arms if one.against_base == "better"]
        rows.append(
            (
                name,
                "; ".join(better) or "none",
                str(against.count("no difference")),
                str(against.count("worse")),
                str(against.count("too few seeds")),
                "; ".join(f"{one.arm} ({one.base})" for one in alone) or "none",
            )
        )
    return [_VERDICTS, *rows]


def largest_cells(cells: Sequence[Cell], study: Study) -> list[tuple[str, ...]]:
    """Cells of a table of KL and log p(real) at the largest rate and most steps, nothing chosen."""
    largest = replace(study, rates=(max(study.rates),), steps=(max(study.steps),))
    bases = by_base(results(cells, largest))
    lines: dict[str, list[str]] = {}
    for rows in bases.values():
        for row in rows:
            moved = "" if row.arm is None else f", {row.displacement.value:+.2f}"
            lines.setdefault(row.arm or "the base", []).append(f"{row.kl.value:.2f}{moved}")
    head = ("arm", *(f"{base}, {rows[0].seeds} seeds" for base, rows in bases.items()))
    return [head, *((arm, *line) for arm, line in lines.items())]


def equal_cells(cells: Sequence[Cell], study: Study, arm: str) -> list[tuple[str, ...]]:
    """Cells of a table of an arm and continued SFT at each setting, nothing chosen.

    Each is SFT's KL minus the base's, then the arm's minus SFT's.
    """
    bases: list[str] = []
    rows = []
    for rate, steps in product(study.rates, study.steps):
        found = by_base(results(cells, replace(study, rates=(rate,), steps=(steps,))))
        bases = [f"{base}, {of_base[0].seeds} seeds" for base, of_base in found.items()]
        line = []
        for of_base in found.values():
            by_arm = {one.arm: one for one in of_base}
            control = _shown(by_arm[CONTROL].from_base, signed=True)
            line.append(f"{control}, then {_shown(by_arm[arm].from_control, signed=True)}")
        rows.append((f"{rate:g}, {steps}", *line))
    return [("rate, steps", *bases), *rows]


def by_base(found: Sequence[Result]) -> dict[str, list[Result]]:
    """Sort results by their bases, in their order."""
    sorted_: dict[str, list[Result]] = {}
    for result in found:
        sorted_.setdefault(result.base, []).append(result)
    return sorted_


def tables(cells: Sequence[Cell], study: Study) -> list[Table]:
    """Show each base's arms, and the verdicts by each measure."""
    found = []
    for base, rows in by_base(results(cells, study)).items():
        head, *lines = result_cells(rows)
        table = Table(*head, title=f"{base}: test prompts, {rows[0].seeds} seeds, 95 % intervals")
        for row in lines:
            table.add_row(*row)
        found.append(table)
    if found:
        head, *lines = verdict_cells(cells, study)
        table = Table(*head, title="arms of all bases, each chosen by the measure itself")
        for row in lines:
            table.add_row(*row)
        found.append(table)
    return found


def draw(found: Sequence[Result]) -> "Figure":
    """Draw KL minus the base's for each arm, one panel per base.

    Left of the dotted line an arm is nearer to the data than its base. Colours are the verdict
    against continued SFT; with too few seeds for one there is no interval either.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    bases = by_base(found)
    figure = Figure(figsize=(10, 3.0), layout="constrained")
    panels = figure.subplots(1, max(1, len(bases)), sharey=True, squeeze=False)[0]
    for axes, (base, rows) in zip(panels, bases.items(), strict=False):
        arms = [row for row in rows if row.arm is not None]
        for height, row in enumerate(arms):
            colour = "black" if height == 0 else _COLOURS.get(row.against_control, _GREY)
            half = row.from_base.half if row.seeds >= FEWEST else 0.0
            axes.errorbar(
                row.from_base.value, height, xerr=half, fmt="o", color=colour, markersize=4
            )
        axes.axvline(0.0, color=_GREY, linestyle=":", linewidth=1)
        axes.set_yticks(range(len(arms)), [row.arm for row in arms], fontsize=7)
        axes.set_title(f"{base}\nKL of the base {rows[0].kl.value:.2f}", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.tick_params(axis="x", labelsize=6)
        axes.grid(axis="x", color="#D9D9D9", linewidth=0.5)
    panels[0].invert_yaxis()
    figure.supxlabel("KL(p_data || p) minus the base's [nats], left is better", fontsize=8)
    marks = [
        Line2D([], [], marker="o", linestyle="none", color=colour, label=label)
        for label, colour in (
            ("continued SFT", "black"),
            ("better than it", _BLUE),
            ("no difference, or too few seeds", _GREY),
            ("worse", _RED),
        )
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=4, fontsize=7, frameon=False)
    return figure


def save_figure(found: Sequence[Result], path: Path, *, dpi: int = 150) -> None:
    """Write the figure as a PNG, the same bytes on every run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(found).savefig(path, dpi=dpi, metadata={"Software": None})
