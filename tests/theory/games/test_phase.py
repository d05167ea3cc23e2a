import math
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from spin_theory import (
    GradientSteps,
    TabularPolicy,
    mixed_samples,
    multiplier,
    phase_diagram,
    play,
    predicted_policy,
    tv,
)
from spin_theory.games.play import play as played
from spin_theory.tolerances import ROUNDING
from tests.strategies import at_most

LOW_BETAS = (0.1, 0.2, 0.3, 0.45)
HIGH_BETAS = (0.55, 1.0, 2.0, 5.0)


def test_one_inner_step_approaches_the_data_at_every_beta():
    diagram = phase_diagram(
        betas=LOW_BETAS + HIGH_BETAS, inner_steps=[1], learning_rate=0.5, games=16
    )
    assert (diagram.change < 0).all()
    assert (diagram.diverged == 0).all()


def test_exact_play_diverges_below_one_half_and_approaches_the_data_above():
    diagram = phase_diagram(
        betas=LOW_BETAS + HIGH_BETAS, inner_steps=[None], iterations=30, games=16
    )
    assert (diagram.change[: len(LOW_BETAS)] > 0).all()
    assert (diagram.diverged[: len(LOW_BETAS)] == 1).all()
    assert (diagram.change[len(LOW_BETAS) :] < 0).all()
    assert (diagram.diverged[len(LOW_BETAS) :] == 0).all()


@at_most(20)
@given(
    beta=st.floats(0.1, 10.0),
    seed=st.integers(0, 2**32),
    loss_type=st.sampled_from(["logistic", "exponential"]),
)
def test_the_exact_column_is_the_closed_form(beta, seed, loss_type):
    diagram = phase_diagram(
        betas=[beta], inner_steps=[None], iterations=3, games=5, seed=seed, loss_type=loss_type
    )
    start, data = (
        TabularPolicy.random(5, 8, seed=each, smallest=1e-3) for each in (seed, seed + 1)
    )
    last = predicted_policy(start, data, betas=[beta] * 3, loss_type=loss_type)
    eps = torch.finfo(torch.float64).eps
    change = (tv(data, last).clamp(min=eps) / tv(data, start)).log10().mean()
    near = abs(multiplier(beta=beta, loss_type=loss_type)) < 1e-3  # rounding is left
    assert diagram.change.item() == pytest.approx(change.item(), abs=2 if near else 1e-6)


@pytest.mark.parametrize("optimiser", ["gd", "adam", "rmsprop"])
def test_a_cell_is_the_mean_over_games_played_one_by_one(optimiser):
    diagram = phase_diagram(
        betas=[0.3, 2.0],
        inner_steps=[2, 5],
        learning_rate=0.1,
        optimiser=optimiser,
        iterations=2,
        games=3,
        seed=5,
    )
    start, data = (TabularPolicy.random(3, 8, seed=seed, smallest=1e-3) for seed in (5, 6))
    for row, beta in enumerate([0.3, 2.0]):
        for column, steps in enumerate([2, 5]):
            ends = [
                play(
                    TabularPolicy(start.log_probs[[game]]),
                    TabularPolicy(data.log_probs[[game]]),
                    beta=beta,
                    iterations=2,
                    solver=GradientSteps(steps, 0.1, optimiser),
                ).tv
                for game in range(3)
            ]
            change = sum(math.log10(end[-1] / end[0]) for end in ends) / 3
            worse = sum(bool(end[-1] > end[0] + ROUNDING) for end in ends) / 3
            assert diagram.change[row, column].item() == pytest.approx(change, abs=1e-9)
            assert diagram.diverged[row, column].item() == pytest.approx(worse)


def test_no_inner_steps_change_nothing():
    # each iteration normalises the table again: a distance of 0.1 moves by a few 1e-16
    diagram = phase_diagram(betas=[0.3], inner_steps=[0], games=4)
    assert diagram.change.item() == pytest.approx(0, abs=1e-13)
    assert diagram.diverged.item() == 0


def test_a_game_that_comes_back_to_its_start_has_not_diverged():
    # beta = 1/2 is a cycle of two: half of the games come back further away in the last bit
    diagram = phase_diagram(betas=[0.5], inner_steps=[None], iterations=10, games=16)
    assert diagram.change.item() == pytest.approx(0, abs=1e-12)
    assert diagram.diverged.item() == 0


@pytest.mark.parametrize(("further", "diverged"), [(0.0, 0), (1e-9, 1)])
def test_a_distance_that_rises_by_its_last_bit_is_no_divergence(monkeypatch, further, diverged):
    def late_distances(start, data, **rules):
        last = torch.nextafter(tv(data, start), torch.ones(3, dtype=torch.float64)) + further
        return torch.stack([last, last])

    monkeypatch.setattr("spin_theory.games.phase._late_distances", late_distances)
    assert phase_diagram(betas=[1.0], inner_steps=[None], games=3).diverged.item() == diverged


def test_the_opponent_and_the_history_weight_reach_the_games():
    rules = {"betas": [0.7], "inner_steps": [None], "games": 4}
    plain = phase_diagram(**rules)
    assert phase_diagram(**rules, opponent=mixed_samples).change != plain.change
    steps = {"betas": [0.7], "inner_steps": [3], "games": 4}
    assert phase_diagram(**steps, history_weight=1.0).change != phase_diagram(**steps).change


