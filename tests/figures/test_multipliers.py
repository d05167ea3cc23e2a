import math

import pytest

from paper_figures import multipliers


@pytest.fixture(scope="module")
def numbers():
    return multipliers.compute(iterations=5, betas=4)


def test_the_log_ratio_of_a_game_is_a_power_of_the_multiplier(numbers):
    # log-odds of the start (0.45, 0.55) less those of the data (0.6, 0.4)
    first = math.log(0.45 / 0.55) - math.log(0.6 / 0.4)
    for beta, values in numbers.games.items():
        expected = [first * (1 - 1 / beta) ** t for t in range(6)]
        assert values == pytest.approx(expected)


def test_games_contract_cycle_and_diverge_at_the_drawn_betas(numbers):
    last = {beta: abs(values[-1]) / abs(values[0]) for beta, values in numbers.games.items()}
    assert last[5.0] < 1
    assert last[0.7] < 1
    assert last[0.5] == pytest.approx(1)
    assert last[0.45] > 1


def test_what_a_searched_iteration_does_is_the_law(numbers):
    for place, beta in enumerate(numbers.measured_at):
        laws = {
            "logistic": 1 - 1 / beta,
            "exponential": 1 - 1 / (2 * beta),
            "logistic, SFT term 0.1": beta * (beta - 1) / (beta**2 + 2 * 0.1),
        }
        assert list(laws) == list(numbers.measured)
        for name, law in laws.items():
            assert numbers.measured[name][place] == pytest.approx(law, abs=1e-4)


def test_every_number_is_drawn(numbers):
    left, right = multipliers.draw(numbers).axes
    games = [tuple(line.get_ydata()) for line in left.lines if line.get_linestyle() == "None"]
    marks = [tuple(line.get_ydata()) for line in right.lines if line.get_linestyle() == "None"]
    assert games == list(numbers.games.values())
    assert marks == list(numbers.measured.values())
