"""The bridge as tables for the terminal and for a page, and as a figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from spin_train.lab.bridge import Bridge
from spin_train.lab.findings import Curve, End, Finding
from spin_train.lab.problems import TOLERANCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "ends_cells", "findings_cells", "save_figure", "tables"]

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#595959")
_ENDS = ("trained", "steps", "TV", "L - bound (nats)", "outside", "nearest wrong form, TV", "holds")
_FINDINGS = ("claim", "predicted", "measured", "within", "wrong form, apart", "holds")


def ends_cells(ends: Sequence[End]) -> list[tuple[str, ...]]:
    """Cells of the table of trainings, its head first."""
    rows = [
        (
            end.problem,
            f"{end.steps}",
            f"{end.tv:.1e}",
            f"{end.gap:.1e}",
            f"{end.outside:.1e}",
            f"{end.nearest}, {end.nearest_tv:.3f}",
            "yes" if end.holds else "NO",
        )
        for end in ends
    ]
    return [_ENDS, *rows]


def findings_cells(findings: Sequence[Finding]) -> list[tuple[str, ...]]:
    """Cells of the table of other findings, its head first."""
    rows = [
        (
            found.claim,
            f"{found.predicted:.6g}",
            f"{found.measured:.6g}",
            f"{found.tolerance:.3g}",
            f"{found.wrong}, {found.wrong_apart:.2g}" if found.wrong else "",
            "yes" if found.holds else "NO",
        )
        for found in findings
    ]
    return [_FINDINGS, *rows]


def tables(bridge: Bridge) -> list[Table]:
    """Show where trainings ended, and what else was found."""
    titles = (
        f"trained networks against the closed form; TV at most {TOLERANCE:g}, largest of prompts",
        "gradients, steps and samples",
    )
    found = []
    cells = (ends_cells(bridge.ends), findings_cells(bridge.findings))
    for title, (head, *rows) in zip(titles, cells, strict=True):
        table = Table(*head, title=title)
        for row in rows:
            table.add_row(*row)
        found.append(table)
    return found


def draw(bridge: Bridge) -> "Figure":
    """Draw the gaps along the trainings, the samples' distances and the multipliers."""
    from matplotlib.figure import Figure

    by_panel: dict[str, list[Curve]] = {}
    for curve in bridge.curves:
        by_panel.setdefault(curve.panel, []).append(curve)
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    gap, samples, modes = figure.subplots(1, 3)
    _lines(gap, by_panel.get("gap", []))
    gap.set(
        xscale="log",
        yscale="log",
        ylim=(1e-9, None),
        xlabel="step",
        ylabel="loss minus lower bound [nats]",
        title="the trainer's loss comes down to the bound",
    )
    _lines(samples, by_panel.get("samples", []), marked=True)
    samples.set(
        xscale="log",
        yscale="log",
        xlabel="sampled pairs per prompt",
        ylabel="TV from the closed form",
        title="sampled pairs: $n^{-1/2}$",
    )
    _modes(modes, by_panel.get("modes", []))
    modes.set(
        xscale="log",
        xlabel=r"eigenvalue $\mu$ of the Fisher matrix",
        ylabel="multiplier of the deviation",
        title="few steps: each mode has its own",
    )
    for axes in (gap, samples, modes):
        axes.title.set_fontsize(9)
        axes.legend(fontsize=6, frameon=False)
        axes.grid(color="#D9D9D9", linewidth=0.5)
    return figure


def _lines(axes: "Axes", curves: Sequence[Curve], *, marked: bool = False) -> None:
    for curve, colour in zip(curves, _COLOURS, strict=False):
        predicted = marked and curve is not curves[0]
        axes.plot(
            curve.x,
            [value if value > 0 else float("nan") for value in curve.y],
            color=colour,
            linestyle="--" if predicted else "-",
            marker="o" if marked and not predicted else None,
            linewidth=1.2,
            label=curve.name,
        )


def _modes(axes: "Axes", curves: Sequence[Curve]) -> None:
    for number, curve in enumerate(curves):
        measured = number % 2 == 0  # measured and predicted come in turns
        axes.plot(
            curve.x,
            curve.y,
            color=_COLOURS[number // 2],
            linestyle="none" if measured else "--",
            marker="o" if measured else None,
            markersize=4,
            label=curve.name,
        )


def save_figure(bridge: Bridge, path: Path, *, dpi: int = 150) -> None:
    """Write the figure as a PNG, the same bytes on every run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(bridge).savefig(path, dpi=dpi, metadata={"Software": None})
