import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_theory.claims.instances import random_instance

SEEDS = st.integers(0, 2**62)


@given(seed=SEEDS)
def test_a_seed_stands_for_one_instance(seed):
    one, again = random_instance(seed), random_instance(seed)
    assert one.instance == again.instance
    for part in ("data", "opponent", "other", "small_data", "small_start", "small_other"):
        assert torch.equal(getattr(one, part).log_probs, getattr(again, part).log_probs)
    assert torch.equal(one.features, again.features)
    assert torch.equal(one.parameters, again.parameters)


@given(seed=SEEDS)
def test_an_instance_is_within_its_domain_and_says_what_it_is(seed):
    draw = random_instance(seed)
    instance = draw.instance
    assert 2 <= instance.responses <= 256
    assert 0.1 <= instance.beta <= 10
    assert draw.data.log_probs.shape == (1, instance.responses)
    assert 2 <= draw.small_data.log_probs.shape[1] <= 12
    tables = (draw.data, draw.opponent)
    smallest = min(table.log_probs.min().item() for table in tables)
    assert instance.smallest == pytest.approx(math.exp(smallest), rel=1e-12)


@given(seed=SEEDS)
def test_the_tables_of_an_instance_differ_from_one_another(seed):
    draw = random_instance(seed)
    large = (draw.data, draw.opponent, draw.other)
    small = (draw.small_data, draw.small_start, draw.small_other)
    for tables in (large, small):
        for index, table in enumerate(tables):
            for other in tables[index + 1 :]:
                assert not torch.equal(table.log_probs, other.log_probs)


def test_an_instance_does_not_change_from_version_to_version():
    # the documentation names instances by their seeds
    draw = random_instance(3488)
    assert draw.instance.responses == 256
    assert draw.beta == draw.instance.beta == pytest.approx(1.2158888575621623, rel=1e-12)
    assert draw.parameters[0, 0].item() == pytest.approx(-2.529874409401765, rel=1e-12)


def test_the_network_is_a_policy_class_that_is_not_convex():
    draw = random_instance(0)
    one, other = draw.parameters.flatten(), -draw.parameters.flatten()
    tables = [draw.network(theta) for theta in (one, other, (one + other) / 2)]
    for table in tables:
        assert table.exp().sum().item() == pytest.approx(1, abs=1e-12)
    between = (tables[0] + tables[1]) / 2
    assert not torch.allclose(torch.log_softmax(between, -1), tables[2])
