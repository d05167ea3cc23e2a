import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spin_theory import TabularPolicy
from spin_theory.claims.finite import check_finite_game, check_infimum
from spin_theory.games.finite import play_rows
from spin_theory.minima.infimum import infimum
from tests.strategies import BETAS, at_most

TABLES = tuple(TabularPolicy.random(1, 6, seed=seed, smallest=0.01) for seed in (0, 1))


@at_most(20)
@given(rows=st.integers(1, 200), seed=st.integers(0, 1000))
def test_the_infimum_is_log_2_less_js_with_zeros(rows, seed):
    assert check_infimum(*TABLES, rows=rows, seed=seed).holds


def test_another_infimum_is_noticed():
    assert check_infimum(*TABLES, rows=10, seed=0).numbers["unseen"] > 0
    for change in (
        lambda found: {"value": found.value + 1e-6},
        lambda found: {"lower_bound": 0.0},
        lambda found: {"direction": 0 * found.direction},
        lambda found: {"direction": -found.direction},
        lambda found: {"scores": 0 * found.scores},
    ):

        def wrong(weights, change=change):
            found = infimum(weights)
            return dataclasses.replace(found, **change(found))

        assert not check_infimum(*TABLES, rows=10, seed=0, claimed=wrong).holds


@at_most(10)
@given(beta=BETAS, seed=st.integers(0, 2**62))
def test_a_step_on_rows_is_what_the_sums_say(beta, seed):
    assert check_finite_game(*TABLES, beta=beta, seed=seed).holds


@pytest.mark.parametrize(
    "changes",
    [
        {"beta": 0.51},
        {"seed": 1},
        {"rows": 41},
        {"epochs": 2},
        {"batch_size": 10},
        {"learning_rate": 1.01},
        {"loss_type": "exponential"},
        {"history_weight": 0.1},
    ],
)
def test_another_game_on_rows_is_noticed(changes):
    def wrong(*tables, **rules):
        return play_rows(*tables, **rules | changes)

    assert not check_finite_game(*TABLES, beta=0.5, seed=0, game=wrong).holds


def test_a_tie_is_worth_log_2():
    """One row, one response: y' = y always, so the objective is the constant log 2."""
    only = TabularPolicy.from_probs([[1.0]])
    assert check_infimum(only, only, rows=1, seed=0).holds
    assert math.isclose(infimum(only.probs).value, math.log(2))
