import sys
from base64 import b64decode

import pytest

from spin_theory import TabularPolicy, play

pytest.importorskip("matplotlib")

from spin_theory.plots import Sliders, draw_game
from spin_theory.plots.sliders import WIDGET

DATA, START = (TabularPolicy.from_probs([[p, 1 - p]]) for p in (0.8, 0.5))


def game(beta, iterations):
    return draw_game(play(START, DATA, beta=beta, iterations=iterations))


def sliders(draw=game, **first):
    choices = {"beta": (0.5, 1.0, 2.0), "iterations": (1, 5)}
    return Sliders(draw, game(2.0, 5), choices, {"beta": 2.0, "iterations": 5, **first})


def test_without_ipywidgets_there_is_the_picture_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    bundle = sliders()._repr_mimebundle_()
    assert b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert WIDGET not in bundle


def test_with_ipywidgets_there_are_both():
    pytest.importorskip("ipywidgets")
    bundle = sliders()._repr_mimebundle_()
    assert {"image/png", WIDGET} <= bundle.keys()


def test_a_slider_that_is_moved_draws_again():
    pytest.importorskip("ipywidgets")
    drawn = []

    def draw(**values):
        drawn.append(values)
        return game(**values)

    widget = sliders(draw).widget()
    beta = next(slider for slider in widget.children if slider.description == "beta")
    beta.value = 0.5
    assert drawn == [{"beta": 2.0, "iterations": 5}, {"beta": 0.5, "iterations": 5}]


@pytest.mark.parametrize("first", [{"beta": 3.0}, {"rate": 1.0}])
def test_a_slider_must_begin_at_one_of_its_values(first):
    with pytest.raises(ValueError, match="must"):
        sliders(**first)
