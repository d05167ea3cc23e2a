"""Figures that show themselves in a notebook, without pyplot and without a magic command."""

from base64 import b64encode
from io import BytesIO

from matplotlib.figure import Figure
from PIL import Image  # matplotlib depends on it

from spin_theory.plots.style import style

__all__ = ["ShownFigure"]

DPI = 150  # of a notebook's picture


class ShownFigure(Figure):
    """A figure whose value in a notebook is its picture."""

    def _ipython_display_(self) -> None:
        # Where a backend is on, IPython draws figures in its own way, unless they show themselves.
        from IPython.display import display

        picture = b64encode(self._repr_png_()).decode()
        display({"image/png": picture, "text/plain": repr(self)}, raw=True)

    def _repr_png_(self) -> bytes:
        drawn, picture = BytesIO(), BytesIO()
        with style():
            self.savefig(drawn, format="png", dpi=DPI)
        # A palette of 256 colours takes a third of the bytes, and nobody sees the difference.
        image = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        image.save(picture, format="PNG", optimize=True, dpi=(DPI, DPI))
        return picture.getvalue()
