import math
from dataclasses import replace

import pytest

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence
from spin_theory.tolerances import FEW_TERMS, ROUNDING

SEEN = []


def check_nothing(*, loss_type):
    SEEN.append(loss_type)
    return Evidence(0.0, ROUNDING)


CLAIM = Claim(
    name="nothing, {loss_type}",
    statement="Nothing is claimed.",
    source="derived",
    function=check_nothing,
    tolerance=ROUNDING,
    check=lambda draw, update, loss_type: check_nothing(loss_type=(draw, update, loss_type)),
    loss_types=("logistic", "hinge"),
)


def test_a_claim_has_one_case_per_penalty_in_their_order():
    assert list(CLAIM.cases) == ["nothing, logistic", "nothing, hinge"]


@pytest.mark.parametrize("loss_type", ["logistic", "hinge"])
def test_a_case_passes_the_draw_the_update_and_its_own_penalty(loss_type):
    assert CLAIM.cases[f"nothing, {loss_type}"]("draw", "update").holds
    assert SEEN[-1] == ("draw", "update", loss_type)


def test_the_facts_of_a_claim_are_plain_values():
    assert CLAIM.facts == {
        "name": "nothing, {loss_type}",
        "loss_types": ("logistic", "hinge"),
        "statement": "Nothing is claimed.",
        "source": "derived",
        "check": "check_nothing",
        "tolerance": 1e-12,
        "reason": ROUNDING.reason,
    }


@pytest.mark.parametrize(
    ("residual", "holds"), [(1e-14, True), (1.1e-14, False), (math.nan, False)]
)
def test_a_case_is_judged_by_the_tolerance_of_the_claim(residual, holds):
    strict = replace(CLAIM, tolerance=FEW_TERMS, check=lambda *_: Evidence(residual, ROUNDING))
    found = strict.cases["nothing, hinge"]("draw", "update")
    assert (found.holds, found.tolerance) == (holds, 1e-14)


def test_a_case_fails_where_its_check_does():
    refused = replace(CLAIM, check=lambda *_: Evidence(0.0, -1.0))
    assert not refused.cases["nothing, hinge"]("draw", "update").holds
