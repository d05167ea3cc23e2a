import pytest

from benchmarks.finite_game import RULES, tables
from paper_figures import finite_play
from spin_theory.games.finite import play_rows


@pytest.fixture(scope="module")
def numbers():
    return finite_play.compute(seeds=2, iterations=2)


def test_means_are_over_the_games_of_each_seed(numbers):
    start, data = tables()
    ends = [
        float(
            play_rows(start, data, rows=416, iterations=2, beta=1.0, seed=seed, **RULES).spin.kl[-1]
        )
        for seed in (0, 1)
    ]
    mean = numbers.spin_by_size[numbers.sizes.index(416)]
    assert mean.value == pytest.approx(sum(ends) / 2)
    # two values: the standard error is half of their distance; Student's factor for one
    # degree of freedom is tan(0.475 pi) = 12.7062
    assert mean.half == pytest.approx(12.7062 * abs(ends[0] - ends[1]) / 2, rel=1e-4)


def test_one_iteration_is_one_opponent(numbers):
    assert numbers.one_opponent[0] == numbers.iterated[0]


def test_iterations_beat_epochs_of_one_opponent_and_sft_beats_both(numbers):
    assert numbers.control[-1].value < numbers.iterated[-1].value < numbers.one_opponent[-1].value


def test_more_rows_are_better_for_both(numbers):
    for means in (numbers.spin_by_size, numbers.control_by_size):
        values = [mean.value for mean in means]
        assert values == sorted(values, reverse=True)


def test_every_mean_is_drawn(numbers):
    left, right = finite_play.draw(numbers).axes
    assert len(numbers.one_opponent) == 3
    drawn = [
        [tuple(bars.lines[0].get_ydata()) for bars in axes.containers] for axes in (left, right)
    ]
    for means, line in zip(
        (numbers.one_opponent, numbers.iterated, numbers.control), drawn[0], strict=True
    ):
        assert line == tuple(mean.value for mean in means)
    assert drawn[1][0] == tuple(mean.value for mean in numbers.spin_by_size)
