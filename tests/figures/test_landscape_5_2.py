import math

import pytest

from paper_figures import landscape_5_2
from spin_theory import TabularPolicy, spin_objective


def two_responses(first):
    return TabularPolicy.from_probs([[first, 1 - first]])


@pytest.fixture(scope="module")
def numbers():
    return landscape_5_2.compute(points=49)


@pytest.mark.parametrize("name", landscape_5_2.PENALTIES)
def test_values_are_the_objective_itself(numbers, name):
    at_zero = math.log(2) if name == "logistic" else 1.0
    data = two_responses(numbers.data)
    for landscape in (numbers.at_data, numbers.off_data):
        opponent = two_responses(landscape.opponent)
        for place in (0, 20, 48):
            policy = two_responses(numbers.policies[place])
            value = spin_objective(policy, opponent, data, beta=1.0, loss_type=name)
            assert landscape.values[name][place] + at_zero == pytest.approx(float(value))


@pytest.mark.parametrize("name", landscape_5_2.PENALTIES)
def test_an_opponent_at_the_data_is_a_minimum_and_another_is_not(numbers, name):
    assert min(numbers.at_data.values[name]) >= -1e-12
    assert min(numbers.off_data.values[name]) < -0.1


def test_minima_are_where_the_closed_forms_are(numbers):
    # off the data: logistic at beta 1 the data; exponential the geometric mean of both;
    # hinge where the one margin is 1, so the odds are e times the opponent's.
    p, q = numbers.data, numbers.off_data.opponent
    odds = {
        "logistic": p / (1 - p),
        "exponential": math.sqrt(p / (1 - p) * q / (1 - q)),
        "hinge": math.e * q / (1 - q),
    }
    for name, (place, least) in numbers.off_data.minima.items():
        assert place / (1 - place) == pytest.approx(odds[name], rel=1e-6)
        assert least == pytest.approx(min(numbers.off_data.values[name]), abs=1e-2)


def test_witnesses_end_where_theory_says(numbers):
    ends = {}
    for name, values in numbers.witnesses.items():
        below = [b for b, v in zip(numbers.betas, values, strict=True) if v < 0]
        ends[name] = below[-1]
    step = numbers.betas[1] / numbers.betas[0]
    assert 1 / step**1.01 <= ends["exponential"] <= 1.01  # exactly 1
    assert ends["logistic"] >= 2 / step
    assert ends["hinge"] >= math.e / step
    assert ends["correlation"] == numbers.betas[-1]


def test_every_number_is_drawn(numbers):
    for axes, landscape in zip(
        landscape_5_2.draw(numbers).axes, (numbers.at_data, numbers.off_data), strict=False
    ):
        drawn = [tuple(line.get_ydata()) for line in axes.lines]
        assert drawn[:4] == list(landscape.values.values())
