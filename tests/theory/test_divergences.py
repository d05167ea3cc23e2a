import math
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from spin_theory import TabularPolicy, bhattacharyya, chi_square, entropy, js, kl, renyi, tv
from tests.strategies import log_policies

P = TabularPolicy.from_probs([[0.5, 0.5]])
Q = TabularPolicy.from_probs([[0.2, 0.8]])
BETWEEN = [kl, tv, js, chi_square, bhattacharyya]
EQUAL = (TabularPolicy.from_probs([[1 - 1e-12, 1e-12]]),) * 2


@pytest.mark.parametrize(
    ("divergence", "expected"),
    [
        (kl, 0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.8)),
        (tv, 0.3),
        # m = (0.35, 0.65)
        (
            js,
            0.25 * (math.log(0.5 / 0.35) + math.log(0.5 / 0.65))
            + 0.5 * (0.2 * math.log(0.2 / 0.35) + 0.8 * math.log(0.8 / 0.65)),
        ),
        (chi_square, 0.3**2 / 0.2 + 0.3**2 / 0.8),
        (bhattacharyya, math.sqrt(0.1) + math.sqrt(0.4)),
    ],
)
def test_divergences_by_hand(divergence, expected):
    assert divergence(P, Q).item() == pytest.approx(expected, rel=1e-14)


def test_entropy_by_hand():
    assert entropy(Q).item() == pytest.approx(-0.2 * math.log(0.2) - 0.8 * math.log(0.8))


COMMON = [-8.924050979104981, -2.2332952922878517, -5.122085857441054]
LAST_BIT = tuple(
    TabularPolicy(torch.tensor([[*COMMON, last]], dtype=torch.float64))
    for last in (-0.1202163121915818, -0.1202163121915816)
)


@example(policies=EQUAL)
@example(policies=LAST_BIT).via("equal but for a last bit: KL was -2e-32")
@given(policies=log_policies(count=2))
def test_ranges_and_known_inequalities(policies):
    p, q = policies
    slack = 1e-14
    assert (kl(p, q) >= 0).all()
    assert (js(p, q) >= -slack).all()
    assert (js(p, q) <= math.log(2) + slack).all()
    assert (tv(p, q) <= 1 + slack).all()
    assert (2 * tv(p, q) ** 2 <= kl(p, q) + slack).all()  # Pinsker
    assert (kl(p, q) <= torch.log1p(chi_square(p, q)) + slack).all()
    assert (1 - tv(p, q) <= bhattacharyya(p, q) + slack).all()
    assert (entropy(p) <= math.log(p.log_probs.shape[1]) + slack).all()


@given(policies=log_policies(count=2))
def test_tv_js_and_bhattacharyya_are_symmetric(policies):
    p, q = policies
    for divergence in (tv, js, bhattacharyya):
        torch.testing.assert_close(divergence(p, q), divergence(q, p), rtol=1e-13, atol=1e-15)


@given(policies=log_policies(count=1))
def test_a_policy_is_no_distance_from_itself(policies):
    (p,) = policies
    for divergence in (kl, tv, chi_square):
        assert (divergence(p, p) == 0).all()
    assert (js(p, p).abs() <= 1e-15).all()


def test_kl_of_nearly_equal_policies_keeps_its_digits():
    # KL = 1/2 Var_p(direction) size^2 + O(size^3), here 1e-19: the rounding of sum p log(p/q)
    # alone is 1e-17.
    p = TabularPolicy.random(1, 8, seed=0, smallest=0.01)
    direction = torch.randn(1, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    size = 1e-9
    q = TabularPolicy.from_logits(p.log_probs + size * direction)
    mean = (p.probs * direction).sum()
    expected = 0.5 * size**2 * (p.probs * (direction - mean).square()).sum().item()
    assert kl(p, q).item() == pytest.approx(expected, rel=1e-5, abs=0)


def test_point_masses_far_apart_in_log_space_give_finite_kl_and_infinite_chi_square():
    p = TabularPolicy.from_logits(torch.tensor([[0.0, -1e6]], dtype=torch.float64))
    q = TabularPolicy.from_logits(torch.tensor([[-1e6, 0.0]], dtype=torch.float64))
    assert kl(p, q).item() == 1e6
    assert tv(p, q).item() == 1.0
    assert chi_square(p, q).item() == math.inf


@pytest.mark.parametrize("divergence", BETWEEN)
def test_divergences_are_differentiable(divergence):
    generator = torch.Generator().manual_seed(0)
    logits = [
        torch.randn(2, 4, generator=generator, dtype=torch.float64).requires_grad_()
        for _ in range(2)
    ]

    def of_logits(a, b):
        return divergence(TabularPolicy.from_logits(a), TabularPolicy.from_logits(b))

    assert gradcheck(of_logits, logits)


@pytest.mark.parametrize("divergence", BETWEEN)
def test_different_shapes_are_refused(divergence):
    with pytest.raises(ValueError, match=r"p \(1, 2\), q \(1, 1\)"):
        divergence(P, TabularPolicy.from_probs([[1.0]]))


ORDERS = st.one_of(st.floats(0.01, 0.9), st.floats(1.1, 100.0))


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (2.0, math.log(0.5**2 / 0.2 + 0.5**2 / 0.8)),
        (0.5, -2 * math.log(math.sqrt(0.1) + math.sqrt(0.4))),
        (3.0, math.log(0.5**3 / 0.2**2 + 0.5**3 / 0.8**2) / 2),
    ],
)
def test_renyi_by_hand(order, expected):
    assert renyi(P, Q, order=order).item() == pytest.approx(expected, rel=1e-14)


