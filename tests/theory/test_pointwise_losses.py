"""SPACE and GSIL on log-probs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from spin_theory.losses import GSIL_LOSSES, gsil, gsil_loss, space, space_loss, spin_loss
from tests.strategies import BETAS

RATIOS = st.floats(-30.0, 30.0)
MUS = st.floats(math.log(0.1), math.log(10.0)).map(math.exp)


def float64(*values):
    return torch.tensor(values, dtype=torch.float64)


def logps(real, generated):
    """Log-probs whose two log-ratios are given."""
    return {
        "policy_real_logps": float64(real - 3.0),
        "policy_generated_logps": float64(generated - 4.0),
        "opponent_real_logps": float64(-3.0),
        "opponent_generated_logps": float64(-4.0),
    }


def sigma(x, mu=1.0):
    return 1 / (1 + mu * math.exp(-x))


BY_HAND = {
    "bernoulli": lambda t, s: -math.log(sigma(t)) - math.log(sigma(-s)),
    "brier": lambda t, s: (1 - sigma(t)) ** 2 + sigma(s) ** 2,
    "hinge": lambda t, s: max(0, 1 - t) + max(0, 1 + s),
    "kliep": lambda t, s: -t + math.exp(s),
    "lsif": lambda t, s: -math.exp(t) + math.exp(2 * s) / 2,
}


@pytest.mark.parametrize("loss_type", GSIL_LOSSES)
@given(
    real=RATIOS,
    generated=RATIOS,
    beta=st.floats(0.01, 1.0),
    shift=st.floats(-2.0, 2.0),
    weight=st.floats(0.0, 2.0),
)
def test_gsil_is_its_formula(loss_type, real, generated, beta, shift, weight):
    found = gsil_loss(
        **logps(real, generated), beta=beta, loss_type=loss_type, shift=shift, sft_weight=weight
    )
    t, s = beta * real + shift, beta * generated + shift
    expected = BY_HAND[loss_type](t, s) - weight * (real - 3.0)
    size = 1 + abs(t) + math.exp(abs(t)) * (loss_type == "lsif") + abs(weight * real)
    assert found.item() == pytest.approx(expected, rel=1e-11, abs=1e-13 * size)


@given(real=RATIOS, generated=RATIOS, mu=MUS)
def test_space_is_its_formula(real, generated, mu):
    found = space_loss(**logps(real, generated), mu=mu).item()
    expected = -math.log(sigma(real, mu)) - mu * math.log(sigma(-generated, 1 / mu))
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-13)


@given(real=RATIOS, generated=RATIOS)
def test_space_at_mu_one_is_gsils_bernoulli_at_scale_one(real, generated):
    rules = logps(real, generated)
    bernoulli = gsil_loss(**rules, beta=1.0, loss_type="bernoulli")
    torch.testing.assert_close(space_loss(**rules, mu=1.0), bernoulli, rtol=1e-15, atol=0)


@pytest.mark.parametrize("loss_type", GSIL_LOSSES)
def test_the_terms_are_seen_apart_and_not_as_a_margin(loss_type):
    # a shift common to both log-ratios changes the loss; SPIN's stays
    here, there = logps(0.3, -0.2), logps(1.3, 0.8)
    rules = {"beta": 0.5, "loss_type": loss_type}
    assert abs((gsil_loss(**here, **rules) - gsil_loss(**there, **rules)).item()) > 1e-3 or (
        loss_type == "hinge"  # straight lines of opposite slopes between its kinks
    )
    assert torch.allclose(spin_loss(**here, beta=0.5), spin_loss(**there, beta=0.5))


@pytest.mark.parametrize("loss", [*GSIL_LOSSES, "space"])
@given(beta=BETAS, low=st.floats(-5, 5), rise=st.floats(0, 5))
def test_real_terms_fall_and_generated_terms_rise(loss, beta, low, rise):
    made = space(beta) if loss == "space" else gsil(loss, scale=beta, shift=0.3)
    places = float64(low, low + rise)
    real, generated = made.real(places), made.generated(places)
    assert real[1] <= real[0] + 1e-12 * (1 + real[0].abs())
    assert generated[1] >= generated[0] - 1e-12 * (1 + generated[0].abs())


@pytest.mark.parametrize("loss_type", GSIL_LOSSES)
def test_gradients_are_those_of_the_value(loss_type):
    tables = [float64(-2.0, -0.3, -0.9).mul(s).requires_grad_() for s in (0.3, 1.7, 0.9, 1.1)]

    def gsil_of(a, b, c, d):
        return gsil_loss(
            policy_real_logps=a,
            policy_generated_logps=b,
            opponent_real_logps=c,
            opponent_generated_logps=d,
            beta=0.8,
            loss_type=loss_type,
            shift=0.1,
        )

    def space_of(a, b, c, d):
        return space_loss(
            policy_real_logps=a,
            policy_generated_logps=b,
            opponent_real_logps=c,
            opponent_generated_logps=d,
            mu=3.0,
        )

    assert gradcheck(gsil_of, tables)
    assert gradcheck(space_of, tables)


@pytest.mark.parametrize("mu", [0.5, 1.0, 7.0])
def test_derivatives_of_space_at_the_opponent(mu):
    # phi' = -mu/(1 + mu), phi'' = mu/(1 + mu)^2; psi is mu phi's mirror: mu/(1 + mu), mu^2/(1+mu)^2
    share = mu / (1 + mu)
    (one, two), (three, four) = space(mu).derivatives()
    expected = (-share, share / (1 + mu), share, mu * share / (1 + mu))
    assert (one, two, three, four) == pytest.approx(expected, rel=1e-14)
    assert space(mu).sft_factor == pytest.approx(share, rel=1e-14)


@pytest.mark.parametrize("loss", [*GSIL_LOSSES, "space"])
@pytest.mark.parametrize("ratio", [-700.0, 700.0])
def test_extreme_log_ratios_are_finite_where_the_formula_is(loss, ratio):
    made = space(2.0) if loss == "space" else gsil(loss, scale=0.5)
    assert torch.isfinite(made(float64(ratio), float64(ratio))).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_keeps_its_dtype(dtype):
    rules = {name: value.to(dtype) for name, value in logps(0.5, -0.25).items()}
    assert space_loss(**rules, mu=3.0).dtype == dtype
    for loss_type in GSIL_LOSSES:
        assert gsil_loss(**rules, beta=0.5, loss_type=loss_type).dtype == dtype


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: space_loss(**logps(0, 0), mu=0.0), "mu must be finite and > 0, got 0.0"),
        (lambda: space_loss(**logps(0, 0), mu=math.nan), "mu must be finite and > 0"),
        (lambda: gsil_loss(**logps(0, 0), beta=0.0), "beta must be finite and > 0"),
        (lambda: gsil_loss(**logps(0, 0), beta=1.0, shift=math.inf), "shift must be finite"),
        (lambda: gsil_loss(**logps(0, 0), beta=1.0, loss_type="logistic"), "one of bernoulli"),
        (lambda: gsil_loss(**logps(0, 0), beta=1.0, sft_weight=-1), "sft_weight must be"),
        (lambda: gsil("brier", scale=-1.0), "scale must be finite and > 0"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(call, says):
    with pytest.raises(ValueError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_nothing_broadcasts():
    rules = logps(0.0, 0.0) | {"opponent_real_logps": torch.zeros(3, 1)}
    with pytest.raises(ValueError, match=r"opponent_real_logps \(3, 1\)"):
        space_loss(**rules)
