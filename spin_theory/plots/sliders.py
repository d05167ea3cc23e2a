"""A figure with sliders where ipywidgets is there, and its picture where it is not."""

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spin_theory.plots.shown import ShownFigure

__all__ = ["Sliders"]

WIDGET = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True)
class Sliders:
    """A figure that sliders redraw, for the last line of a cell.

    A page shows `still`, and so does Jupyter without ipywidgets, which the extra `lab` brings.

    Attributes
    ----------
    draw : callable
        From a value of each slider, by keyword, to a figure.
    still : ShownFigure
        What a page shows.
    choices : mapping of str to sequence
        The values of each slider, by the name of the argument.
    first : mapping of str
        The value that each begins with, one of its choices.

    Raises
    ------
    ValueError
        If a slider begins with a value that is not one of its choices.
    """

    draw: Callable[..., Any]
    still: "ShownFigure"
    choices: Mapping[str, Sequence[Any]]
    first: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.choices.keys() != self.first.keys():
            raise ValueError(
                f"first must have a value for each of {', '.join(self.choices)}, "
                f"got {', '.join(self.first)}"
            )
        for name, value in self.first.items():
            if value not in self.choices[name]:
                raise ValueError(f"{name} must begin with one of its choices, got {value!r}")

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Give a front end both: it takes the sliders where it can move them."""
        bundle: dict[str, Any] = {
            "text/plain": "sliders, in Jupyter with ipywidgets",
            "image/png": b64encode(self.still._repr_png_()).decode(),
        }
        widget = self.widget()
        if widget is not None:
            bundle[WIDGET] = widget._repr_mimebundle_()[WIDGET]
        return bundle

    def widget(self) -> Any:
        """Make the sliders with the figure below them; None without ipywidgets.

        Returns
        -------
        ipywidgets.interactive or None
            Moving one redraws the figure once it is let go.
        """
        try:
            import ipywidgets
            from IPython.display import display
        except ImportError:
            return None

        def show(**values: Any) -> None:
            display(self.draw(**values))

        sliders = {
            name: ipywidgets.SelectionSlider(
                options=list(values),
                value=self.first[name],
                description=name.replace("_", " "),
                continuous_update=False,
                style={"description_width": "7em"},
            )
            for name, values in self.choices.items()
        }
        return ipywidgets.interactive(show, **sliders)
