import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from spin_theory import PENALTIES, sft_loss, spin_loss, tspin_loss
from spin_theory.losses import Penalty
from tests.strategies import BETAS, LOSS_TYPES, MARGINS

ROUNDING = 1e-15  # relative; a few operations in float64


def float64(*values, requires_grad=False):
    return torch.tensor(values, dtype=torch.float64, requires_grad=requires_grad)


def spin_of_margin(margin, *, beta=1.0, loss_type="logistic"):
    """The loss of a pair whose real log-ratio is `margin` and whose generated one is 0."""
    zero = torch.zeros_like(margin)
    return spin_loss(
        policy_real_logps=margin,
        policy_generated_logps=zero,
        opponent_real_logps=zero,
        opponent_generated_logps=zero,
        beta=beta,
        loss_type=loss_type,
    )


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        # beta * ([-2 - -3] - [-5 - -4]) = 0.5 * (1 + 1) = 1
        ("logistic", math.log(1 + math.exp(-1))),
        ("hinge", 0.0),
        ("exponential", math.exp(-1)),
        ("correlation", 0.0),
    ],
)
def test_spin_loss_by_hand(loss_type, expected):
    loss = spin_loss(
        policy_real_logps=float64(-2.0),
        policy_generated_logps=float64(-5.0),
        opponent_real_logps=float64(-3.0),
        opponent_generated_logps=float64(-4.0),
        beta=0.5,
        loss_type=loss_type,
    )
    assert loss.item() == pytest.approx(expected, rel=ROUNDING, abs=1e-16)


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        # margins: 2 * (-1 - -2) = 2 and 2 * (-2 - -1.5) = -1, history_weight 0.25
        ("logistic", math.log(1 + math.exp(-2)) + 0.25 * math.log(1 + math.e)),
        ("hinge", 0 + 0.25 * 2),
        ("exponential", math.exp(-2) + 0.25 * math.e),
        ("correlation", -1 + 0.25 * 2),
    ],
)
def test_tspin_loss_by_hand(loss_type, expected):
    loss = tspin_loss(
        policy_real_logps=float64(-1.0),
        policy_generated_logps=float64(-2.0),
        policy_proto_logps=float64(-1.5),
        beta=2.0,
        history_weight=0.25,
        loss_type=loss_type,
    )
    assert loss.item() == pytest.approx(expected, rel=ROUNDING, abs=1e-16)


def test_sft_loss_is_minus_the_log_prob():
    assert torch.equal(sft_loss(policy_real_logps=float64(-2.5, -0.5)), float64(2.5, 0.5))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_the_loss_at_the_opponent_is_the_penalty_at_zero(loss_type):
    real, generated = float64(-3.0, -700.0), float64(-1e4, -2.0)
    loss = spin_loss(
        policy_real_logps=real,
        policy_generated_logps=generated,
        opponent_real_logps=real,
        opponent_generated_logps=generated,
        beta=0.1,
        loss_type=loss_type,
    )
    at_zero = math.log(2) if loss_type == "logistic" else 1.0
    torch.testing.assert_close(loss, torch.full_like(loss, at_zero), rtol=ROUNDING, atol=0)


@example(margin=21.0).via("softplus(-t) turns linear past 20, off by 8e-10")
@given(margin=MARGINS)
def test_logistic_loss_minus_its_mirror_is_minus_the_margin(margin):
    loss, mirror = spin_of_margin(float64(margin, -margin))
    assert (loss - mirror).item() == pytest.approx(-margin, rel=4e-16, abs=4e-16)


@example(margin=30.0).via("a linear tail loses the exp(-t) that is left of the loss")
@given(margin=st.floats(-50.0, 700.0))
def test_logistic_loss_is_log1p_of_exp(margin):
    expected = math.log1p(math.exp(-margin))
    assert spin_of_margin(float64(margin)).item() == pytest.approx(expected, rel=2e-15, abs=0)


@given(margin=MARGINS)
def test_hinge_and_correlation_meet_below_one(margin):
    hinge = spin_of_margin(float64(margin), loss_type="hinge").item()
    correlation = spin_of_margin(float64(margin), loss_type="correlation").item()
    assert hinge == max(0.0, correlation)


