import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_theory import (
    InnerProblem,
    TabularPolicy,
    average_of_iterates,
    exact,
    geometric_mixture,
    last_iterate,
    mixed_samples,
    tv,
    without_reference,
)
from spin_theory.games.opponents import moving_average
from tests.strategies import BETAS, log_policies

EXACT = 1e-14  # total variation: rounding of logsumexp


@st.composite
def iterates(draw, *, most=5):
    """p_0, ..., p_t of one shape."""
    return draw(log_policies(count=draw(st.integers(1, most)), max_responses=4))


@given(policies=iterates())
def test_spins_opponent_is_the_last_iterate_in_both_roles(policies):
    chosen = last_iterate(policies)
    assert chosen.sampler is policies[-1]
    assert chosen.reference is policies[-1]


@given(policies=iterates())
def test_tspins_opponent_generates_and_divides_by_nothing(policies):
    chosen = without_reference(policies)
    assert chosen.sampler is policies[-1]
    assert chosen.reference is None


@given(policies=iterates(), earlier=st.integers(0, 6))
def test_mixed_samples_average_the_last_iterates_and_divide_by_the_last(policies, earlier):
    chosen = mixed_samples(policies, earlier=earlier)
    recent = policies[max(0, len(policies) - 1 - earlier) :]
    expected = sum(policy.probs for policy in recent) / len(recent)
    torch.testing.assert_close(chosen.sampler.probs, expected, rtol=1e-13, atol=0)
    assert chosen.reference is policies[-1]


@given(policies=iterates())
def test_the_first_opponent_of_a_mixture_is_the_start(policies):
    start = policies[0]
    for rule in (mixed_samples, average_of_iterates):
        assert rule(policies[:1]).sampler is start
        assert rule(policies[:1]).reference is start
    assert tv(geometric_mixture(policies[:1]).sampler, start).max() <= EXACT


@given(policies=iterates())
def test_fictitious_play_averages_all_iterates_in_both_roles(policies):
    chosen = average_of_iterates(policies)
    expected = sum(policy.probs for policy in policies) / len(policies)
    torch.testing.assert_close(chosen.sampler.probs, expected, rtol=1e-13, atol=0)
    assert chosen.reference is chosen.sampler


@given(policies=iterates(), weight=st.floats(0.0, 1.0))
def test_a_geometric_mixture_interpolates_log_probs_to_the_first(policies, weight):
    chosen = geometric_mixture(policies, base_weight=weight)
    powers = policies[0].probs ** weight * policies[-1].probs ** (1 - weight)
    expected = powers / powers.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(chosen.sampler.probs, expected, rtol=1e-12, atol=0)
    assert chosen.reference is chosen.sampler


@given(policies=iterates())
def test_the_ends_of_the_geometric_mixture_are_the_last_and_the_first(policies):
    for weight, end in ((0.0, policies[-1]), (1.0, policies[0])):
        assert tv(geometric_mixture(policies, base_weight=weight).sampler, end).max() <= EXACT


@given(policies=log_policies(count=3), beta=BETAS)
def test_mixed_samples_move_the_last_iterate_by_the_mixtures_ratio(policies, beta):
    # f = log(p_data/s) is the logistic minimiser: p_{t+1} is p_t (p_data/s)^(1/beta)
    before, last, data = policies
    chosen = mixed_samples([before, last])
    problem = InnerProblem(data=data, sampler=chosen.sampler, reference=chosen.reference, beta=beta)
    mixture = (before.probs + last.probs) / 2
    logits = last.log_probs + (data.log_probs - mixture.log()) / beta
    assert tv(exact(problem), TabularPolicy.from_logits(logits)).max() <= 1e-12


def test_bad_arguments_are_refused():
    two, three = TabularPolicy.random(1, 2, seed=0), TabularPolicy.random(1, 3, seed=0)
    with pytest.raises(ValueError, match="earlier must be >= 0, got -1"):
        mixed_samples([two, two], earlier=-1)
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="base_weight must be in"):
            geometric_mixture([two], base_weight=weight)
    for rule in (mixed_samples, average_of_iterates):
        with pytest.raises(ValueError, match=r"one shape.*p_0.*p_1"):
            rule([two, three])


@given(policies=iterates(), decay=st.floats(0.0, 0.99))
def test_a_moving_average_is_its_recursion(policies, decay):
    probs = policies[0].probs
    log_probs = policies[0].log_probs
    for policy in policies[1:]:
        probs = decay * probs + (1 - decay) * policy.probs
        log_probs = decay * log_probs + (1 - decay) * policy.log_probs
    chosen = moving_average(policies, decay=decay, of="probs")
    torch.testing.assert_close(chosen.sampler.probs, probs, rtol=1e-12, atol=0)
    assert chosen.reference is chosen.sampler
    chosen = moving_average(policies, decay=decay)
    assert tv(chosen.sampler, TabularPolicy.from_logits(log_probs)).max() <= 1e-13
    assert chosen.reference is chosen.sampler


@given(policies=iterates())
@pytest.mark.parametrize("of", ["log_probs", "probs"])
def test_a_moving_average_that_keeps_nothing_is_the_last_iterate(policies, of):
    assert tv(moving_average(policies, decay=0.0, of=of).sampler, policies[-1]).max() <= EXACT


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ({"decay": 1.0}, r"decay must be in \[0, 1\), got 1.0"),
        ({"decay": float("nan")}, "decay must be in"),
        ({"decay": 0.5, "of": "weights"}, "of must be 'log_probs' or 'probs', got 'weights'"),
    ],
)
def test_a_bad_average_is_refused(rules, says):
    half = TabularPolicy.from_probs([[0.5, 0.5]])
    with pytest.raises(ValueError, match=says):
        moving_average([half], **rules)
