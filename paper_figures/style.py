"""One look for all figures: widths, fonts, colours, and files that are the same on every run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

COLUMN_WIDTH = 3.25  # inches, one column of a two-column paper
TEXT_WIDTH = 6.75  # inches
IMAGE_DPI = 150  # of a PNG in README: half of print, and a third of the bytes

# Okabe and Ito's palette, distinct for any colour vision, in the order of use.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
)
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


@contextmanager
def style() -> Iterator[None]:
    """Apply the look within the block, whatever the user's own settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        yield


def save_figure(figure: Figure, name: str, folder: Path) -> list[Path]:
    """Write PDF and PNG without date or version, so that reruns give the same bytes.

    Parameters
    ----------
    figure : Figure
        What to write.
    name : str
        File name without suffix.
    folder : Path
        Where to; made if it is not there.

    Returns
    -------
    list of Path
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pdf, png = folder / f"{name}.pdf", folder / f"{name}.png"
    with style():
        figure.savefig(pdf, metadata={"CreationDate": None, "Creator": None, "Producer": None})
        figure.savefig(png, metadata={"Software": None})
    return [pdf, png]


def save_image(figure: Figure, path: Path) -> None:
    """Write a small PNG for a web page, the same bytes on every run.

    Parameters
    ----------
    figure : Figure
        What to write.
    path : Path
        File to write; its folder is made if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with style():
        figure.savefig(path, dpi=IMAGE_DPI, metadata={"Software": None})