@given(margin=st.floats(-300.0, 300.0))
def test_exponential_loss_times_its_mirror_is_one(margin):
    loss, mirror = spin_of_margin(float64(margin, -margin), loss_type="exponential")
    assert (loss * mirror).item() == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@given(low=MARGINS, rise=st.floats(0.0, 100.0))
def test_penalties_decrease(loss_type, low, rise):
    losses = PENALTIES[loss_type](float64(low, low + rise))
    # exp and log1p are right to a few units in the last place, and rise and fall within these
    assert losses[1] <= losses[0] + ROUNDING * losses[0].abs()


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@given(left=st.floats(-50, 50), right=st.floats(-50, 50))
def test_penalties_are_convex(loss_type, left, right):
    low, high, middle = PENALTIES[loss_type](float64(left, right, (left + right) / 2))
    mean = (low + high) / 2
    assert middle <= mean + 1e-13 * (1 + mean.abs())


@pytest.mark.parametrize(
    ("loss_type", "slope"),
    # l'(0): logistic -1 / (1 + e^0), hinge -1, exponential -e^0, correlation -1
    [("logistic", -0.5), ("hinge", -1.0), ("exponential", -1.0), ("correlation", -1.0)],
)
def test_the_slope_at_zero_by_hand(loss_type, slope):
    assert PENALTIES[loss_type].slope_at_zero == slope


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@given(margin=st.floats(-20.0, 20.0), share=st.floats(0.0, 1.0))
def test_a_penalty_is_the_maximum_over_its_conjugates_lines(loss_type, margin, share):
    penalty = PENALTIES[loss_type]
    loss = penalty(float64(margin)).item()
    largest = min(penalty.steepest, 100.0)
    line = penalty.conjugate(float64(share * largest)).item() - share * largest * margin
    assert line <= loss + 1e-12 * (1 + abs(loss) + largest * abs(margin))
    # the tangent at the margin is the line that touches it
    touching = penalty.log_derivatives(float64(margin))[0].exp()
    tangent = penalty.conjugate(touching).item() - touching.item() * margin
    assert tangent == pytest.approx(loss, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_far_below_zero_the_slope_is_the_steepest(loss_type):
    penalty = PENALTIES[loss_type]
    slope = penalty.log_derivatives(float64(-60.0))[0].exp().item()
    assert slope == penalty.steepest or slope > 1e20 > penalty.slope_at_zero
    assert (slope > 1e20) == math.isinf(penalty.steepest)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_only_the_correlation_penalty_has_no_lower_bound(loss_type):
    far = PENALTIES[loss_type](float64(1e6)).item()
    assert (far >= 0) == PENALTIES[loss_type].bounded_below


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_slopes_jump_at_the_kinks_and_nowhere_else(loss_type):
    step = 1e-6
    places = torch.linspace(-3.0, 3.0, 13, dtype=torch.float64)  # the kink of hinge is one
    before, at, after = (PENALTIES[loss_type](places + shift) for shift in (-step, 0, step))
    jumps = ((after - at) - (at - before)) / step > 1e-3
    assert places[jumps].tolist() == list(PENALTIES[loss_type].kinks)


@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
@given(margin=st.floats(-30.0, 30.0))
def test_automatic_derivatives_are_those_written_out(loss_type, margin):
    penalty = PENALTIES[loss_type]
    automatic = Penalty("by autograd", penalty.value).log_derivatives(float64(margin))
    # autograd's curvature is a product of which one factor loses digits in the tail
    torch.testing.assert_close(
        automatic, penalty.log_derivatives(float64(margin)), rtol=0, atol=2e-3
    )


@pytest.mark.parametrize(
    ("loss_type", "slopes"), [("hinge", [1.0, 0.0]), ("correlation", [1.0, 1.0])]
)
def test_straight_lines_have_no_curvature(loss_type, slopes):
    log_slope, log_curvature = PENALTIES[loss_type].log_derivatives(float64(0.0, 2.0))
    assert log_slope.exp().tolist() == slopes
    assert log_curvature.exp().tolist() == [0.0, 0.0]


@pytest.mark.parametrize("loss_type", ["logistic", "exponential"])
def test_only_the_logistic_curvature_is_even(loss_type):
    penalty = PENALTIES[loss_type]
    left, right = penalty.log_derivatives(float64(-2.0, 2.0))[1]
    assert torch.isclose(left, right) == penalty.even_curvature


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@given(beta=BETAS, shift=st.floats(-100, 100))
def test_spin_loss_ignores_a_shift_common_to_policy_and_opponent(loss_type, beta, shift):
    logps = {
        "policy_real_logps": float64(-2.0),
        "policy_generated_logps": float64(-1.0),
        "opponent_real_logps": float64(-3.0),
        "opponent_generated_logps": float64(-2.5),
    }
    shifted = dict(logps)
    for name in ("policy_real_logps", "opponent_real_logps"):
        shifted[name] = logps[name] + shift
    torch.testing.assert_close(
        spin_loss(**shifted, beta=beta, loss_type=loss_type),
        spin_loss(**logps, beta=beta, loss_type=loss_type),
        rtol=1e-10,
        atol=1e-12,
    )


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_tspin_without_history_is_spin_against_a_uniform_opponent(loss_type):
    real, generated, constant = float64(-2.0, 5.0), float64(-1.0, -3.0), float64(-4.0, -4.0)
    tspin = tspin_loss(
        policy_real_logps=real,
        policy_generated_logps=generated,
        policy_proto_logps=float64(-9.0, 3.0),
        beta=0.7,
        history_weight=0.0,
        loss_type=loss_type,
    )
    spin = spin_loss(
        policy_real_logps=real,
        policy_generated_logps=generated,
        opponent_real_logps=constant,
        opponent_generated_logps=constant,
        beta=0.7,
        loss_type=loss_type,
    )
    torch.testing.assert_close(tspin, spin, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_gradients_are_those_of_the_value(loss_type):
    tables = [float64(-2.0, -0.3, -7.0, requires_grad=True) for _ in range(4)]
    with torch.no_grad():
        for scale, table in zip((0.3, 1.7, 0.9, 1.1), tables, strict=True):
            table.mul_(scale)

    def spin(a, b, c, d):
        return spin_loss(
            policy_real_logps=a,
            policy_generated_logps=b,
            opponent_real_logps=c,
            opponent_generated_logps=d,
            beta=0.8,
            loss_type=loss_type,
        )

    def tspin(a, b, c):
        return tspin_loss(
            policy_real_logps=a,
            policy_generated_logps=b,
            policy_proto_logps=c,
            beta=0.8,
            history_weight=0.3,
            loss_type=loss_type,
        )

    assert gradcheck(spin, tables)
    assert gradcheck(tspin, tables[:3])


@example(margin=710.0).via("torch.sigmoid flushes to 0 what the gradient still resolves, 4e-309")
@given(margin=MARGINS)
def test_logistic_gradient_is_minus_sigmoid_everywhere(margin):
    policy_real = float64(margin, requires_grad=True)
    (gradient,) = torch.autograd.grad(spin_of_margin(policy_real).sum(), policy_real)
    expected = -torch.sigmoid(-policy_real.detach())
    torch.testing.assert_close(gradient, expected, rtol=1e-14, atol=1e-300)


@pytest.mark.parametrize("loss_type", ["logistic", "hinge", "correlation"])
@pytest.mark.parametrize("margin", [-1e4, 1e4])
def test_extreme_margins_give_finite_losses_and_gradients(loss_type, margin):
    policy_real = float64(margin, requires_grad=True)
    loss = spin_of_margin(policy_real, loss_type=loss_type)
    (gradient,) = torch.autograd.grad(loss.sum(), policy_real)
    lowest = 1 - 1e4 if loss_type == "correlation" else 0.0
    expected = lowest if margin > 0 else 1e4 + (loss_type != "logistic")
    assert loss.item() == expected
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)]
)
def test_low_precision_keeps_its_dtype_and_its_digits(loss_type, dtype, tolerance):
    margins = float64(-8.0, -1.0, 0.0, 0.5, 3.0, 8.0)
    loss = spin_of_margin(margins.to(dtype), loss_type=loss_type)
    assert loss.dtype == dtype
    expected = spin_of_margin(margins, loss_type=loss_type)
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=0)


