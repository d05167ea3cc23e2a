import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spin_theory.claims.evidence import Evidence, largest_error


@given(residual=st.floats(0.0), tolerance=st.floats(0.0, allow_infinity=False))
def test_a_claim_holds_exactly_where_the_residual_is_within_its_tolerance(residual, tolerance):
    assert Evidence(residual, tolerance).holds == (residual <= tolerance)


@pytest.mark.parametrize("residual", [math.nan, math.inf])
def test_a_residual_that_is_no_number_is_a_no(residual):
    assert not Evidence(residual, 1e300).holds


@given(errors=st.lists(st.floats(), max_size=5), place=st.integers(0, 5))
def test_an_error_that_is_nan_is_never_passed_over(errors, place):
    errors.insert(place, math.nan)
    assert math.isnan(largest_error(errors))


@given(errors=st.lists(st.floats(allow_nan=False), max_size=5))
def test_the_residual_is_the_largest_error_and_at_least_zero(errors):
    assert largest_error(errors) == max([0.0, *errors])
