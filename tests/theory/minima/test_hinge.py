from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_theory import TabularPolicy
from spin_theory.minima.hinge import chain_potentials, hinge_bound, hinge_minimum
from spin_theory.objectives.pair_sums import dense_expected_penalty
from tests.strategies import log_policies

TOLERANCE = 1e-12  # absolute: values are at most 1, the hinge at scores 0
SEEDS = st.integers(0, 2**31)


def draw_normal(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value(data, opponent, advantages):
    return dense_expected_penalty(advantages, data.log_probs, opponent.log_probs, loss_type="hinge")


@given(
    policies=log_policies(count=2),
    size=st.sampled_from([1e-3, 0.1, 1.0, 10.0]),
    spread=st.sampled_from([0.3, 1.0, 3.0]),
    seed=SEEDS,
)
def test_no_real_advantages_go_below_the_bound_of_any_potentials(policies, size, spread, seed):
    data, opponent = policies
    prompts, responses = data.log_probs.shape
    potentials = size * draw_normal((prompts, responses + 1), seed)
    near = chain_potentials(data, opponent) + 1e-3 * potentials
    _, best = hinge_minimum(data, opponent)
    noise = spread * draw_normal((prompts, responses), seed + 1)
    for advantages in (noise, best + noise, best):
        found = value(data, opponent, advantages)
        for guess in (potentials, near):
            assert (hinge_bound(data, opponent, guess) <= found + TOLERANCE).all()


@given(policies=log_policies(count=2), seed=SEEDS)
def test_no_real_advantages_go_below_the_minimum(policies, seed):
    data, opponent = policies
    least, best = hinge_minimum(data, opponent)
    for spread in (0.01, 0.5, 5.0):
        noise = spread * draw_normal(best.shape, seed)
        assert (least <= value(data, opponent, best + noise) + TOLERANCE).all()
        assert (least <= value(data, opponent, noise) + TOLERANCE).all()


@given(policies=log_policies(count=2))
def test_the_chains_potentials_prove_the_minimum(policies):
    data, opponent = policies
    least, _ = hinge_minimum(data, opponent)
    bound = hinge_bound(data, opponent, chain_potentials(data, opponent))
    torch.testing.assert_close(bound, least, rtol=1e-13, atol=1e-15)


@given(policies=log_policies(count=2))
def test_the_minimisers_value_is_the_minimum(policies):
    data, opponent = policies
    least, best = hinge_minimum(data, opponent)
    torch.testing.assert_close(value(data, opponent, best), least, rtol=1e-12, atol=1e-15)


@given(policies=log_policies(count=2))
def test_the_minimum_is_above_one_minus_the_distance_of_pairs(policies):
    data, opponent = policies
    pairs = data.probs[:, :, None] * opponent.probs[:, None, :]
    cheap = 1 - (pairs - pairs.mT).abs().sum(dim=(1, 2)) / 2  # 1 - TV(P, Q)
    least, _ = hinge_minimum(data, opponent)
    assert (cheap <= least + TOLERANCE).all()


@given(policies=log_policies(count=2, min_responses=2, max_responses=2))
def test_the_cheap_bound_is_the_minimum_for_two_responses(policies):
    data, opponent = policies
    pairs = data.probs[:, :, None] * opponent.probs[:, None, :]
    least, _ = hinge_minimum(data, opponent)
    # 1 - TV(P, Q) as a sum of overlaps, which does not cancel
    torch.testing.assert_close(
        torch.minimum(pairs, pairs.mT).sum(dim=(1, 2)), least, rtol=1e-12, atol=0
    )


@given(policies=log_policies(count=2))
def test_the_minimiser_is_integer_and_rises_with_the_ratio(policies):
    data, opponent = policies
    _, best = hinge_minimum(data, opponent)
    assert torch.equal(best, best.round())
    order = (data.log_probs - opponent.log_probs).argsort(dim=-1, stable=True)
    rises = best.gather(-1, order).diff(dim=-1)
    assert ((rises == 0) | (rises == 1)).all()  # no level is empty
    assert (best.amin(dim=-1) == 0).all()


@given(policies=log_policies(count=2))
def test_nothing_is_gained_where_the_opponent_is_the_data(policies):
    data, _ = policies
    least, best = hinge_minimum(data, data)
    torch.testing.assert_close(least, torch.ones_like(least), rtol=0, atol=1e-14)
    assert (value(data, data, best) <= 1 + 1e-14).all()


@given(policies=log_policies(count=2, max_responses=4), constant=st.floats(-10.0, 10.0))
def test_a_constant_on_all_potentials_proves_as_much(policies, constant):
    data, opponent = policies
    potentials = chain_potentials(data, opponent)
    one = hinge_bound(data, opponent, potentials)
    other = hinge_bound(data, opponent, potentials + constant)
    # both are rounded down, relative to the potentials
    torch.testing.assert_close(one, other, rtol=0, atol=1e-13 * (1 + abs(constant)))


@given(policies=log_policies(count=2, max_responses=5))
def test_potentials_are_the_costs_of_the_cheapest_chains(policies):
    data, opponent = policies
    potentials = chain_potentials(data, opponent)[0]
    order = (data.log_probs - opponent.log_probs)[0].argsort(stable=True)
    real, generated = data.probs[0, order], opponent.probs[0, order]
    responses = len(real)

    def cost(chain):  # of prefixes' lengths
        return sum(
            float(real[:after].sum() * generated[before:].sum())
            for before, after in pairwise(chain)
        )

    for end in range(1, responses + 1):
        chains = [
            [0, *(k for k in range(1, end) if mask >> k & 1), end] for mask in range(0, 2**end, 2)
        ]
        assert potentials[end].item() == pytest.approx(min(map(cost, chains)), rel=1e-12)
    assert potentials[0] == 0


def test_a_loose_potential_by_hand():
    # real (0.1, 0.9), generated (0.8, 0.2): costs 0 -> 1: 0.1, 1 -> 2: 0.2, 0 -> 2: 1
    # rises 0.15 and 0.05 exceed the first by 0.05, taken off for two steps
    data, opponent = (TabularPolicy.from_probs([[p, 1 - p]]) for p in (0.9, 0.2))
    bound = hinge_bound(data, opponent, torch.tensor([[0.0, 0.15, 0.2]], dtype=torch.float64))
    assert bound.item() == pytest.approx(0.2 - 2 * 0.05)


def test_bad_arguments_are_refused():
    two, three = TabularPolicy.random(1, 2, seed=0), TabularPolicy.random(1, 3, seed=0)
    for refused in (
        lambda: hinge_minimum(two, three),
        lambda: chain_potentials(two, three),
        lambda: hinge_bound(two, three, torch.zeros(1, 3)),
    ):
        with pytest.raises(ValueError, match="one shape"):
            refused()
    with pytest.raises(ValueError, match=r"potentials must have shape \(1, 3\)"):
        hinge_bound(two, two, torch.zeros(1, 2, dtype=torch.float64))
