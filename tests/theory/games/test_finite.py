import math

import pytest
import torch

from spin_theory import TabularPolicy, play, without_reference
from spin_theory.games.finite import play_rows
from spin_theory.games.solvers import GradientSteps


def tables_of(responses, *, prompts=2, smallest=0.1):
    return tuple(
        TabularPolicy.random(prompts, responses, seed=seed, smallest=smallest) for seed in (0, 1)
    )


def test_rows_are_kept_and_fewer_of_them_are_the_first_of_more():
    start, data = tables_of(5)
    rules = {"beta": 1.0, "iterations": 1, "epochs": 0, "seed": 3}
    few, many = (play_rows(start, data, rows=rows, **rules).rows for rows in (10, 50))
    assert few.equal(many[:, :10])
    assert not many.equal(play_rows(start, data, rows=50, **rules | {"seed": 4}).rows)


def test_rows_come_from_the_data():
    start, data = tables_of(5, prompts=1)
    game = play_rows(start, data, rows=20_000, beta=1.0, iterations=0)
    errors = (game.spin.frequencies - data.probs).abs()
    assert (errors < 4 * (data.probs / 20_000).sqrt()).all()


def test_with_many_rows_the_game_is_the_exact_one():
    start, data = tables_of(4)
    rows = 100_000
    game = play_rows(start, data, rows=rows, beta=2.0, iterations=3, epochs=4, batch_size=rows)
    exact = play(start, data, beta=2.0, iterations=3, solver=GradientSteps(4, 1.0))
    for one, other in zip(game.spin.policies, exact.policies, strict=True):
        assert (one.probs - other.probs).abs().max() < 6 / math.sqrt(rows)


def test_the_control_is_continued_sft_towards_the_rows():
    """KL(rows || policy) falls to 0 on the rows, and the data stay a draw's distance away."""
    start, data = tables_of(4)
    game = play_rows(
        start, data, rows=200, beta=2.0, iterations=4, epochs=100, batch_size=200, learning_rate=2.0
    )
    assert abs(game.control.train_kl[-1]) < 1e-12
    assert game.control.kl[-1] > 1e-3


def test_responses_in_no_row_count_nothing_in_the_rows_divergence():
    start, data = tables_of(6, prompts=1)
    game = play_rows(start, data, rows=1, beta=1.0, iterations=1, epochs=1)
    (row,) = game.rows[0].tolist()
    assert game.spin.frequencies[0, row] == 1
    assert game.spin.train_kl[0].item() == pytest.approx(-start.log_probs[0, row].item(), rel=1e-14)
    assert game.spin.train_kl.isfinite().all()


def test_history_and_another_optimiser_play_on():
    start, data = tables_of(4)
    game = play_rows(
        start,
        data,
        rows=64,
        beta=1.0,
        iterations=2,
        opponent=without_reference,
        history_weight=0.1,
        optimiser="rmsprop",
        learning_rate=0.01,
    )
    assert torch.isfinite(game.spin.kl).all()
    plain = play_rows(
        start,
        data,
        rows=64,
        beta=1.0,
        iterations=2,
        opponent=without_reference,
        optimiser="rmsprop",
        learning_rate=0.01,
    )
    assert not game.spin.kl[1:].equal(plain.spin.kl[1:])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rows": 0}, "rows must be >= 1"),
        ({"iterations": -1}, "iterations must be >= 0"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"optimiser": "sgd"}, "optimiser must be one of gd, rmsprop"),
        ({"history_weight": -1.0}, "history_weight"),
        ({"loss_type": "square"}, "loss_type"),
    ],
)
def test_what_makes_no_game_is_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        play_rows(*tables_of(3), **{"rows": 5, "beta": 1.0, "iterations": 1} | changes)


def test_any_seed_of_64_bits_plays_and_more_bits_are_refused():
    start, data = (TabularPolicy.random(1, 3, seed=seed, smallest=0.1) for seed in (0, 1))
    for seed in (2**62, -(2**63), 7.0):
        game = play_rows(start, data, rows=20, beta=1.0, iterations=1, seed=seed)
        assert len(game.spin.policies) == 2
    with pytest.raises(ValueError, match="seed must be"):
        play_rows(start, data, rows=20, beta=1.0, iterations=1, seed=-(2**64))
