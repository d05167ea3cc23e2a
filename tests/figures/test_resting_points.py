import pytest

from paper_figures import resting_points
from spin_theory import TabularPolicy, tv
from spin_theory.claims.basins import CYCLE, DATA, POINT


@pytest.fixture(scope="module")
def numbers():
    return resting_points.compute(iterations=30)


def test_at_a_temperature_games_end_at_that_power_of_the_data(numbers):
    _, data = resting_points.TABLES
    for temperature, distances in numbers.tempered.items():
        powers = [p**temperature for p in data]
        rest = [p / sum(powers) for p in powers]
        expected = sum(abs(one - other) for one, other in zip(rest, data, strict=True)) / 2
        assert numbers.limits[temperature] == pytest.approx(expected, abs=1e-15)
        assert distances[-1] == pytest.approx(expected, abs=1e-4)


def test_the_first_step_at_a_temperature_is_that_of_a_logistic_game(numbers):
    # the minimiser is p_t (p_data / p_t^(1/T))^(1/beta), normalised
    start, data = resting_points.TABLES
    for temperature, distances in numbers.tempered.items():
        terms = [
            p * (q / p ** (1 / temperature)) ** (1 / resting_points.TEMPERED_BETA)
            for p, q in zip(start, data, strict=True)
        ]
        after = TabularPolicy.from_probs([[term / sum(terms) for term in terms]])
        assert distances[1] == pytest.approx(float(tv(after, TabularPolicy.from_probs([data]))))


def test_tspin_ends_in_its_cycle_or_at_its_fixed_point_by_where_it_begins(numbers):
    point, data, *cycle = (TabularPolicy.from_probs([row]) for row in (POINT, DATA, *CYCLE))
    far, *near = numbers.tspin.values()
    assert sorted(far[-2:]) == pytest.approx(
        sorted(float(tv(state, point)) for state in cycle), abs=1e-3
    )
    for distances in near:
        assert distances[-1] < distances[0] / 50
    assert numbers.point_to_data == pytest.approx(float(tv(point, data)))


def test_every_game_is_drawn(numbers):
    left, right = resting_points.draw(numbers).axes
    drawn = [tuple(line.get_ydata()) for line in left.lines[:3]]
    assert drawn == list(numbers.tempered.values())
    assert [tuple(line.get_ydata()) for line in right.lines[:3]] == list(numbers.tspin.values())
