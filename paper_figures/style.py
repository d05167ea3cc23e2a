"""Widths of the paper, and files that are the same on every run; the look is the package's."""

from pathlib import Path

from matplotlib.figure import Figure

from spin_theory.plots.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, style

__all__ = [
    "BLUE",
    "COLUMN_WIDTH",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "SKY",
    "TEXT_WIDTH",
    "VERMILION",
    "save_figure",
    "save_image",
    "style",
]

COLUMN_WIDTH = 3.25  # inches, one column of a two-column paper
TEXT_WIDTH = 6.75  # inches
IMAGE_DPI = 150  # of a PNG in README: half of print, and a third of the bytes


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
