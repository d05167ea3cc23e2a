"""Whole games of the bridge, where each network is the exact minimiser, and where it is not."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from spin_theory.minima.minimise import minimiser
from spin_theory.policies import TabularPolicy
from spin_train.lab.games import fixed_point, iterations, with_history
from spin_train.lab.laboratory import Player
from spin_train.lab.tabulate import PolicyTable

EXACT = 1e-6
"""Of a multiplier or a total variation; games of four certified searches."""


def player(policy):
    return Player(Path(), PolicyTable(tuple(policy.log_probs), ()))


@dataclass
class ExactLab:
    """A laboratory whose networks are tables, at the minimum of each problem."""

    data: Player
    base: Player
    slip: float = 0.0
    """Nats that each training is off by, along the log-probs of the data."""

    def train(self, name, problem, opponent, *, initial=None):
        inner = problem.inner(opponent.policy, self.data.policy)
        solution = minimiser(replace(inner, initial=(initial or opponent).policy))
        logits = solution.log_probs + self.slip * self.data.policy.log_probs
        return None, player(TabularPolicy.from_logits(logits))


@pytest.fixture
def lab():
    data, base = (TabularPolicy.random(2, 4, seed=seed, smallest=0.05) for seed in (0, 1))
    return ExactLab(player(data), player(base))


@pytest.mark.parametrize("game", [iterations, with_history])
def test_exact_games_are_as_predicted(lab, game):
    for row in game(lab):
        assert row.measured == pytest.approx(row.predicted, abs=EXACT), row.claim
        assert row.holds, row
        assert row.wrong, row.claim


@pytest.mark.parametrize("game", [iterations, with_history])
def test_games_whose_trainings_are_off_do_not_hold(lab, game):
    lab.slip = 0.05
    assert not any(row.holds for row in game(lab))


def test_t_spin_rests_at_a_power_of_the_data(lab):
    rest = fixed_point(lab.data.policy, beta=1.0)
    odds = (rest.log_probs - lab.data.policy.log_probs / 2).diff(dim=-1)
    torch.testing.assert_close(odds, torch.zeros_like(odds))
