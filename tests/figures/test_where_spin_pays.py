import math

import pytest

from benchmarks.finite_game import tables
from paper_figures import where_spin_pays
from spin_theory.games.finite import play_rows


@pytest.fixture(scope="module")
def numbers():
    return where_spin_pays.compute(betas=(0.1, 1.0), rows=(16, 256), rates=(1.0,), iterations=2)


def test_a_ratio_is_the_geometric_mean_over_games(numbers):
    start, data = tables()
    # SFT's rate 1 is SPIN's 2 / beta: its first step has the factor beta / 2
    game = play_rows(
        start,
        data,
        rows=256,
        beta=0.1,
        iterations=2,
        epochs=2,
        batch_size=32,
        learning_rate=20.0,
    )
    logs = []
    for number in range(len(start.log_probs)):
        p = data.probs[number]
        one, other = (
            float((p * (p.log() - track.policies[-1].log_probs[number])).sum())
            for track in (game.spin, game.control)
        )
        logs.append(math.log(one / other))
    cell = numbers.cells[1.0][0][1]
    mean = sum(logs) / 64
    spread = math.sqrt(sum((value - mean) ** 2 for value in logs) / 63)
    assert cell.ratio == pytest.approx(math.exp(mean))
    # Student's factor for 63 degrees of freedom
    assert cell.high == pytest.approx(math.exp(mean + 1.99834 * spread / 8), rel=1e-5)
    assert cell.low * cell.high == pytest.approx(cell.ratio**2)


def test_sft_is_nearer_to_the_data_in_every_cell_that_is_decided(numbers):
    cells = [cell for lines in numbers.cells.values() for line in lines for cell in line]
    assert any(cell.decided for cell in cells)
    assert all(cell.ratio > 1 for cell in cells if cell.decided)


def test_every_ratio_is_drawn_and_what_may_be_one_has_brackets(numbers):
    cells = [cell for line in numbers.cells[1.0] for cell in line]
    axes = where_spin_pays.draw(numbers).axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert [text.startswith("(") for text in texts] == [not cell.decided for cell in cells]
    for text, cell in zip(texts, cells, strict=True):
        assert float(text.strip("()")) == pytest.approx(cell.ratio, rel=0.06)
    assert axes.images[0].get_array().flatten().tolist() == pytest.approx(
        [math.log10(cell.ratio) for cell in cells]
    )
