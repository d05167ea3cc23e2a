import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_theory import (
    GradientSteps,
    SampledMinimiser,
    TabularPolicy,
    exact,
    fixed_point,
    geometric_mixture,
    last_iterate,
    linearise,
    minimiser,
    mixed_samples,
    multiplier,
    play,
    tv,
    without_reference,
)
from spin_theory.games.iterates import observed_multipliers
from spin_theory.games.rates import mixing_multipliers
from tests.strategies import BETAS, LOSS_TYPES, log_policies, log_probs

START, DATA = (TabularPolicy.random(1, 5, seed=seed, smallest=0.05) for seed in (0, 1))
STEP = 1e-5  # of the finite differences: their error is its square, and rounding over it
DIFFERENCE = 1e-6


@st.composite
def data_tables(draw):
    """p_data of one prompt, where the linearised map is well conditioned."""
    responses = draw(st.integers(2, 5))
    return TabularPolicy(draw(log_probs(prompts=1, responses=responses, smallest=math.log(1e-4))))


def near(policy, direction, size):
    return TabularPolicy.from_logits(policy.log_probs + size * direction)


def centred(table):
    return table - table.mean(dim=-1, keepdim=True)


def differences(start, iterates, data, solver=minimiser, step=STEP, **settings):
    """The matrix of `linearise`, by moving one log-prob of one iterate at a time."""
    depth, responses = len(iterates), data.log_probs.shape[1]
    rule = settings.pop("opponent")

    def after(moved):  # what follows these iterates, newest first
        def of_these(policies):
            return rule([start, *reversed(moved)])

        def from_the_last(problem, *, start, generator):
            return solver(problem, start=moved[0], generator=generator)

        game = play(start, data, iterations=1, solver=from_the_last, opponent=of_these, **settings)
        return centred(game.policies[1].log_probs[0])

    columns = []
    for place in range(depth):
        for response in range(responses):
            unit = torch.zeros(1, responses, dtype=torch.float64)
            unit[0, response] = 1.0
            both = []
            for sign in (1, -1):
                moved = list(iterates)
                moved[place] = near(moved[place], unit, sign * step)
                both.append(after(moved))
            columns.append((both[0] - both[1]) / (2 * step))
    return torch.stack(columns, dim=1)  # (Y, depth * Y)


