"""Trained networks against the exact theory: the numbers that `spin-train bridge` found, drawn.

Nothing is trained here. `bridge.json`, next to this file, is what a run has found, and names the
command of that run.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from paper_figures.style import BLUE, GREY, VERMILION, panels
from spin_theory.plots.style import COLOURS, MARKERS
from spin_train.lab.bridge import Bridge
from spin_train.lab.findings import Curve, End
from spin_train.lab.problems import TOLERANCE

__all__ = ["NUMBERS", "command", "compute", "draw"]

NUMBERS = Path(__file__).with_name("bridge.json")
"""Written by `python -m benchmarks.bridge --all --write`."""


def compute() -> Bridge:
    """Read the numbers of the run.

    Returns
    -------
    Bridge
        Where trainings ended, what else was found, and curves.
    """
    return Bridge.read(NUMBERS)


def command() -> str:
    """Name the command whose numbers these are."""
    return str(json.loads(NUMBERS.read_text(encoding="utf-8"))["command"])


def draw(numbers: Bridge) -> Figure:
    """Draw where trainings end, the law of sampled pairs, and what few steps do.

    Parameters
    ----------
    numbers : Bridge
        What :func:`compute` returned.

    Returns
    -------
    Figure
        Three panels; in the last two marks are networks and lines the law.
    """
    titles = ("where training ends", "sampled pairs", "few steps, per mode")
    with panels(*titles, height=2.6) as (figure, (ends, samples, modes)):
        _draw_ends(ends, numbers.ends)
        _draw_samples(samples, _of_panel(numbers, "samples"))
        _draw_modes(modes, _of_panel(numbers, "modes"))
    return figure


def _of_panel(numbers: Bridge, panel: str) -> list[Curve]:
    return [curve for curve in numbers.curves if curve.panel == panel]


def _draw_ends(axes: Axes, ends: Sequence[End]) -> None:
    """Right and wrong forms on one scale, with the distance that decides between them."""
    heights = range(len(ends))[::-1]  # the first row on top
    axes.hlines(
        heights, [end.tv for end in ends], [end.nearest_tv for end in ends], color="#D9D9D9"
    )
    axes.plot([end.tv for end in ends], heights, "o", color=BLUE, label="closed form")
    wrong = [end.nearest_tv for end in ends]
    axes.plot(wrong, heights, "x", color=VERMILION, label="nearest wrong one")
    axes.axvline(TOLERANCE, color=GREY, linewidth=0.8, linestyle="--")
    axes.set_yticks(heights, [end.problem for end in ends])
    axes.grid(visible=False, axis="y")
    axes.set(xscale="log", xlim=(1e-8, 1), xlabel="TV of the network from it")
    axes.set_xticks([1e-7, 1e-5, 1e-3, 1e-1])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(-0.6, len(ends) + 1)  # with room for the legend
    axes.legend(loc="upper left", handletextpad=0.2, borderaxespad=0.1)


def _draw_samples(axes: Axes, curves: Sequence[Curve]) -> None:
    trained, law = curves
    axes.plot(law.x, law.y, color=GREY, linewidth=0.9, label=r"law, $n^{-1/2}$")
    axes.plot(trained.x, trained.y, "o", color=BLUE, label="networks")
    axes.set(xscale="log", yscale="log")
    axes.set(xlabel="pairs per prompt $n$", ylabel="TV from the closed form")
    axes.legend(loc="upper right")


def _draw_modes(axes: Axes, curves: Sequence[Curve]) -> None:
    """Measured and predicted come in turns."""
    for measured, law, colour, marker in zip(
        curves[::2], curves[1::2], COLOURS, MARKERS, strict=False
    ):
        count, part = measured.name.partition(" of the stable rate")[0].split(" steps of ")
        name = f"{count} step{'s' * (count != '1')}, {part}"
        axes.plot(law.x, law.y, color=colour, linewidth=0.9)
        axes.plot(measured.x, measured.y, marker, color=colour, label=name)
    axes.set(xscale="log", yscale="log", xlabel=r"Fisher eigenvalue $\mu$", ylabel="multiplier")
    axes.set_yticks([0.5, 1, 2, 5], ["0.5", "1", "2", "5"])
    axes.minorticks_off()
    axes.legend(loc="upper left", title="part of stable rate", title_fontsize=7)
