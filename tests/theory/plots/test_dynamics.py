import math
from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
import torch

from spin_theory import GradientSteps, TabularPolicy, linearise, minimiser, multiplier, play, tv

pytest.importorskip("matplotlib")

from PIL import Image

from spin_theory.plots import draw_cobweb, draw_field, draw_game, draw_simplex, draw_spectrum
from spin_theory.plots.style import style

THREE = TabularPolicy.from_probs([[0.5, 0.3, 0.2]])
TWO = TabularPolicy.from_probs([[0.7, 0.3]])


def place(probs):
    """Where a policy stands in the triangle, written out: y2 to the right, y3 at the top."""
    _, second, third = (float(p) for p in probs)
    return second + third / 2, third * math.sqrt(3) / 2


def game_of(data, *, beta=2.0, iterations=4, seed=0, **options):
    start = TabularPolicy.random(*data.log_probs.shape, seed=seed, smallest=0.05)
    return play(start, data, beta=beta, iterations=iterations, **options)


def test_an_orbit_on_the_simplex_is_the_game():
    game = game_of(THREE)
    _, orbit, start, data = draw_simplex(game).axes[0].lines
    expected = [place(policy.probs[0]) for policy in game.policies]
    np.testing.assert_allclose(orbit.get_xydata(), expected, rtol=0, atol=1e-15)
    np.testing.assert_allclose(start.get_xydata(), expected[:1], rtol=0, atol=1e-15)
    np.testing.assert_allclose(data.get_xydata(), [place(THREE.probs[0])], rtol=0, atol=1e-15)


def test_several_games_and_prompts_stand_on_one_figure():
    data = TabularPolicy(THREE.log_probs.expand(2, 3))
    games = [game_of(data, seed=seed) for seed in (0, 1)]
    axes = draw_simplex(*games, labels=["one", "other"]).axes[0]
    orbits = [line for line in axes.lines if len(line.get_xdata()) == 5]
    assert len(orbits) == 4
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one", "other"]


@pytest.mark.parametrize("how", [{}, {"sft_weight": 0.1, "solver": minimiser}])
def test_every_arrow_points_from_a_policy_to_the_next_one(how):
    figure = draw_field(THREE, beta=0.8, arrows=4, **how)
    (arrows,) = figure.axes[0].collections
    assert len(arrows.U) == 10  # 4 + 3 + 2 + 1
    for (x, y), u, v, colour in zip(arrows.XY, arrows.U, arrows.V, arrows.get_array(), strict=True):
        third = y / (math.sqrt(3) / 2)
        second = x - third / 2
        here = TabularPolicy.from_probs([[1 - second - third, second, third]])
        there = play(here, THREE, beta=0.8, iterations=1, **how).policies[1]
        step = np.subtract(place(there.probs[0]), (x, y))
        np.testing.assert_allclose((u, v), step / np.linalg.norm(step) * 0.7 / 4, atol=1e-9)
        assert colour == pytest.approx(float(tv(here, there)), abs=1e-12)


def test_arrows_are_those_of_the_solver_that_is_given():
    one, other = (
        draw_field(THREE, beta=0.3, arrows=3, solver=solver).axes[0].collections[0]
        for solver in (
            GradientSteps(steps=2, learning_rate=1.0),
            GradientSteps(steps=3, learning_rate=1.0),
        )
    )
    assert (one.get_array() < other.get_array()).all()


@pytest.mark.parametrize("beta", [0.4, 0.5, 1.0, 3.0])
def test_the_stairs_of_a_cobweb_are_the_game(beta):
    game = game_of(TWO, beta=beta)
    probs = [float(policy.probs[0, 0]) for policy in game.policies]
    stairs = draw_cobweb(game).axes[0].lines[2].get_xydata()
    np.testing.assert_array_equal(stairs[0::2, 0], probs)
    np.testing.assert_array_equal(stairs[1::2, 0], probs[:-1])
    np.testing.assert_array_equal(stairs[1::2, 1], probs[1:])


