"""The closed forms of the bridge, and that it rejects wrong ones."""

import pytest

from spin_theory.policies import TabularPolicy
from spin_train.lab.bridge import judge, slope_of
from spin_train.lab.findings import Finding
from spin_train.lab.games import fixed_point
from spin_train.lab.problems import TOLERANCE, Problem, distance, problems

DATA, OPPONENT = (TabularPolicy.random(3, 6, seed=seed, smallest=0.05) for seed in (0, 1))
SLACK = 1e-12
"""Nats, of a bound that is rounded down and of a search in float64."""

PROBLEMS = [*problems(), Problem("T-SPIN with history", algorithm="tspin", history_weight=0.1)]
named = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)


@named
def test_the_solution_is_at_the_lower_bound(problem):
    solution = problem.solution(OPPONENT, DATA)
    gap = float(problem.objective(solution, OPPONENT, DATA)) - problem.bound(OPPONENT, DATA)
    assert -SLACK < gap < SLACK
    nudged = TabularPolicy.from_logits(solution.log_probs + 0.01 * DATA.log_probs)
    worse = float(problem.objective(nudged, OPPONENT, DATA))
    assert worse > problem.bound(OPPONENT, DATA) + SLACK


@named
def test_the_right_form_holds_and_every_wrong_one_is_rejected(problem):
    right = problem.solution(OPPONENT, DATA)
    assert judge(problem, right, OPPONENT, DATA).holds
    wrong = problem.wrong_forms()
    assert len(wrong) >= 2
    for name, form in wrong.items():
        found = judge(problem, form(OPPONENT, DATA), OPPONENT, DATA)
        assert not found.holds, name
        assert found.tv > 10 * TOLERANCE, name


@named
def test_a_table_that_is_a_little_off_is_rejected(problem):
    probs = problem.solution(OPPONENT, DATA).probs.clone()
    probs[1, 0] += 1.5 * TOLERANCE  # of one prompt alone
    probs[1, 1] -= 1.5 * TOLERANCE
    assert not judge(problem, TabularPolicy.from_probs(probs), OPPONENT, DATA).holds


def test_distance_is_that_of_the_worst_prompt():
    one = TabularPolicy.from_probs([[0.5, 0.5], [0.5, 0.5]])
    other = TabularPolicy.from_probs([[0.5, 0.5], [0.8, 0.2]])
    assert distance(one, other) == pytest.approx(0.3)


def test_the_fixed_point_of_t_spin_stays():
    rest = fixed_point(DATA, beta=2.0)
    after = Problem("", algorithm="tspin", beta=2.0).solution(rest, DATA)
    assert distance(after, rest) < SLACK


def test_slopes_are_those_of_powers():
    sizes = [10, 100, 1000]
    assert slope_of(sizes, [n**-0.5 for n in sizes]) == pytest.approx(-0.5)


@pytest.mark.parametrize("measured", [0.4, 0.6, float("nan"), float("inf")])
def test_a_finding_that_is_not_within_its_tolerance_does_not_hold(measured):
    assert Finding("", 0.5, 0.55, 0.06).holds
    assert not Finding("", 0.5, measured, 0.06).holds


@pytest.mark.parametrize("apart", [0.05, float("nan")])
def test_a_finding_that_cannot_tell_right_from_wrong_does_not_hold(apart):
    assert Finding("", 0.5, 0.55, 0.06, wrong="a wrong form", wrong_apart=0.07).holds
    assert not Finding("", 0.5, 0.55, 0.06, wrong="a wrong form", wrong_apart=apart).holds
