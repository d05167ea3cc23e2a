import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from spin_theory import (
    GradientSteps,
    InnerProblem,
    TabularPolicy,
    exact,
    minimiser,
    spin_loss,
    tspin_loss,
    tv,
)
from tests.strategies import BETAS, LOSS_TYPES, at_most, log_policies

GENERATOR = torch.Generator()
DATA, OPPONENT, INITIAL = (TabularPolicy.random(2, 4, seed=s, smallest=0.1) for s in range(3))
RATES = {"gd": 1.0, "momentum": 0.3, "adam": 0.02, "rmsprop": 0.002}


def spin(loss_type="logistic", beta=2.0):
    return InnerProblem(
        data=DATA, sampler=OPPONENT, reference=OPPONENT, beta=beta, loss_type=loss_type
    )


def tspin(loss_type="logistic", beta=1.0):
    return InnerProblem(
        data=DATA,
        sampler=OPPONENT,
        reference=None,
        beta=beta,
        loss_type=loss_type,
        initial=INITIAL,
        history_weight=0.3,
    )


@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
@pytest.mark.parametrize("has_reference", [True, False])
@given(policies=log_policies(count=3), beta=BETAS)
def test_the_exact_solver_and_the_search_agree(loss_type, has_reference, policies, beta):
    data, sampler, reference = policies
    problem = InnerProblem(
        data=data,
        sampler=sampler,
        reference=reference if has_reference else None,
        beta=beta,
        loss_type=loss_type,
    )
    one = exact(problem, start=sampler, generator=GENERATOR)
    other = minimiser(problem, start=sampler, generator=GENERATOR)
    assert tv(one, other).max() <= 1e-12


@pytest.mark.parametrize("problem", [spin, tspin])
@pytest.mark.parametrize("optimiser", RATES)
def test_many_steps_reach_the_minimiser(problem, optimiser):
    solver = GradientSteps(steps=1000, learning_rate=RATES[optimiser], optimiser=optimiser)
    found = solver(problem(), start=OPPONENT, generator=GENERATOR)
    # RMSProp divides by its gradient's size, so it ends within about a learning rate
    tolerance = 2e-3 if optimiser == "rmsprop" else 1e-8
    assert tv(found, minimiser(problem())).max() <= tolerance


@pytest.mark.parametrize("optimiser", RATES)
@pytest.mark.parametrize("pairs", [None, 3])
@given(policies=log_policies(count=2))
def test_no_steps_leave_the_policy(optimiser, pairs, policies):
    start, data = policies
    problem = InnerProblem(data=data, sampler=start, reference=start, beta=1.0)
    solver = GradientSteps(steps=0, learning_rate=1.0, optimiser=optimiser, pairs=pairs)
    found = solver(problem, start=start, generator=GENERATOR)
    assert tv(found, start).max() <= 1e-15


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@given(policies=log_policies(count=2, max_responses=4), beta=BETAS)
def test_a_first_step_goes_from_the_opponent_to_the_data(loss_type, policies, beta):
    # the gradient at theta_t is beta l'(0) (p_data - p_t), l'(0) = -1/2 for logistic, else -1
    opponent, data = policies
    problem = InnerProblem(
        data=data, sampler=opponent, reference=opponent, beta=beta, loss_type=loss_type
    )
    solver = GradientSteps(steps=1, learning_rate=0.1)
    found = solver(problem, start=opponent, generator=GENERATOR)
    slope = 0.5 if loss_type == "logistic" else 1.0
    logits = opponent.log_probs + 0.1 * beta * slope * (data.probs - opponent.probs)
    assert tv(found, TabularPolicy.from_logits(logits)).max() <= 1e-12


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("problem", [spin, tspin])
def test_a_step_on_drawn_triplets_is_that_of_their_mean_loss(loss_type, problem):
    instance, pairs = problem(loss_type), 7
    generator = torch.Generator().manual_seed(5)
    solver = GradientSteps(steps=1, learning_rate=0.25, pairs=pairs)
    found = solver(instance, start=INITIAL, generator=generator)

    generator = torch.Generator().manual_seed(5)
    tables = (DATA, OPPONENT, INITIAL if instance.initial else OPPONENT)
    real, generated, proto = (
        torch.multinomial(table.probs, pairs, replacement=True, generator=generator)
        for table in tables
    )
    logits = INITIAL.log_probs.clone().requires_grad_()
    policy = logits.log_softmax(-1)
    if problem is spin:
        losses = spin_loss(
            policy_real_logps=policy.gather(1, real),
            policy_generated_logps=policy.gather(1, generated),
            opponent_real_logps=OPPONENT.log_probs.gather(1, real),
            opponent_generated_logps=OPPONENT.log_probs.gather(1, generated),
            beta=instance.beta,
            loss_type=loss_type,
        )
    else:
        losses = tspin_loss(
            policy_real_logps=policy.gather(1, real),
            policy_generated_logps=policy.gather(1, generated),
            policy_proto_logps=policy.gather(1, proto),
            beta=instance.beta,
            history_weight=0.3,
            loss_type=loss_type,
        )
    (gradient,) = torch.autograd.grad(losses.mean(dim=-1).sum(), logits)
    expected = TabularPolicy.from_logits((logits - 0.25 * gradient).detach())
    assert gradient.norm() > 1e-3
    assert tv(found, expected).max() <= 1e-14