def test_stable_cells_are_those_whose_games_settle():
    # few steps at a small beta, and no beta beyond descent's own limit, 2 / sqrt(mu_max) > 2.8
    diagram = phase_diagram(
        betas=[0.1, 0.3, 2.0, 12.0], inner_steps=[2, 400, None], games=6, iterations=25
    )
    assert diagram.stable.tolist() == [[1, 0, 0], [1, 0, 0], [1, 1, 1], [0, 0, 1]]
    assert (diagram.change[diagram.stable == 1] < 0).all()
    settled, far = diagram.change[2:, 1]  # 400 steps at beta 2 and 12
    assert settled < far - 5


@pytest.mark.parametrize(
    "rules", [{"optimiser": "adam"}, {"opponent": mixed_samples}, {"history_weight": 0.1}]
)
def test_games_without_a_law_are_not_called_stable(rules):
    assert (
        phase_diagram(betas=[1.0], inner_steps=[1], games=2, iterations=1, **rules).stable is None
    )


def test_betas_are_played_in_batches_that_change_nothing(monkeypatch):
    rules = {"betas": [0.3, 1.0, 2.0], "inner_steps": [1, 4], "games": 3, "iterations": 3}
    together = phase_diagram(**rules)
    monkeypatch.setattr("spin_theory.games.phase.BATCH", 4)
    apart = phase_diagram(**rules)
    torch.testing.assert_close(together.change, apart.change, rtol=0, atol=1e-12)


def test_steps_that_outgrow_float64_do_not_speak_for_other_betas():
    diagram = phase_diagram(
        betas=[0.5, 200.0], inner_steps=[5], games=3, loss_type="exponential", learning_rate=1.0
    )
    assert diagram.diverged.tolist() == [[0.0], [1.0]]


def test_games_that_outgrow_float64_have_diverged():
    diagram = phase_diagram(betas=[0.1], inner_steps=[None], iterations=400, games=3)
    assert diagram.diverged.item() == 1
    assert math.isfinite(diagram.change.item())


def test_a_game_that_outgrows_float64_does_not_speak_for_the_others(monkeypatch):
    # one game that outgrew float64 made divergent games of all that were played with it
    def fragile(start, data, **rules):
        game = played(start, data, **rules)
        if bool((start.log_probs < math.log(1e-3)).any()):
            return replace(game, stopped="p_1 cannot be computed: its log-probs outgrow float64")
        return game

    monkeypatch.setattr("spin_theory.games.phase.play", fragile)
    start = TabularPolicy.random(16, 8, seed=0, smallest=1e-3).log_probs
    share = (start < math.log(1e-3)).any(-1).double().mean().item()
    diagram = phase_diagram(betas=[1.0], inner_steps=[None], games=16)
    assert 0 < share < 1
    assert diagram.diverged.item() == share


@given(responses=st.integers(1, 4), smallest=st.floats(1e-12, 1.0))
@at_most(20)
@example(responses=1, smallest=0.5).via("one response: log10 of 0/0")
@example(responses=3, smallest=1.0).via("start and data are uniform: log10 of 0/0")
def test_every_change_is_a_number(responses, smallest):
    diagram = phase_diagram(
        betas=[0.3, 1.0], inner_steps=[1, None], games=2, responses=responses, smallest=smallest
    )
    assert diagram.change.isfinite().all()


def test_games_that_stopped_off_the_data_do_not_count_as_approaching():
    # rate times curvature, 5^2 mu / 2, is above 2 for most tables: descent is unstable at rate 1,
    # and stable at 0.1, where the slow exact multiplier 0.8 is all that is left
    unstable, stable = (
        phase_diagram(betas=[5.0], inner_steps=[30, None], learning_rate=rate, games=16)
        for rate in (1.0, 0.1)
    )
    assert (unstable.change < 0).all()
    assert unstable.approaches.tolist() == [[False, True]]
    assert unstable.stalled[0, 0] > 0.25 > unstable.stalled[0, 1]
    assert stable.approaches.tolist() == [[True, True]]
    slow = phase_diagram(betas=[0.1], inner_steps=[1], learning_rate=0.01, games=16)
    assert slow.approaches.item()  # slowly, but every game comes closer


def test_the_tracker_sees_each_beta_once():
    seen = []

    def track(betas):
        for beta in betas:
            seen.append(beta)
            yield beta

    diagram = phase_diagram(betas=[0.5, 2.0], inner_steps=[1, 2], games=1, track=track)
    assert seen == [0.5, 2.0]
    assert diagram.change.shape == (2, 2)
    assert diagram.inner_steps == (1, 2)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        # each was taken for log-probs that outgrow float64, and a diagram came back
        ({"betas": [-1.0]}, "beta must be finite"),
        ({"betas": [math.nan]}, "beta must be finite"),
        ({"history_weight": math.nan, "inner_steps": [1]}, "history_weight must be finite"),
        ({"betas": []}, "must not be empty"),
        ({"inner_steps": []}, "must not be empty"),
        ({"inner_steps": [-1]}, "steps must be"),
        ({"learning_rate": 0.0, "inner_steps": [1]}, "learning_rate must be"),
        ({"optimiser": "sgd", "inner_steps": [1]}, "optimiser must be"),
        ({"iterations": -1}, "iterations must be"),
        ({"games": 0}, "must be >= 1"),
        ({"smallest": 0.0}, "smallest must be"),
        ({"loss_type": "hinge"}, "linear programme"),
        ({"loss_type": "square"}, "loss_type must be"),
        ({"history_weight": 0.1}, "no closed form"),
    ],
)
def test_bad_arguments_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        phase_diagram(**{"betas": [1.0], "inner_steps": [None], "games": 2} | parts)
