import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spin_theory import closed_form_update
from spin_theory.claims.instances import random_instance
from spin_theory.claims.table import all_claims
from spin_theory.losses import PENALTIES

CLAIMS = all_claims()
SEEDS = st.integers(0, 2**62)


@settings(max_examples=10)
@given(seed=SEEDS)
def test_all_claims_hold_on_any_instance(seed):
    draw = random_instance(seed)
    for name, check in CLAIMS.items():
        evidence = check(draw, closed_form_update)
        assert evidence.holds, (name, evidence)


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
            "claims.first_step.spin_objective",
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
