"""The study as tables for the terminal and for a page, and as a figure."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from spin_train.lab.study.verdicts import Mean, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw", "page_cells", "result_cells", "save_figure", "tables"]

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
_BLUE, _RED, _GREY = "#0072B2", "#D55E00", "#595959"
_COLOURS = {"better": _BLUE, "worse": _RED}


def result_cells(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Cells of the results of one base, their head first."""
    rows = []
    for result in results:
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


def page_cells(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Cells of one table for all bases, their head first."""
    rows = [
        (f"{base}, {of_base[0].seeds} seeds" if number == 0 else "", *row)
        for base, of_base in by_base(results).items()
        for number, row in enumerate(result_cells(of_base)[1:])
    ]
    return [("base", *_HEAD), *rows]


def by_base(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Sort results by their bases, in their order."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.base, []).append(result)
    return found


def tables(results: Sequence[Result]) -> list[Table]:
    """Show each base's arms."""
    found = []
    for base, rows in by_base(results).items():
        head, *cells = result_cells(rows)
        table = Table(*head, title=f"{base}: test prompts, {rows[0].seeds} seeds, 95 % intervals")
        for row in cells:
            table.add_row(*row)
        found.append(table)
    return found


def draw(results: Sequence[Result]) -> "Figure":
    """Draw KL minus the base's for each arm, one panel per base.

    Left of the dotted line an arm is nearer to the data than its base. Colours are the verdict
    against continued SFT.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    bases = by_base(results)
    figure = Figure(figsize=(10, 3.0), layout="constrained")
    panels = figure.subplots(1, max(1, len(bases)), sharey=True, squeeze=False)[0]
    for axes, (base, rows) in zip(panels, bases.items(), strict=False):
        arms = [row for row in rows if row.arm is not None]
        for height, row in enumerate(arms):
            colour = "black" if height == 0 else _COLOURS.get(row.against_control, _GREY)
            half = 0.0 if math.isnan(row.from_base.half) else row.from_base.half
            axes.errorbar(
                row.from_base.value, height, xerr=half, fmt="o", color=colour, markersize=4
            )
        axes.axvline(0.0, color=_GREY, linestyle=":", linewidth=1)
        axes.set_yticks(range(len(arms)), [row.arm for row in arms], fontsize=7)
        axes.set_title(f"{base}\nKL of the base {rows[0].kl.value:.2f}", fontsize=9)
        axes.set_xscale("symlog", linthresh=0.05)
        axes.tick_params(axis="x", labelsize=6)
        axes.grid(axis="x", color="#D9D9D9", linewidth=0.5)
    panels[0].invert_yaxis()
    figure.supxlabel("KL(p_data || p) minus the base's [nats], left is better", fontsize=8)
    marks = [
        Line2D([], [], marker="o", linestyle="none", color=colour, label=label)
        for label, colour in (
            ("continued SFT", "black"),
            ("better than it", _BLUE),
            ("no difference", _GREY),
            ("worse", _RED),
        )
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=4, fontsize=7, frameon=False)
    return figure


def save_figure(results: Sequence[Result], path: Path, *, dpi: int = 150) -> None:
    """Write the figure as a PNG, the same bytes on every run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(results).savefig(path, dpi=dpi, metadata={"Software": None})
