"""The moments of a training stage: hand-computed bytes for a hundred weights."""

import pytest

from spin_train.plan.engine import Moment, Weights, largest_moment, moments
from spin_train.plan.optimiser import Optimiser
from spin_train.plan.trace import Trace

ADAM = Optimiser(states=8, borrowed=8, all_at_once=False)
RMSPROP = Optimiser(states=4, borrowed=4, all_at_once=False)
TRACE = Trace(peak=1000, passing=700, activations=500)
WIDE = Weights(trained=100, frozen=0, largest=30, width=4)
NARROW = Weights(trained=100, frozen=0, largest=30, width=2)


def found(weights, optimiser, zero_stage, ranks, *, device="cpu", accumulates=True):
    """Totals by moment."""
    listed = moments(
        weights,
        optimiser,
        TRACE,
        zero_stage=zero_stage,
        ranks=ranks,
        device=device,
        accumulates=accumulates,
    )
    return {moment.name: moment.total for moment in listed}


def test_zero_0_keeps_weights_gradients_and_states_of_every_weight():
    # 400 weights + 800 states + 400 gradients, and 700 of the passes
    totals = found(WIDE, ADAM, 0, 2)
    assert totals["forward and backward pass"] == 400 + 800 + 400 + 700
    # a copy of the gradients is summed, and on a CPU the passes' memory is not given back
    assert totals["summing gradients"] == 400 + 800 + 400 + 400 + 700
    # AdamW borrows 8 bytes per number of one tensor after the other
    assert totals["optimiser step"] == 400 + 800 + 400 + 8 * 30 + 700


def test_zero_0_counts_gradients_as_they_come_where_nothing_accumulates():
    totals = found(WIDE, ADAM, 0, 1, accumulates=False)
    assert totals["forward and backward pass"] == 400 + 800 + 1000


def test_zero_0_in_bfloat16_has_master_weights_and_float32_gradients_in_a_step():
    totals = found(NARROW, RMSPROP, 0, 1)
    assert totals["optimiser step"] == 200 + 400 + 400 + 200 + 400 + 4 * 30 + 700


@pytest.mark.parametrize(("ranks", "share"), [(1, 100), (2, 50), (3, 34)])
def test_zero_2_shares_out_all_but_the_weights(ranks, share):
    totals = found(WIDE, RMSPROP, 2, ranks)
    kept = 400 + 4 * share + 4 * share
    # gradients summed so far and those of this micro-batch, whole, before they are shared out
    assert totals["forward and backward pass"] == kept + 4 * share + 400 + 700
    assert totals["summing gradients"] == kept + 2 * 4 * share + 400 + 700
    assert totals["optimiser step"] == kept + 4 * share + 4 * share + 4 * share + 700


def test_zero_1_keeps_all_gradients():
    two, one = found(WIDE, RMSPROP, 2, 2), found(WIDE, RMSPROP, 1, 2)
    assert one["optimiser step"] - two["optimiser step"] == 4 * 100 - 4 * 50


def test_zero_3_shares_out_the_weights_and_gathers_those_of_layers_in_use():
    totals = found(NARROW, ADAM, 3, 2)
    kept = 2 * 50 + 4 * 50 + 8 * 50 + 4 * 50  # gradients in float32
    kept += 2 * 100 + 2 * 200  # a bucket, as far as it is filled, and what loading left
    assert totals["forward and backward pass"] == kept + 2 * 100 + 700
    assert totals["optimiser step"] == kept + 4 * 50 + 8 * 50 + 700
    alone = found(NARROW, ADAM, 3, 1)  # one rank has nothing to gather
    assert alone["forward and backward pass"] == 200 + 400 + 800 + 400 + 600 + 700


def test_a_gpu_takes_whole_buckets_and_gives_back_what_the_passes_took():
    totals = found(NARROW, RMSPROP, 2, 1, device="cuda")
    assert totals["summing gradients"] == 200 + 400 + 400 + 2 * 400 + 2 * 500_000_000
    assert totals["optimiser step"] == 200 + 400 + 400 + 400 + 400 + 400


def test_frozen_weights_have_neither_gradients_nor_states():
    adapters = Weights(trained=10, frozen=90, largest=5, width=4)
    totals = found(adapters, ADAM, 2, 1)
    assert totals["optimiser step"] == 400 + 40 + 80 + 40 + 40 + 80 + 700


def test_the_largest_moment_decides():
    small, large = Moment("a", {"x": 1}), Moment("b", {"x": 1, "y": 2})
    assert largest_moment([small, large]) is large
