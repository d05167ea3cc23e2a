import math

import pytest
import torch

from paper_figures import inexact_law
from spin_theory import GradientSteps, TabularPolicy, play


@pytest.fixture(scope="module")
def numbers():
    return inexact_law.compute(steps=(1, 2, 8), games=4, rows=5, iterations=4)


def test_one_played_iteration_multiplies_deviations_as_the_law_says(numbers):
    for curve in numbers.curves:
        for law, measured in zip(curve.law, curve.measured, strict=True):
            assert measured == pytest.approx(law, rel=1e-3, abs=1e-4)


def test_the_law_is_the_formula_of_the_theory(numbers):
    p = torch.tensor(inexact_law.DATA, dtype=torch.float64)
    largest = float(torch.linalg.eigvalsh(torch.diag(p) - torch.outer(p, p))[-1])
    for curve in numbers.curves:
        for count, law in zip(numbers.steps, curve.law, strict=True):
            left = (1 - curve.beta**2 * largest / 2) ** count
            assert law[-1] == pytest.approx(1 - (1 - left) / curve.beta)


def test_the_exact_boundary_is_one_half_and_few_steps_have_none_below(numbers):
    assert numbers.boundaries[-1] == pytest.approx((0.5,), rel=0.02)
    for betas in numbers.boundaries[:-1]:
        assert all(beta > 1 for beta in betas)


def test_boundaries_are_those_of_the_diagram(numbers):
    """The share that the diagram says is stable crosses three quarters at the same betas."""
    for column, betas in enumerate(numbers.boundaries):
        for row, beta in enumerate(numbers.diagram.betas):
            crossed = sum(beta > boundary for boundary in betas)
            starts_inside = column < len(numbers.steps)  # the smallest beta, at few steps
            inside = starts_inside == (crossed % 2 == 0)
            near = any(math.isclose(beta, boundary, rel_tol=0.02) for boundary in betas)
            assert near or inside == (float(numbers.diagram.stable[row, column]) > 0.75)


@pytest.mark.parametrize("steps", [8, 9])
def test_games_stop_settling_where_the_law_says(steps):
    """The threshold that games show, by bisection, is where the formula has size 1.

    The limit of descent itself, 2 / sqrt(mu), is 3.22 here. Eight steps overshoot just above it,
    and nine, which end on the other side, only at 3.39.
    """
    data = TabularPolicy.from_probs([inexact_law.DATA])
    p = data.probs[0]
    mu = float(torch.linalg.eigvalsh(torch.diag(p) - torch.outer(p, p))[-1])
    push = torch.tensor([[1e-4, -1e-4, 0.0, 0.0]], dtype=torch.float64)
    start = TabularPolicy.from_logits(data.log_probs + push)

    def settles(beta):
        solver = GradientSteps(steps=steps, learning_rate=1.0)
        distances = play(start, data, beta=beta, iterations=40, solver=solver).tv
        return bool(distances[-1] < distances[0])

    def bisected(holds, low, high):
        for _ in range(12):
            middle = (low + high) / 2
            low, high = (middle, high) if holds(middle) else (low, middle)
        return low

    def inside(beta):
        return abs(1 - (1 - (1 - beta**2 * mu / 2) ** steps) / beta) < 1

    law = bisected(inside, 2.0, 4.0)
    assert bisected(settles, 2.0, 4.0) == pytest.approx(law, rel=2e-3)
    assert law == pytest.approx({8: 2 / math.sqrt(mu), 9: 3.394}[steps], rel=1e-3)


def test_every_number_is_drawn(numbers):
    left, right, *_ = inexact_law.draw(numbers).axes
    drawn = [list(line.get_ydata()) for line in left.lines]
    for number, curve in enumerate(numbers.curves):
        assert drawn[2 * number] == [row[-1] for row in curve.law]
        assert drawn[2 * number + 1] == [row[-1] for row in curve.measured]
    assert right.collections[0].get_array().shape == numbers.diagram.change.shape