def test_losses_keep_the_shape_of_their_arguments():
    assert spin_of_margin(torch.zeros(2, 3, 4)).shape == (2, 3, 4)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan, math.inf])
def test_a_beta_that_is_not_finite_and_positive_is_refused(beta):
    with pytest.raises(ValueError, match="beta must be finite and > 0"):
        spin_of_margin(float64(0.0), beta=beta)


@pytest.mark.parametrize("history_weight", [-0.1, math.nan, math.inf])
def test_a_bad_history_weight_is_refused(history_weight):
    zero = float64(0.0)
    with pytest.raises(ValueError, match="history_weight must be"):
        tspin_loss(
            policy_real_logps=zero,
            policy_generated_logps=zero,
            policy_proto_logps=zero,
            beta=1.0,
            history_weight=history_weight,
        )


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@given(sft_weight=st.floats(0.0, 10.0))
def test_an_sft_term_adds_its_weight_times_minus_the_real_log_prob(loss_type, sft_weight):
    logps = {
        "policy_real_logps": float64(-2.0),
        "policy_generated_logps": float64(-1.0),
        "opponent_real_logps": float64(-3.0),
        "opponent_generated_logps": float64(-2.5),
    }
    added = spin_loss(**logps, beta=0.7, loss_type=loss_type, sft_weight=sft_weight)
    plain = spin_loss(**logps, beta=0.7, loss_type=loss_type)
    torch.testing.assert_close(added - plain, float64(2.0 * sft_weight), rtol=1e-14, atol=1e-14)
    triplet = {
        "policy_real_logps": float64(-2.0),
        "policy_generated_logps": float64(-1.0),
        "policy_proto_logps": float64(-4.0),
    }
    scales = {"beta": 0.7, "history_weight": 0.3, "loss_type": loss_type}
    added = tspin_loss(**triplet, **scales, sft_weight=sft_weight)
    plain = tspin_loss(**triplet, **scales)
    torch.testing.assert_close(added - plain, float64(2.0 * sft_weight), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("sft_weight", [-0.1, math.nan, math.inf])
def test_a_bad_sft_weight_is_refused(sft_weight):
    zero = float64(0.0)
    with pytest.raises(ValueError, match="sft_weight must be finite and >= 0"):
        spin_loss(
            policy_real_logps=zero,
            policy_generated_logps=zero,
            opponent_real_logps=zero,
            opponent_generated_logps=zero,
            beta=1.0,
            sft_weight=sft_weight,
        )
    with pytest.raises(ValueError, match="sft_weight must be finite and >= 0"):
        tspin_loss(
            policy_real_logps=zero,
            policy_generated_logps=zero,
            policy_proto_logps=zero,
            beta=1.0,
            history_weight=0.1,
            sft_weight=sft_weight,
        )


def test_an_unknown_penalty_is_refused_by_name():
    with pytest.raises(ValueError, match=r"one of logistic, hinge.*got 'sigmoid'"):
        spin_of_margin(float64(0.0), loss_type="sigmoid")


def test_nothing_broadcasts():
    column, row = torch.zeros(3, 1), torch.zeros(3)
    with pytest.raises(ValueError, match=r"opponent_generated_logps \(3, 1\)"):
        spin_loss(
            policy_real_logps=row,
            policy_generated_logps=row,
            opponent_real_logps=row,
            opponent_generated_logps=column,
            beta=1.0,
        )
    with pytest.raises(ValueError, match=r"policy_proto_logps \(3, 1\)"):
        tspin_loss(
            policy_real_logps=row,
            policy_generated_logps=row,
            policy_proto_logps=column,
            beta=1.0,
            history_weight=0.1,
        )
