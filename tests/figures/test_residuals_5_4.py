import pytest

from paper_figures import residuals_5_4
from spin_theory import check_theorem_5_4
from spin_theory.claims.instances import random_instance
from spin_theory.minima.closed_forms import closed_form_update
from spin_theory.tolerances import ROUNDING


@pytest.fixture(scope="module")
def numbers():
    return residuals_5_4.compute(instances=6)


def off_by_a_hundredth(opponent, data, *, beta, loss_type="logistic"):
    return closed_form_update(opponent, data, beta=1.01 * beta, loss_type=loss_type)


def test_residuals_are_those_of_the_check_for_the_theorem_and_for_a_wrong_formula(numbers):
    for seed in range(6):
        draw = random_instance(seed)
        right = check_theorem_5_4(draw.data, draw.opponent, beta=draw.beta)
        wrong = check_theorem_5_4(
            draw.data, draw.opponent, beta=draw.beta, update=off_by_a_hundredth
        )
        assert numbers.theorem[seed] == right.residual
        assert numbers.wrong[seed] == wrong.residual
        assert numbers.certified[seed] == right.gap / right.objective


def test_the_tolerance_is_between_the_theorem_and_the_wrong_formula(numbers):
    assert max(numbers.theorem) < ROUNDING < min(numbers.wrong)
    assert max(numbers.own_gap) < ROUNDING


def test_every_instance_is_drawn(numbers):
    left, right = residuals_5_4.draw(numbers).axes
    for axes, places in ((left, numbers.betas), (right, numbers.responses)):
        for points in axes.lines[:2]:
            assert tuple(points.get_xdata()) == places
    assert tuple(left.lines[0].get_ydata()) == numbers.wrong