RULES = {
    "SPIN": (last_iterate, 1, 0.0),
    "mixed": (mixed_samples, 2, 0.0),
    "geometric": (partial(geometric_mixture, base_weight=0.3), 1, 0.0),
    "T-SPIN": (without_reference, 1, 0.0),
    "T-SPIN with history": (without_reference, 1, 0.2),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
@pytest.mark.parametrize("at_data", [True, False])
def test_the_linearised_map_is_the_iterations_finite_difference(rule, loss_type, at_data):
    opponent, depth, weight = RULES[rule]
    random = [TabularPolicy.random(1, 5, seed=seed, smallest=0.1) for seed in range(2, 2 + depth)]
    iterates = [DATA] * depth if at_data else random  # newest first
    settings = {
        "beta": 0.8,
        "loss_type": loss_type,
        "opponent": opponent,
        "history_weight": weight,
    }
    found = linearise([START, *reversed(iterates)], DATA, depth=depth, **settings).matrix
    expected = differences(START, iterates, DATA, **settings)
    torch.testing.assert_close(found[:5], expected, rtol=0, atol=DIFFERENCE)
    # the older iterates only move up one place
    eye = torch.eye(5, dtype=torch.float64) - 1 / 5
    below = torch.zeros_like(found[5:])
    for place in range(depth - 1):
        below[5 * place : 5 * place + 5, 5 * place : 5 * place + 5] = eye
    torch.testing.assert_close(found[5:], below, rtol=0, atol=1e-14)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("optimiser", ["gd", "momentum", "adam", "rmsprop"])
def test_steps_are_linearised_as_their_finite_difference(rule, loss_type, optimiser):
    opponent, depth, weight = RULES[rule]
    iterates = [TabularPolicy.random(1, 4, seed=seed, smallest=0.1) for seed in range(2, 2 + depth)]
    settings = {
        "beta": 0.8,
        "loss_type": loss_type,
        "opponent": opponent,
        "history_weight": weight,
        "solver": GradientSteps(4, 0.03, optimiser),  # short of the hinge's kinks
    }
    data = TabularPolicy.random(1, 4, seed=1, smallest=0.1)
    start = TabularPolicy.random(1, 4, seed=0, smallest=0.1)
    found = linearise([start, *reversed(iterates)], data, depth=depth, **settings).matrix
    expected = differences(start, iterates, data, **settings)
    torch.testing.assert_close(found[:4], expected, rtol=0, atol=DIFFERENCE)


@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
def test_many_steps_are_linearised_as_the_exact_iteration(loss_type):
    solver = GradientSteps(2000, 0.5)
    settings = {"beta": 1.5, "loss_type": loss_type}
    found = linearise([START, START], DATA, solver=solver, **settings).matrix
    exactly = linearise([START, START], DATA, **settings).matrix
    torch.testing.assert_close(found, exactly, rtol=0, atol=1e-8)


@pytest.mark.parametrize("optimiser", ["adam", "rmsprop"])
def test_an_adaptive_optimiser_has_no_rest_at_the_data(optimiser):
    # within epsilon = 1e-8 of gradient 0 it descends at the rate over epsilon
    solver = GradientSteps(1, 1e-3, optimiser)
    found = linearise([DATA, DATA], DATA, beta=1.0, solver=solver).spectral_radius
    largest = torch.linalg.eigvalsh(DATA.probs[0].diag() - DATA.probs.T @ DATA.probs)[-1]
    # one step: m = 1 - eta beta mu / 2; RMSProp divides by the root of 1 % of the square, too
    assert found == pytest.approx(1e-3 / 1e-8 * float(largest) / 2, rel=1e-3)


def test_steps_on_drawn_pairs_are_not_linearised():
    with pytest.raises(ValueError, match="pairs must be None"):
        linearise([DATA, DATA], DATA, beta=1.0, solver=GradientSteps(1, 1.0, pairs=5))


@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
@given(data=data_tables(), beta=BETAS)
def test_spin_contracts_by_its_multiplier(loss_type, data, beta):
    found = linearise([data, data], data, beta=beta, loss_type=loss_type).spectral_radius
    expected = abs(multiplier(beta=beta, loss_type=loss_type))
    assert found == pytest.approx(expected, rel=1e-8, abs=1e-8)


@given(data=data_tables(), beta=st.floats(0.1, 2.9))
def test_mixing_contracts_by_one_over_the_root_of_two_beta(data, beta):
    found = linearise([data] * 3, data, beta=beta, depth=2, opponent=mixed_samples)
    # near a double root the eigenvalues carry the square root of the rounding
    assert found.spectral_radius == pytest.approx(1 / math.sqrt(2 * beta), rel=1e-5)


@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
@given(data=data_tables(), beta=BETAS)
def test_mixings_multipliers_are_the_roots_of_its_quadratic(loss_type, data, beta):
    found = linearise(
        [data] * 3, data, beta=beta, depth=2, loss_type=loss_type, opponent=mixed_samples
    )
    roots = mixing_multipliers(beta=beta, loss_type=loss_type)
    half = 1 / (2 * beta) if loss_type == "logistic" else 1 / (4 * beta)
    for root in roots:
        assert abs(root**2 - (1 - half) * root + half) <= 1e-12 * (1 + half) ** 2
    assert found.spectral_radius == pytest.approx(max(map(abs, roots)), rel=1e-5)


@pytest.mark.parametrize(
    ("beta", "complex_roots"), [(0.085, False), (0.087, True), (2.913, True), (2.915, False)]
)
def test_mixings_roots_are_complex_between_two_betas(beta, complex_roots):
    # (1 - c)^2 = 4c at c = 3 -+ sqrt 8 = 1/(2 beta): beta = 0.0858 and 2.9142
    roots = mixing_multipliers(beta=beta)
    assert (abs(roots[0].imag) > 0) == complex_roots
    if complex_roots:
        assert abs(roots[0]) == pytest.approx(1 / math.sqrt(2 * beta))


@given(data=data_tables(), beta=BETAS, weight=st.floats(0.0, 1.0))
def test_a_geometric_mixture_contracts_by_its_share_of_the_multiplier(data, beta, weight):
    rule = partial(geometric_mixture, base_weight=weight)
    found = linearise([data, data], data, beta=beta, opponent=rule).spectral_radius
    expected = abs(multiplier(beta=beta) * (1 - weight))
    assert found == pytest.approx(expected, rel=1e-8, abs=1e-8)


@given(data=data_tables(), alpha=BETAS)
def test_tspin_without_history_has_multiplier_minus_one_over_alpha(data, alpha):
    rest = TabularPolicy.from_logits(data.log_probs / (1 + alpha))
    found = linearise([rest, rest], data, beta=alpha, opponent=without_reference)
    assert found.spectral_radius == pytest.approx(1 / alpha, rel=1e-8)
    moving = found.multipliers[found.multipliers.abs() > 1e-6 / alpha]
    assert len(moving) == data.log_probs.shape[1] - 1
    assert (moving + 1 / alpha).abs().max() <= 1e-6 / alpha


@given(data=data_tables(), beta=BETAS)
def test_multipliers_come_largest_first(data, beta):
    sizes = linearise(
        [data] * 3, data, beta=beta, depth=2, opponent=mixed_samples
    ).multipliers.abs()
    assert (sizes.diff() <= 1e-12).all()


@given(policies=log_policies(count=2, min_responses=2), beta=st.floats(0.6, 10.0))
def test_spins_iterates_show_their_multiplier(policies, beta):
    start, data = policies
    if tv(start, data).max() < 1e-3 or abs(beta - 1) < 1e-3:
        return
    game = play(start, data, beta=beta, iterations=3)
    (found,) = observed_multipliers(game.policies, data)
    assert found == pytest.approx(multiplier(beta=beta), abs=1e-6)


@pytest.mark.parametrize("beta", [0.6, 0.8, 1.0, 2.0, 2.8, 4.0])
def test_mixings_iterates_near_the_data_show_their_multipliers(beta):
    start = near(DATA, START.log_probs, 1e-8)
    game = play(start, DATA, beta=beta, iterations=6, opponent=mixed_samples)
    found = observed_multipliers(game.policies[1:], DATA, order=2)
    expected = sorted(mixing_multipliers(beta=beta), key=abs, reverse=True)
    one, other = sorted(found, key=lambda root: (root.imag, root.real))
    first, second = sorted(expected, key=lambda root: (root.imag, root.real))
    assert one == pytest.approx(first, abs=1e-6)
    assert other == pytest.approx(second, abs=1e-6)


@pytest.mark.parametrize(("alpha", "weight"), [(1.0, 0.1), (1.0, 1.0), (2.0, 0.1)])
def test_tspins_iterates_along_the_slowest_direction_show_its_multiplier(alpha, weight):
    settings = {"beta": alpha, "opponent": without_reference, "history_weight": weight}
    rest = fixed_point(START, DATA, **settings)
    linear = linearise([START, rest], DATA, **settings)
    values, vectors = torch.linalg.eig(linear.matrix)
    slowest = values.abs().argmax()
    direction = vectors[:, slowest].real[None]
    solver_game = [near(rest, direction, 1e-7)]
    for _ in range(3):
        # p_0 stays START: the history term holds on to it
        game = play(
            START,
            DATA,
            iterations=1,
            solver=minimiser,
            beta=alpha,
            opponent=lambda _, last=solver_game[-1]: without_reference([last]),
            history_weight=weight,
        )
        solver_game.append(game.policies[1])
    (found,) = observed_multipliers(solver_game, rest)
    assert linear.spectral_radius < 1
    assert found.real == pytest.approx(values[slowest].real.item(), abs=1e-6)


def test_bad_arguments_are_refused():
    two = TabularPolicy.random(2, 3, seed=0)
    three = TabularPolicy.random(1, 3, seed=0)
    with pytest.raises(ValueError, match="logistic or exponential, got 'hinge'"):
        linearise([three, three], three, beta=1.0, loss_type="hinge")
    with pytest.raises(ValueError, match="one prompt, got 2"):
        linearise([two, two], two, beta=1.0)
    for depth, message in ((0, "depth must be >= 1"), (2, "depth must be from 1 to 1")):
        with pytest.raises(ValueError, match=message):
            linearise([three, three], three, beta=1.0, depth=depth)


def test_the_exact_solvers_of_games_are_taken_and_others_are_named():
    data = TabularPolicy.random(1, 4, seed=0, smallest=0.1)
    settings = {"beta": 0.3, "sft_weight": 0.1}
    by_default = linearise([data, data], data, **settings)
    for solver in (exact, minimiser):
        assert torch.equal(
            linearise([data, data], data, **settings, solver=solver).matrix, by_default.matrix
        )
    with pytest.raises(ValueError, match=r"solver must be exact, minimiser or GradientSteps"):
        linearise([data, data], data, **settings, solver=SampledMinimiser(pairs=10))