@pytest.mark.parametrize("problem", [spin, tspin])
def test_many_triplets_take_the_place_of_the_objective(problem):
    start = INITIAL
    exactly, drawn = (
        GradientSteps(steps=20, learning_rate=0.5, pairs=pairs)(
            problem(), start=start, generator=torch.Generator().manual_seed(0)
        )
        for pairs in (None, 200_000)
    )
    assert tv(exactly, start).min() > 0.02
    assert tv(exactly, drawn).max() <= 0.005  # 1/sqrt(pairs): 0.0022


def test_triplets_are_drawn_once_an_iteration():
    # a mean of few triplets has its own minimiser, or none; a fresh draw would wander
    solver = GradientSteps(steps=1, learning_rate=1.0, pairs=4)
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    solver(spin(), start=OPPONENT, generator=generator)
    after_one = generator.get_state()
    generator.set_state(state)
    GradientSteps(steps=50, learning_rate=1.0, pairs=4)(spin(), start=OPPONENT, generator=generator)
    assert torch.equal(generator.get_state(), after_one)


@pytest.mark.parametrize("pairs", [None, 16])
def test_the_same_seed_draws_the_same(pairs):
    solver = GradientSteps(steps=5, learning_rate=0.5, pairs=pairs)
    one, other, third = (
        solver(spin(), start=OPPONENT, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(one.log_probs, other.log_probs)
    assert torch.equal(one.log_probs, third.log_probs) == (pairs is None)


@at_most(15)
@example(optimiser="gd", steps=3).via("the sum over prompts, not their mean, is stepped on")
@given(optimiser=st.sampled_from(sorted(RATES)), steps=st.integers(1, 20))
def test_prompts_do_not_see_each_other(optimiser, steps):
    solver = GradientSteps(steps=steps, learning_rate=0.1, optimiser=optimiser)
    together = solver(tspin(), start=INITIAL, generator=GENERATOR)
    for row in range(2):
        data, opponent, initial = (
            TabularPolicy(table.log_probs[row : row + 1]) for table in (DATA, OPPONENT, INITIAL)
        )
        problem = InnerProblem(
            data=data,
            sampler=opponent,
            reference=None,
            beta=1.0,
            initial=initial,
            history_weight=0.3,
        )
        alone = solver(problem, start=initial, generator=GENERATOR)
        torch.testing.assert_close(
            together.log_probs[row : row + 1], alone.log_probs, rtol=1e-12, atol=1e-14
        )


@pytest.mark.parametrize(("prompts", "responses"), [(5, 3), (3, 40)])
def test_groups_and_large_tables_take_the_same_steps(prompts, responses, monkeypatch):
    data, opponent = (TabularPolicy.random(prompts, responses, seed=s) for s in (0, 1))
    problem = InnerProblem(data=data, sampler=opponent, reference=opponent, beta=0.7)
    solver = GradientSteps(steps=5, learning_rate=2.0)
    found = solver(problem, start=opponent, generator=GENERATOR)
    monkeypatch.setattr("spin_theory.games.solvers.CACHED_PAIRS", 2 * responses**2)
    monkeypatch.setattr("spin_theory.games.solvers.MOST_PAIRED", 100)
    in_groups = solver(problem, start=opponent, generator=GENERATOR)
    assert tv(found, opponent).min() > 1e-3
    assert tv(found, in_groups).max() <= 1e-14


def test_drawn_pairs_have_no_derivative():
    with pytest.raises(ValueError, match="pairs must be None"):
        GradientSteps(1, 1.0, pairs=3).differentiable(spin(), start=OPPONENT)


def test_the_start_is_left_as_it_was():
    before = OPPONENT.log_probs.clone()
    GradientSteps(steps=3, learning_rate=1.0)(spin(), start=OPPONENT, generator=GENERATOR)
    assert torch.equal(OPPONENT.log_probs, before)


def test_problems_without_a_closed_form_are_refused_by_the_exact_solver():
    with pytest.raises(ValueError, match=r"history_weight > 0.*minimise_problem"):
        exact(tspin(), start=OPPONENT, generator=GENERATOR)
    with pytest.raises(ValueError, match="linear programme"):
        exact(spin("hinge"), start=OPPONENT, generator=GENERATOR)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": -1}, "steps must be >= 0, got -1"),
        ({"learning_rate": 0.0}, "learning_rate must be finite and > 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite and > 0"),
        ({"optimiser": "lion"}, "optimiser must be one of gd, momentum, adam, rmsprop, got 'lion'"),
        ({"pairs": 0}, "pairs must be >= 1, got 0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
    ],
)
def test_bad_solvers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GradientSteps(**({"steps": 1, "learning_rate": 1.0} | arguments))
