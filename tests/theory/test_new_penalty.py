"""A penalty of a name, a function and a conjugate goes through every room of the theory."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from spin_theory import (
    PENALTIES,
    GradientSteps,
    InnerProblem,
    TabularPolicy,
    closed_form_update,
    linearise,
    minimise,
    minimiser,
    multiplier,
    optimality_gap,
    play,
    spin_loss,
    spin_objective,
    tv,
    without_reference,
)
from spin_theory.losses import Penalty
from spin_theory.minima.minimise import minimise_problem
from spin_theory.objectives.pair_sums import expected_penalty
from tests.strategies import BETAS, log_policies, log_probs

# max(0, 1 - t)^2 is the largest of u - u^2/4 - u t over u >= 0: at u = 2 (1 - t), or 0 from t = 1.
SQUARED_HINGE = Penalty(
    "squared_hinge",
    lambda margin: (1 - margin).clamp(min=0).square(),
    conjugate=lambda slope: slope - slope.square() / 4,
)
KINKED = Penalty("two_slopes", lambda margin: torch.maximum(-2 * margin, -margin) + 1, kinks=(0.0,))
SOFT = Penalty("soft", lambda margin: torch.sqrt(1 + margin.square()) - margin)
START, DATA = (TabularPolicy.random(2, 4, seed=seed, smallest=0.05) for seed in (0, 1))


@pytest.fixture(autouse=True)
def _more_penalties(monkeypatch):
    for penalty in (SQUARED_HINGE, KINKED, SOFT):
        monkeypatch.setitem(PENALTIES, penalty.name, penalty)


@pytest.mark.parametrize("loss_type", ["squared_hinge", "two_slopes", "soft"])
def test_its_objective_is_the_mean_of_its_loss(loss_type):
    policy = TabularPolicy.random(2, 4, seed=2)
    expected = 0.0
    for real in range(4):
        for generated in range(4):
            loss = spin_loss(
                policy_real_logps=policy.log_probs[:, real],
                policy_generated_logps=policy.log_probs[:, generated],
                opponent_real_logps=START.log_probs[:, real],
                opponent_generated_logps=START.log_probs[:, generated],
                beta=0.7,
                loss_type=loss_type,
            )
            expected += (DATA.probs[:, real] * START.probs[:, generated] * loss).mean().item()
    found = spin_objective(policy, START, DATA, beta=0.7, loss_type=loss_type)
    assert found.item() == pytest.approx(expected, rel=1e-13)


def test_its_sum_over_many_responses_has_value_and_gradient():
    tables = [TabularPolicy.random(1, 700, seed=seed).log_probs for seed in (0, 1)]
    scores = torch.linspace(-2, 2, 700, dtype=torch.float64)[None].requires_grad_()
    value = expected_penalty(scores, *tables, loss_type="squared_hinge")
    (gradient,) = torch.autograd.grad(value.sum(), scores)
    assert gradient.sum().abs() < 1e-12  # a shift of all scores changes nothing
    assert (gradient != 0).any()


@st.composite
def mild_policies(draw, *, count):
    """Tables down to 1e-3: the general search stalls on much smaller probabilities."""
    shape = {"prompts": draw(st.integers(1, 3)), "responses": draw(st.integers(1, 5))}
    tables = [draw(log_probs(**shape, smallest=math.log(1e-3))) for _ in range(count)]
    return tuple(TabularPolicy(table) for table in tables)


@given(policies=mild_policies(count=2), beta=BETAS)
def test_its_minimum_is_certified(policies, beta):
    opponent, data = policies
    minimum = minimise(opponent, data, beta=beta, loss_type="squared_hinge")
    assert minimum.objective - minimum.lower_bound + 1e-12 >= 0
    assert minimum.gap <= 1e-9
    assert minimum.gradient_norm <= 1e-9 * max(1, beta)
    above = optimality_gap(data, opponent, data, beta=beta, loss_type="squared_hinge")
    assert above >= -1e-9


def tspin_problem(policies, weight):
    data, sampler, initial = policies
    return InnerProblem(
        data=data,
        sampler=sampler,
        reference=None,
        beta=1.0,
        loss_type="squared_hinge",
        initial=initial,
        history_weight=weight,
    )


@given(policies=mild_policies(count=3), weight=st.floats(0.0, 2.0))
def test_tspins_minimum_is_certified_too(policies, weight):
    assert minimise_problem(tspin_problem(policies, weight)).gap <= 1e-9


FAR = tuple(
    TabularPolicy(torch.tensor([row], dtype=torch.float64).log_softmax(-1))
    for row in ([0.0, -22.481], [-16.66, 0.0], [0.0, 0.0])
)


@example(policies=FAR, weight=0.0).via("the search stalls, and the gap says so")
@given(policies=log_policies(count=3, max_responses=5), weight=st.floats(0.0, 2.0))
def test_where_the_search_stalls_its_lower_bound_still_holds(policies, weight):
    found = minimise_problem(tspin_problem(policies, weight))
    assert found.gap >= 0
    assert found.lower_bound <= found.objective + 1e-13 * (1 + abs(found.objective))  # rounding
    assert found.objective <= 1e-9 + 1.0 + weight or found.gap > 1e-9  # the start's value


def test_its_games_are_played_by_search_and_by_steps():
    searched = play(
        START, DATA, beta=2.0, iterations=3, loss_type="squared_hinge", solver=minimiser
    )
    assert searched.tv[-1] < searched.tv[0]
    steps = GradientSteps(steps=2000, learning_rate=0.3)
    stepped = play(START, DATA, beta=2.0, iterations=1, loss_type="squared_hinge", solver=steps)
    assert tv(stepped.policies[1], searched.policies[1]).max() < 1e-6
    tspin = play(
        START,
        DATA,
        beta=2.0,
        iterations=2,
        loss_type="squared_hinge",
        solver=minimiser,
        opponent=without_reference,
        history_weight=0.1,
    )
    assert len(tspin.policies) == 3


def test_one_iteration_near_the_data_is_linearised():
    point = TabularPolicy(DATA.log_probs[:1])
    found = linearise([point, point], point, beta=2.0, loss_type="squared_hinge")
    # near the data the scores are |l'(0)| / (2 l''(0)) = 2 / (2 * 2) times log(p_data/p_t)
    assert found.spectral_radius == pytest.approx(1 - 0.5 / 2.0)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: closed_form_update(START, DATA, beta=1.0, loss_type="soft"), "no closed form"),
        (lambda: multiplier(beta=1.0, loss_type="soft"), "must be logistic or exponential"),
        (lambda: minimise(START, DATA, beta=1.0, loss_type="soft"), "soft has no conjugate"),
        (lambda: minimise(START, DATA, beta=1.0, loss_type="two_slopes"), "two_slopes has kinks"),
        (
            lambda: linearise([DATA, DATA], DATA, beta=1.0, loss_type="two_slopes"),
            "must be logistic or exponential or squared_hinge or soft",
        ),
    ],
)
def test_what_was_not_stated_is_refused_in_one_line(refused, message):
    with pytest.raises(ValueError, match=message) as caught:
        refused()
    assert "\n" not in str(caught.value)


def test_a_search_without_certificate_needs_no_conjugate():
    problem = InnerProblem(data=DATA, sampler=START, reference=START, beta=1.0, loss_type="soft")
    best = minimiser(problem)
    logits = best.log_probs.clone().requires_grad_()
    value = spin_objective(
        TabularPolicy.from_logits(logits), START, DATA, beta=1.0, loss_type="soft"
    )
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.norm() < 1e-12
