"""What the checks of rates share: deviations from the data, and how far they are from a sum."""

import pytest
import torch

from spin_theory import TabularPolicy, last_iterate, play, tv
from spin_theory.claims.games import check_mixing
from spin_theory.claims.nearby import deviations, excess, near, next_iterate
from tests.faults import planted

DATA = TabularPolicy.from_probs([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])


def test_excess_is_the_largest_error_relative_to_the_largest_term():
    terms = [torch.tensor([[4.0, -1.0]]), torch.tensor([[-2.0, 1.0]])]
    assert excess(torch.tensor([[2.0, 1.0]]), terms) == 0.25  # sum (2, 0), off by 1 of 4


def test_deviations_are_centred_log_ratios():
    found = deviations(near(DATA, 3, seed=1, size=1e-3), DATA)
    assert found.shape == (3, 2, 3)
    assert found.mean(dim=-1).abs().max() < 1e-18
    assert 1e-4 < found.abs().max() < 1e-2
    assert deviations([DATA], DATA).abs().max() == 0


def test_the_next_iterate_is_that_of_a_game():
    start = near(DATA, 1, seed=1, size=0.5)[0]
    game = play(start, DATA, beta=0.8, iterations=2)
    found = next_iterate(game.policies[:2], DATA, 0.8, "logistic", last_iterate)
    assert tv(found, game.policies[2]).max() <= 1e-15


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_a_wrong_deviation_is_noticed_by_a_claim(share):
    def longer(right):
        # of the last iterate alone, as one factor on all of them cancels
        def fault(policies, data):
            found = right(policies, data)
            return torch.cat([found[:-1], share * found[-1:]])

        return fault

    data = TabularPolicy.from_probs([[0.2, 0.3, 0.5]])
    assert check_mixing(data, beta=2.0).holds
    with planted(deviations, longer):
        assert not check_mixing(data, beta=2.0).holds
