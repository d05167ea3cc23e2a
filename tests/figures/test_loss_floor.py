import pytest

from paper_figures import loss_floor
from spin_theory import TabularPolicy, optimal_value, spin_objective


@pytest.fixture(scope="module")
def numbers():
    return loss_floor.compute(prompts=3, responses=5, points=4)


def test_the_search_reaches_the_floor_and_the_certificate_proves_it(numbers):
    assert numbers.least == pytest.approx(numbers.floor, abs=1e-9)
    for least, certified in zip(numbers.least, numbers.certified, strict=True):
        assert least - 1e-9 < certified <= least


def test_the_floor_is_between_its_bounds_and_falls_with_the_distance(numbers):
    lower, upper = numbers.cheap
    rows = zip(lower, numbers.floor, upper, strict=True)
    assert all(low <= floor <= high for low, floor, high in rows)
    assert list(numbers.tv) == sorted(numbers.tv)
    assert list(numbers.floor) == sorted(numbers.floor, reverse=True)


def test_the_excess_of_the_data_is_a_difference_of_objectives(numbers):
    data, other = (TabularPolicy.random(3, 5, seed=k, smallest=1e-2) for k in (0, 1))
    last = TabularPolicy.from_logits(data.log_probs + 3.1 * (other.log_probs - data.log_probs))
    for beta, excess in numbers.excess.items():
        value = spin_objective(data, last, data, beta=beta) - optimal_value(last, data)
        assert excess[-1] == pytest.approx(float(value), abs=1e-12)
        assert excess[-1] > 0


def test_every_number_is_drawn(numbers):
    left, right = loss_floor.draw(numbers).axes
    assert tuple(left.lines[1].get_ydata()) == numbers.least
    assert [tuple(line.get_ydata()) for line in right.lines] == list(numbers.excess.values())
