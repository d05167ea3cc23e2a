"""Claims about single functions reject a wrong one, and hold for the right one."""

import pytest
from torch.nn import functional

from spin_theory import closed_form_update
from spin_theory.claims.instances import random_instance
from spin_theory.claims.table import CASES
from spin_theory.losses import penalties
from tests.fault_table import FAULTS
from tests.faults import planted, public_functions, rejected_by

FUNCTIONS = public_functions()
SEEDS = (1, 2, 5)


def reject(function, fault, start):
    draws = [random_instance(seed) for seed in SEEDS]
    cases = {name: case for name, case in CASES.items() if name.startswith(start)}
    assert cases
    with planted(function, fault):
        return rejected_by(draws, cases) is not None


@pytest.mark.parametrize(
    ("name", "title"), [(name, title) for name, faults in FAULTS.items() for title in faults]
)
def test_a_mistake_in_one_function_is_rejected(name, title):
    fault, start = FAULTS[name][title]
    assert reject(FUNCTIONS[name], fault, start)


def test_softplus_for_the_logistic_penalty_is_rejected():
    def softplus(_):
        return lambda margin: functional.softplus(-margin)

    assert reject(penalties._logistic, softplus, "penalty, logistic")


def test_every_public_function_is_called_by_a_claim():
    """So a new one needs a claim; `make faults` says whether that claim can reject it."""
    called, undo = set(), []

    def counted(name):
        def fault(right):
            def count(*tables, **rules):
                called.add(name)
                return right(*tables, **rules)

            return count

        return fault

    try:
        for name, function in FUNCTIONS.items():
            plant = planted(function, counted(name))
            plant.__enter__()
            undo.append(plant)
        for seed in SEEDS[:2]:
            draw = random_instance(seed)
            for case in CASES.values():
                case(draw, closed_form_update)
    finally:
        for plant in undo[::-1]:
            plant.__exit__(None, None, None)
    assert set(FUNCTIONS) == called


def test_the_printed_remark_5_5_fails_in_many_tables():
    case = CASES["Remark 5.5, corrected"]
    found = [case(random_instance(seed), closed_form_update) for seed in range(40)]
    assert all(judged.holds for judged in found)
    share = sum(judged.evidence.numbers["printed"] > 0 for judged in found) / len(found)
    assert 0.2 < share < 1


def test_a_check_that_raises_counts_as_rejected():
    draw = random_instance(1)

    def raises(*_):
        raise ValueError("no")

    assert rejected_by([draw], {"a": raises}) == "a (ValueError)"
