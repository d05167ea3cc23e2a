import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_theory import InnerProblem, TabularPolicy, minimiser, play, tv
from spin_theory.games.endings import ExactLaw, describe_end, rest_with_history
from tests.strategies import log_policies


@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
@given(policies=log_policies(count=2), weight=st.floats(0.0, 0.99))
def test_spin_with_history_rests_where_its_gradient_at_the_opponent_is_zero(
    loss_type, policies, weight
):
    start, data = policies
    rest = rest_with_history(start, data, history_weight=weight)
    if rest is None:
        assert bool((data.probs <= weight * start.probs * (1 + 1e-12)).any())
        return
    # at f = 0 all penalties have the slope l'(0): p_data - p_t + w (p_t - p_0) = 0
    excess = data.probs - rest.probs + weight * (rest.probs - start.probs)
    assert excess.abs().max() <= 1e-14
    if rest.log_probs.min() < -12:  # too far apart to be solved to the last digits
        return
    problem = InnerProblem(
        data=data, sampler=rest, reference=rest, beta=0.7, loss_type=loss_type,
        initial=start, history_weight=weight,
    )  # fmt: skip
    assert tv(minimiser(problem), rest).max() <= 1e-9


def test_with_a_weight_of_one_or_more_only_data_that_are_the_start_are_at_rest():
    start, data = (TabularPolicy.random(1, 4, seed=seed, smallest=0.1) for seed in (0, 1))
    assert rest_with_history(start, data, history_weight=1.0) is None
    assert rest_with_history(data, data, history_weight=3.0) is data


@pytest.mark.parametrize(
    ("law", "says"),
    [
        (ExactLaw(0.8), "approaches the data: each iteration multiplies the log-ratio .* by 0.8$"),
        (ExactLaw(1.0, shortfall=1e-17), "approaches the data: .* by 1 - 1e-17$"),
        (ExactLaw(-1.0), "is a cycle of 2: .* by -1$"),
        (ExactLaw(-9.0), "diverges from the first iteration on: .* by -9, so that the policy"),
        (ExactLaw(0.0), r"reaches the data in one iteration \(multiplier 0\)$"),
    ],
)
def test_a_law_says_what_it_does_to_the_log_ratio(law, says):
    game = play(*(TabularPolicy.random(1, 4, seed=s) for s in (0, 1)), beta=2.0, iterations=1)
    assert re.search(says, describe_end(game, law))


def test_a_game_that_only_stopped_says_so():
    start, data = (TabularPolicy.random(1, 4, seed=seed) for seed in (0, 1))
    game = play(start, data, beta=torch.tensor(0.1), iterations=400)
    assert describe_end(game).endswith("its log-probs outgrow float64")
