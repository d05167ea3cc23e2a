"""The look of all figures: fonts, line widths, and colours distinct in any colour vision."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = [
    "BLUE",
    "COLOURS",
    "GREEN",
    "GREY",
    "MARKERS",
    "ORANGE",
    "PURPLE",
    "SETTINGS",
    "SKY",
    "VERMILION",
    "labels_of",
    "style",
]

BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
VERMILION, PURPLE, SKY = "#D55E00", "#CC79A7", "#56B4E9"
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
"""Okabe and Ito's palette, in the order of use."""
MARKERS = ("o", "s", "D", "^", "v", "P")
"""One per colour, for readers who see none."""
GREY = "#595959"

SETTINGS: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is there everywhere
    "font.size": 8,
    "grid.color": "#D9D9D9",
    "grid.linewidth": 0.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,  # text stays text
    "savefig.dpi": 300,
    "xtick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.labelsize": 7,
    "ytick.major.width": 0.6,
}
"""Of matplotlib."""


@contextmanager
def style() -> Iterator[None]:
    """Apply the look within the block, whatever the user's own settings are.

    Yields
    ------
    None
        Nothing.
    """
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        yield


def labels_of(drawn: Sequence[object], labels: Sequence[str]) -> Sequence[str]:
    """Return one label for each thing that is drawn, empty ones where none are given.

    Parameters
    ----------
    drawn : sequence
        What is drawn, one colour each.
    labels : sequence of str
        One for each, or none.

    Returns
    -------
    sequence of str
        As many as `drawn`.

    Raises
    ------
    ValueError
        If there are more or fewer, or more are drawn than there are colours.
    """
    if labels and len(labels) != len(drawn):
        raise ValueError(f"labels must be one per drawing, {len(drawn)}, got {len(labels)}")
    if len(drawn) > len(COLOURS):
        raise ValueError(f"at most {len(COLOURS)} colours are distinct, got {len(drawn)}")
    return labels or [""] * len(drawn)
