import importlib
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import spin_theory.claims
from spin_theory import PENALTIES, closed_form_update
from spin_theory.claims.evidence import Evidence
from spin_theory.claims.instances import random_instance
from spin_theory.claims.table import CASES, CLAIMS
from tests.strategies import at_most

MODULES = [
    importlib.import_module(f"spin_theory.claims.{path.stem}")
    for path in sorted(Path(spin_theory.claims.__path__[0]).glob("[a-z]*.py"))
]

OF_A_PROBLEM = {
    "check_convexity",
    "check_inner_problem",
    "check_minimum",
    "check_sft_certificate",
    "check_sft_objective",
}
"""Checks that take the penalty within a problem."""

each_claim = pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_the_list_of_files_names_it(module):
    assert f"``{module.__name__.rpartition('.')[2]}``" in spin_theory.claims.__doc__


@at_most(10)
@given(seed=st.integers(0, 2**62))
def test_all_claims_hold_on_any_instance(seed):
    draw = random_instance(seed)
    for name, case in CASES.items():
        evidence = case(draw, closed_form_update)
        assert evidence.holds, (name, evidence)


def test_no_two_rows_have_one_name():
    assert len(CASES) == sum(len(claim.cases) for claim in CLAIMS)


def test_the_table_is_the_union_of_the_tables_of_all_files():
    tables = [
        module.CLAIMS
        for module in MODULES
        if module.__name__ != "spin_theory.claims.table"
        if hasattr(module, "CLAIMS")
    ]
    assert len(tables) >= 10
    assert {id(claim) for table in tables for claim in table} == {id(claim) for claim in CLAIMS}


def test_every_public_check_checks_a_claim_of_its_own_file():
    public = {
        (module.__name__, name)
        for module in MODULES
        for name in module.__all__
        if name.startswith("check_")
    }
    assert public == {(claim.function.__module__, claim.function.__name__) for claim in CLAIMS}


@each_claim
def test_a_claim_is_checked_by_the_function_it_names(claim, monkeypatch):
    called = []

    def check(*tables, **rules):
        called.append(rules.get("loss_type"))
        return Evidence(0.0, 0.0)

    monkeypatch.setattr(sys.modules[claim.function.__module__], claim.function.__name__, check)
    for case in claim.cases.values():
        case(random_instance(0), closed_form_update)
    assert len(called) == len(claim.loss_types)
    if len(called) > 1 and claim.function.__name__ not in OF_A_PROBLEM:
        assert tuple(called) == claim.loss_types


@each_claim
def test_a_claim_tolerates_no_more_than_its_check(claim):
    draw = random_instance(3)
    for loss_type in claim.loss_types:
        found = claim.check(draw, closed_form_update, loss_type)
        assert claim.tolerance <= found.tolerance


@each_claim
def test_a_claim_says_what_is_claimed_and_where_it_comes_from(claim):
    assert claim.statement.endswith(".")
    assert claim.statement.count("`") % 2 == 0
    assert "|" not in claim.statement + claim.name  # the rows go into Markdown tables
    papers = ("SPIN, ", "T-SPIN, ", "Alami", "SPACE", "GSIL", "SAPO", "IRIS")
    assert claim.source == "derived" or claim.source.startswith(papers)
    assert len(claim.tolerance.reason) > 10
    assert set(claim.loss_types) <= set(PENALTIES)
    assert len(claim.loss_types) == 1 or "{loss_type}" in claim.name


def test_every_penalty_has_its_claims():
    for loss_type in PENALTIES:
        named = {name.split(",")[0] for name in CASES if name.endswith(loss_type)}
        assert {"5.2 sufficiency", "5.2 necessity", "5.2 witness interval"} <= named


@pytest.mark.parametrize(
    ("names", "target"),
    [
        ({"5.4 closed form, logistic", "closed form, exponential"}, None),
        (
            {name for name in CASES if name.startswith("first step is SFT")},
            "claims.first_step.spin_objective",
        ),
        (
            {name for name in CASES if name.startswith("T-SPIN Theorem 1")},
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
    draw = random_instance(7)
    failed = {name for name, case in CASES.items() if not case(draw, update).holds}
    assert failed == names
