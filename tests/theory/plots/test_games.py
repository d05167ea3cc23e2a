import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from spin_theory import TabularPolicy, phase_diagram, play
from spin_theory.games.phase import PhaseDiagram
from spin_theory.plots import draw_game, draw_phase, require_plot

pytest.importorskip("matplotlib")


def game_of(iterations, *, beta=2.0):
    start, data = (TabularPolicy.random(1, 5, seed=seed, smallest=0.1) for seed in (0, 1))
    return play(start, data, beta=beta, iterations=iterations)


def test_a_game_is_drawn_as_its_divergences():
    game = game_of(4)
    (axes,) = draw_game(game).axes
    (line,) = axes.lines
    assert line.get_xdata().tolist() == [0, 1, 2, 3, 4]
    assert line.get_ydata().tolist() == game.kl.tolist()
    assert axes.get_yscale() == "symlog"


@pytest.mark.parametrize("policy", [TabularPolicy.random(1, 5, seed=0)])
def test_a_game_that_is_at_the_data_all_along_is_drawn(policy, tmp_path):
    game = play(policy, policy, beta=1.0, iterations=0)
    draw_game(game).savefig(tmp_path / "game.png")
    assert (tmp_path / "game.png").stat().st_size > 0


def test_a_diagram_is_drawn_cell_by_cell_with_the_share_that_diverged():
    change = torch.tensor([[-3.0, 0.5], [0.2, -1.0]], dtype=torch.float64)
    diverged = torch.tensor([[0.0, 0.25], [1.0, 0.0]], dtype=torch.float64)
    none = torch.zeros_like(change)
    figure = draw_phase(PhaseDiagram((0.1, 2.0), (1, None), change, diverged, None, none))
    axes = figure.axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), change.numpy())
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "exact"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0.1", "2"]
    shares = {text.get_position(): text.get_text() for text in axes.texts}
    assert shares == {(1, 0): "25%", (0, 1): "100%"}


def test_a_line_goes_round_the_cells_that_theory_calls_stable():
    stable = torch.tensor([[1.0, 0.2], [0.9, 0.6]], dtype=torch.float64)
    zero = torch.zeros_like(stable)
    axes = draw_phase(PhaseDiagram((0.1, 2.0), (1, None), zero, zero, stable)).axes[0]
    (lines,) = axes.collections
    # the one cell outside is row 0, column 1: an edge to its left, and one above
    edges = [edge.tolist() for edge in lines.get_segments()]
    assert edges == [[[0.5, -0.5], [0.5, 0.5]], [[0.5, 0.5], [1.5, 0.5]]]
    assert not draw_phase(PhaseDiagram((0.1, 2.0), (1, None), zero, zero)).axes[0].collections


@pytest.mark.parametrize(("nearer", "reach"), [(0.1, 1.0), (2.5, 2.5), (15.0, 4.0)])
@pytest.mark.parametrize(("further", "away"), [(0.0, 0.1), (0.18, 0.18)])
def test_each_side_of_a_diagram_has_colours_of_its_own(nearer, reach, further, away):
    change = torch.tensor([[-nearer, further]], dtype=torch.float64)
    none = torch.zeros_like(change)
    figure = draw_phase(PhaseDiagram((1.0,), (1, 2), change, none, None, none))
    assert figure.axes[0].images[0].get_clim() == (-reach, away)


def test_games_that_stopped_off_the_data_are_not_coloured_as_approaching():
    change = torch.tensor([[-1.0, -1.0, 1.0]], dtype=torch.float64)
    stalled = torch.tensor([[0.0, 0.3, 0.9]], dtype=torch.float64)
    none = torch.zeros_like(change)
    drawn = draw_phase(PhaseDiagram((1.0,), (1, 2, 3), change, none, None, stalled))
    found = np.ma.filled(drawn.axes[0].images[0].get_array(), np.nan)
    np.testing.assert_array_equal(found, [[-1.0, np.nan, 1.0]])


def test_the_diagram_of_one_game_is_written(tmp_path):
    diagram = phase_diagram(betas=[1.0], inner_steps=[None], games=1, iterations=1)
    draw_phase(diagram).savefig(tmp_path / "phase.pdf")
    assert (tmp_path / "phase.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name", ["figure.png", "figure.pdf", "figure.svg"])
def test_formats_that_matplotlib_writes_are_accepted(name, tmp_path):
    require_plot(tmp_path / name)


@pytest.mark.parametrize("name", ["figure", "figure.txt", "figure.", ".png"])
def test_other_formats_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match="must end in one of"):
        require_plot(tmp_path / name)


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ValueError, match="folder that does not exist"):
        require_plot(tmp_path / "nowhere" / "figure.png")


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(ValueError, match=r"pip install 'spin-toolkit\[plots\]'"):
        require_plot(Path("figure.png"))