@given(policies=log_policies(count=2))
def test_renyi_of_order_two_is_chi_square_and_of_one_half_the_overlap(policies):
    p, q = policies
    two, half = (renyi(p, q, order=order) for order in (2.0, 0.5))
    torch.testing.assert_close(two, torch.log1p(chi_square(p, q)), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(half, -2 * bhattacharyya(p, q).log(), rtol=1e-12, atol=1e-14)


@given(policies=log_policies(count=2), orders=st.tuples(ORDERS, ORDERS))
def test_renyi_is_nonnegative_and_rises_with_its_order(policies, orders):
    p, q = policies
    low, high = (renyi(p, q, order=order) for order in sorted(orders))
    slack = 1e-13 * (1 + high)
    assert (low >= -slack).all()
    assert (low <= high + slack).all()


@given(policies=log_policies(count=2), order=st.floats(0.01, 0.99))
def test_renyi_is_skew_symmetric_below_order_one(policies, order):
    p, q = policies
    one, other = (1 - order) * renyi(p, q, order=order), order * renyi(q, p, order=1 - order)
    torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


@given(policies=log_policies(count=2))
def test_renyi_nears_kl_as_its_order_nears_one(policies):
    p, q = policies
    distance = 1e-6
    below, above = (renyi(p, q, order=order) for order in (1 - distance, 1 + distance))
    # the logarithm of the sum rounds like its largest exponent, and is divided by the distance
    largest = (p.log_probs.abs() + 2 * q.log_probs.abs()).amax(dim=-1)
    slack = 4 * torch.finfo(torch.float64).eps * (1 + largest) / distance
    assert (below <= kl(p, q) + slack).all()
    assert (kl(p, q) <= above + slack).all()


def test_renyi_of_nearly_equal_policies_keeps_its_digits():
    # order/2 Var_p(direction) size^2 + O(size^3), here 1e-18: the logarithm of a sum rounds at
    # 1e-16, and gave multiples of that
    p = TabularPolicy.random(1, 8, seed=0, smallest=0.01)
    direction = torch.randn(1, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    size = 1e-9
    q = TabularPolicy.from_logits(p.log_probs + size * direction)
    mean = (p.probs * direction).sum()
    variance = (p.probs * (direction - mean).square()).sum().item()
    for order in (0.5, 3.0, 10.0):
        expected = 0.5 * order * variance * size**2
        assert renyi(p, q, order=order).item() == pytest.approx(expected, rel=1e-4, abs=0)


@given(policies=log_policies(count=1), order=ORDERS)
def test_renyi_of_a_policy_from_itself_is_zero(policies, order):
    (p,) = policies
    assert (renyi(p, p, order=order) == 0).all()


@pytest.mark.parametrize("size", [1e-3, 0.2, 0.3, 5.0])
@pytest.mark.parametrize("order", [0.3, 2.0, 5.0])
def test_renyi_is_differentiable_near_and_far(order, size):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    other = logits + size * torch.randn(2, 4, generator=generator, dtype=torch.float64)

    def of_logits(a, b):
        return renyi(TabularPolicy.from_logits(a), TabularPolicy.from_logits(b), order=order)

    assert gradcheck(of_logits, (logits.requires_grad_(), other.requires_grad_()))


@pytest.mark.parametrize("order", [0.0, -1.0, 1.0, math.inf, math.nan])
def test_an_order_that_is_none_is_refused(order):
    with pytest.raises(ValueError, match="order must be finite"):
        renyi(P, Q, order=order)


def test_renyi_of_different_shapes_is_refused():
    with pytest.raises(ValueError, match=r"p \(1, 2\), q \(1, 1\)"):
        renyi(P, TabularPolicy.from_probs([[1.0]]), order=2.0)


@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-6, 1e-8])
def test_policies_that_nearly_agree_keep_the_digits_of_kl_and_js(size):
    half = TabularPolicy.from_logits(torch.zeros(1, 2, dtype=torch.float64))
    near = TabularPolicy.from_logits(torch.tensor([[size, -size]], dtype=torch.float64))
    p, q = ([Decimal(value) for value in each.log_probs[0].tolist()] for each in (half, near))

    def relative_entropy(one, other):
        return sum(a.exp() * (a - b) - a.exp() + b.exp() for a, b in zip(one, other, strict=True))

    with localcontext() as digits:
        digits.prec = 60
        middle = [((a.exp() + b.exp()) / 2).ln() for a, b in zip(p, q, strict=True)]
        expected = relative_entropy(p, q)
        both = (relative_entropy(p, middle) + relative_entropy(q, middle)) / 2
    assert kl(half, near).item() == pytest.approx(float(expected), rel=1e-14)
    assert js(half, near).item() == pytest.approx(float(both), rel=1e-14)