def test_the_curve_of_a_cobweb_multiplies_the_log_odds_to_the_data():
    curve = draw_cobweb(game_of(TWO, beta=0.8)).axes[0].lines[1].get_xydata()
    x, y = curve.T
    centre = math.log(0.7 / 0.3)
    before, after = (np.log(p / (1 - p)) - centre for p in (x, y))
    np.testing.assert_allclose(after, multiplier(beta=0.8) * before, atol=1e-9)


def test_a_schedule_has_a_curve_per_beta():
    game = play(TabularPolicy.from_probs([[0.4, 0.6]]), TWO, beta=[2.0, 2.0, 0.8], iterations=3)
    labels = draw_cobweb(game).axes[0].get_legend_handles_labels()[1]
    assert [label for label in labels if "beta" in label] == [
        r"one iteration, $\beta = 2$",
        r"one iteration, $\beta = 0.8$",
    ]


def test_a_game_of_another_solver_is_refused_by_the_cobweb():
    game = game_of(TWO, solver=GradientSteps(steps=3, learning_rate=1.0))
    with pytest.raises(ValueError, match="iteration 0 of the game did not follow the map"):
        draw_cobweb(game)
    draw_cobweb(game, solver=GradientSteps(steps=3, learning_rate=1.0))


def test_points_of_a_spectrum_are_the_multipliers():
    spectrum = linearise([THREE, THREE], THREE, beta=2.0)
    axes = draw_spectrum(spectrum, labels=["SPIN"]).axes[0]
    points = axes.lines[1]
    values = spectrum.multipliers
    np.testing.assert_array_equal(points.get_xdata(), values.real.numpy())
    np.testing.assert_array_equal(points.get_ydata(), values.imag.numpy())
    assert points.get_label() == "SPIN, radius 0.5"
    assert float(torch.tensor(axes.lines[0].get_xydata()).norm(dim=-1).std()) < 1e-12  # a circle


def test_several_games_are_drawn_as_their_divergences():
    games = [game_of(THREE, beta=beta) for beta in (0.8, 2.0)]
    axes = draw_game(*games, labels=["0.8", "2"]).axes[0]
    for line, game in zip(axes.lines, games, strict=True):
        assert line.get_ydata().tolist() == game.kl.tolist()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: draw_simplex(game_of(TWO)), "three responses, got 2"),
        (lambda: draw_field(TWO, beta=1.0), r"shape \(1, 3\), got \(1, 2\)"),
        (lambda: draw_cobweb(game_of(THREE)), "two responses"),
        (lambda: draw_simplex(game_of(THREE), labels=["a", "b"]), "one per drawing, 1, got 2"),
        (lambda: draw_spectrum(labels=["a"]), "one per drawing, 0, got 1"),
        (lambda: draw_field(THREE, beta=1.0, arrows=1), "arrows"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_a_figure_shows_itself_in_a_notebook_without_a_magic_command():
    figure = draw_game(game_of(THREE))
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_ipython_shows_the_same_picture_whatever_the_backend(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: shown.append(data))
    figure = draw_game(game_of(THREE))
    figure._ipython_display_()  # comes before what a backend registers for figures
    assert b64decode(shown[0]["image/png"]) == figure._repr_png_()


def test_the_palette_of_a_shown_figure_changes_nothing_that_one_could_see(tmp_path):
    figure = draw_field(THREE, beta=1.0)  # with a colour bar, which has most colours
    drawn, shown = tmp_path / "drawn.png", Image.open(BytesIO(figure._repr_png_()))
    with style():
        figure.savefig(drawn, dpi=150)
    before, after = (np.asarray(image.convert("RGB"), int) for image in (Image.open(drawn), shown))
    assert shown.mode == "P"
    apart = np.abs(before - after).max(axis=-1)  # of 255
    assert (apart > 16).mean() < 0.005
    assert apart.mean() < 0.5
