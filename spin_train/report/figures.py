"""Figures of a report as SVG that takes its colours and its font from the page."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spin_train.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Drawing", "Line", "draw", "require_matplotlib"]

_SIZE = (3.5, 2.3)  # inches; at 72 points each, a phone shows the text about as large as it is
_ASIDE = 0.008  # of the width
_COLOURS = {
    # matplotlib knows no CSS variables: each stands for one, and is replaced in what it writes.
    name: f"#0100{number:02x}"
    for number, name in enumerate(
        ("ink", "quiet", "grid", "play", "control", "third", "fourth"), start=1
    )
}
_SETTINGS: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": _COLOURS["quiet"],
    "axes.grid": True,
    "axes.labelcolor": _COLOURS["ink"],
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "DejaVu Sans",  # comes with matplotlib; only for the widths of texts
    "font.size": 8,
    "grid.color": _COLOURS["grid"],
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.labelcolor": _COLOURS["ink"],
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "svg.fonttype": "none",  # text stays text: it can be searched and read out
    "svg.hashsalt": "report",  # the same bytes on every run
    "text.color": _COLOURS["ink"],
    "xtick.color": _COLOURS["quiet"],
    "xtick.labelcolor": _COLOURS["ink"],
    "xtick.labelsize": 8,
    "ytick.color": _COLOURS["quiet"],
    "ytick.labelcolor": _COLOURS["ink"],
    "ytick.labelsize": 8,
}


@dataclass(frozen=True)
class Line:
    """One series of a figure."""

    name: str
    colour: str
    """`play`, `control`, `third` or `fourth`."""
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    dashed: bool = False
    points: bool = True


@dataclass(frozen=True)
class Drawing:
    """A figure as the page shows it."""

    title: str
    caption: str
    svg: str


def require_matplotlib() -> None:
    """Refuse before any work is done where there is no matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError(
            "the report draws with matplotlib: pip install 'spin-toolkit[plots]'"
        ) from None


def draw(
    number: int,
    title: str,
    caption: str,
    lines: Sequence[Line],
    *,
    x: str = "iteration",
    y: str,
    level: float | None = None,
    starts: Mapping[str, float] | None = None,
    whole: bool = False,
) -> Drawing:
    """Draw series as one figure.

    `number` tells the figures of a page apart. `level` is a horizontal line to compare with,
    `starts` are named places on the x axis, and `whole` marks only whole numbers on it.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with _style():
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        if level is not None:
            axes.axhline(level, color=_COLOURS["quiet"], linewidth=0.8, linestyle=(0, (4, 3)))
        for line in lines:
            _plot(axes, line)
        for name, place in (starts or {}).items():
            axes.axvline(place, color=_COLOURS["grid"], linewidth=0.8)
            axes.text(
                place, 1.0, f" {name}", transform=axes.get_xaxis_transform(), va="bottom", size=7
            )
        axes.set(xlabel=x, ylabel=y)
        axes.grid(visible=False, axis="x")
        if whole:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(lines) > 1:
            figure.legend(loc="outside lower center", ncols=min(len(lines), 4))
        written = io.StringIO()
        figure.savefig(
            written,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
    return Drawing(title, caption, _for_page(written.getvalue(), number, f"{title}. {caption}"))


def _plot(axes: "Axes", line: Line) -> None:
    colour = _COLOURS[line.colour]
    style: dict[str, Any] = {"linestyle": "--" if line.dashed else "-", "color": colour}
    if line.points:
        style["marker"] = "s" if line.dashed else "o"
    places = list(line.x)
    if line.low is not None and line.high is not None:
        # Next to each other: bars of two lines at one place would hide one another.
        aside = _ASIDE * ((max(line.x) - min(line.x)) or 1.0)
        places = [place + (aside if line.dashed else -aside) for place in line.x]
        axes.vlines(places, line.low, line.high, colors=colour, linewidth=1.2)
    axes.plot(places, line.y, label=line.name, **style)


@contextmanager
def _style() -> Iterator[None]:
    """Apply the look within the block, whatever the user's own settings are."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def _for_page(written: str, number: int, label: str) -> str:
    """Take the drawing out of an SVG file, in the page's colours, with names of its own."""
    from markupsafe import escape

    svg = written[written.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for name, colour in _COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    # Several drawings in one page: what one defines and refers to is its own.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>f{number}-", svg)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
