import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp

from spin_theory import js, tv
from spin_theory.claims.distance import pair_policies
from spin_theory.hardest import hardest_js
from tests.strategies import log_policies


@given(tables=log_policies(count=2))
def test_no_tables_are_harder_than_two_responses(tables):
    pairs, distances = js(*pair_policies(*tables)), tv(*tables)
    for found, distance in zip(pairs.tolist(), distances.tolist(), strict=True):
        assert found >= hardest_js(min(1.0, distance)) - 1e-14


@given(distance=st.floats(1e-9, 0.5))
def test_a_small_distance_is_seen_through_its_square(distance):
    """P and Q differ by (w - l) / (w + l) in a share of the pairs: t^2 to lowest order."""
    assert hardest_js(distance) == pytest.approx(distance**2, rel=0.5 * distance**2 + 1e-12)


@pytest.mark.parametrize("distance", [1e-9, 0.1, 0.5, 0.500001, 0.9, 1 - 1e-6, 1 - 1e-15])
def test_no_digits_are_lost_near_0_nor_near_1(distance):
    with mp.workdps(60):
        wins = (1 + mp.mpf(distance)) ** 2 / 4
        both = 2 * wins - distance
        log_ratios = mp.log(2 * wins / both), mp.log(2 * (wins - distance) / both)
        expected = float(wins * log_ratios[0] + (wins - distance) * log_ratios[1])
    assert hardest_js(distance) == pytest.approx(expected, rel=2e-15)


def test_a_distance_that_is_none_is_refused():
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="tv must be in"):
            hardest_js(wrong)
