import pytest

from spin_theory import divergences, kl, renyi
from spin_theory.claims import iteration
from spin_theory.claims.instances import random_instance
from spin_theory.claims.table import CASES
from tests.fault_table import FAULTS
from tests.faults import NOT_NUMBERS, planted, public_functions, rejected_by, usual

FUNCTIONS = public_functions()


def test_the_public_functions_are_found_in_every_wing():
    wings = {name.split(":")[0].split(".")[0] for name in FUNCTIONS}
    assert {"divergences", "games", "losses", "minima", "objectives", "policies"} <= wings
    assert {"games.play:Game.kl", "policies:TabularPolicy.from_probs"} <= set(FUNCTIONS)
    assert not {name.split(":")[0] for name in FUNCTIONS} & set(NOT_NUMBERS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_that_returns_a_number_has_a_fault(name):
    assert usual(FUNCTIONS[name])


def test_every_fault_of_the_table_is_of_a_public_function():
    assert set(FAULTS) <= set(FUNCTIONS)


def test_a_planted_fault_is_met_by_every_holder_of_the_function_and_goes_away_again():
    draw = random_instance(0)
    right = kl(draw.data, draw.opponent)
    with planted(kl, lambda function: lambda p, q: 2 * function(p, q)):
        for holder in (kl, divergences.kl, iteration.kl):
            assert holder(draw.data, draw.opponent).equal(2 * right)
    assert kl(draw.data, draw.opponent).equal(right)


def test_a_fault_is_rejected_by_the_claims_and_the_right_function_is_not():
    draws = [random_instance(2)]
    cases = {name: case for name, case in CASES.items() if name.startswith("normaliser")}
    assert rejected_by(draws, cases) is None
    with planted(renyi, lambda function: lambda *tables, **rules: 2 * function(*tables, **rules)):
        assert rejected_by(draws, cases) == "normaliser is a Renyi divergence"
