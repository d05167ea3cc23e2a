"""Widths of the paper, and files that are the same on every run; the look is the package's."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

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
    "panels",
    "save_figure",
    "save_image",
    "style",
]

COLUMN_WIDTH = 3.25  # inches, one column of a two-column paper
TEXT_WIDTH = 6.75  # inches
IMAGE_DPI = 150  # of a PNG in a page: half of print, and a third of the bytes
PALETTE = 256  # colours of such a PNG


@contextmanager
def panels(
    *titles: str, height: float, pad: float | None = None, **shared: Any
) -> Iterator[tuple[Figure, tuple[Axes, ...]]]:
    """Make a figure as wide as the text, with a lettered panel per title, and hold the look.

    Parameters
    ----------
    *titles : str
        From left to right.
    height : float
        In inches.
    pad : float, optional
        Points between a panel and its title.
    **shared
        As `Figure.subplots` takes it: ``sharey=True``.

    Yields
    ------
    figure : Figure
        The figure.
    axes : tuple of Axes
        Its panels.
    """
    with style():
        figure = Figure(figsize=(TEXT_WIDTH, height))
        row = tuple(figure.subplots(1, len(titles), squeeze=False, **shared)[0])
        for letter, title, axes in zip("abc", titles, row, strict=False):
            axes.set_title(f"({letter})  {title}", loc="left", pad=pad)
        yield figure, row


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
    drawn = BytesIO()
    with style():
        figure.savefig(drawn, format="png", dpi=IMAGE_DPI)
    with Image.open(drawn) as picture:  # a palette: a third of the bytes
        picture.convert("RGB").quantize(PALETTE, dither=Image.Dither.NONE).save(path, optimize=True)
