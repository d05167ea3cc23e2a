"""Figures that show themselves in a notebook, without pyplot and without a magic command."""

from io import BytesIO

from matplotlib.figure import Figure

from spin_theory.plots.style import style

__all__ = ["ShownFigure"]

DPI = 150  # of a notebook's picture


class ShownFigure(Figure):
    """A figure whose value in a notebook is its picture."""

    def _repr_png_(self) -> bytes:
        picture = BytesIO()
        with style():
            self.savefig(picture, format="png", dpi=DPI, metadata={"Software": None})
        return picture.getvalue()
