"""What optimisers keep and borrow per number."""

import pytest

from spin_train.config.sections import TrainingConfig
from spin_train.plan.optimiser import optimiser_of


@pytest.mark.parametrize(
    ("name", "states"), [("rmsprop", 4), ("adamw_torch", 8), ("sgd", 0), ("adagrad", 4)]
)
def test_states_are_those_of_the_optimiser_itself(name, states):
    found = optimiser_of(TrainingConfig(optim=name), device="cpu")
    assert found.known
    assert found.states == states


@pytest.mark.parametrize(("name", "borrowed"), [("rmsprop", 4), ("adamw_torch", 8), ("sgd", 0)])
def test_what_a_step_borrows_is_the_optimisers_too(name, borrowed):
    # rmsprop: sqrt(v); AdamW: sqrt(v), and the same divided by its correction
    found = optimiser_of(TrainingConfig(optim=name), device="cpu").borrowed
    assert found == pytest.approx(borrowed, abs=0.1)


def test_a_gpu_takes_all_tensors_at_once():
    assert optimiser_of(TrainingConfig(), device="cuda").all_at_once
    assert not optimiser_of(TrainingConfig(), device="cpu").all_at_once


def test_an_optimiser_that_is_not_installed_counts_as_adamw():
    found = optimiser_of(TrainingConfig(optim="apollo_adamw"), device="cpu")
    assert (found.known, found.states) == (False, 8)
