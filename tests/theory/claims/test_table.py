import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_theory import closed_form_update
from spin_theory.claims.table import all_claims, random_instance
from spin_theory.losses import PENALTIES
from tests.strategies import at_most

CLAIMS = all_claims()
SEEDS = st.integers(0, 2**62)


@at_most(10)
@given(seed=SEEDS)
def test_all_claims_hold_on_any_instance(seed):
    draw = random_instance(seed)
    for name, check in CLAIMS.items():
        evidence = check(draw, closed_form_update)
        assert evidence.holds, (name, evidence)


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


def test_every_penalty_has_its_claims():
    for loss_type in PENALTIES:
        named = {name.split(",")[0] for name in CLAIMS if name.endswith(loss_type)}
        assert {"5.2 sufficiency", "5.2 necessity", "5.2 witness interval"} <= named


@pytest.mark.parametrize(
    ("names", "target"),
    [
        ({"5.4 closed form, logistic", "closed form, exponential"}, None),
        (
            {name for name in CLAIMS if name.startswith("first step")},
            "claims.iteration.spin_objective",
        ),
        (
            {name for name in CLAIMS if name.startswith("T-SPIN Theorem 1")},
            "claims.tspin.tspin_objective",
        ),
    ],
)
def test_a_wrong_formula_fails_the_claims_about_it_and_no_others(names, target, monkeypatch):
    def at_another_beta(*tables, beta, **rules):
        return right(*tables, beta=2 * beta, **rules)

    right = closed_form_update
    if target is not None:
        module, _, name = target.rpartition(".")
        right = getattr(__import__(f"spin_theory.{module}", fromlist=[name]), name)
        monkeypatch.setattr(f"spin_theory.{target}", at_another_beta)
    update = at_another_beta if target is None else closed_form_update
    draw = random_instance(2)
    failed = {name for name, check in CLAIMS.items() if not check(draw, update).holds}
    assert failed == names
