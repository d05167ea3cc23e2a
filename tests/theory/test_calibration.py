"""The beta that margins show, on pairs whose answer is known."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_theory import TabularPolicy, closed_form_update, minimise
from spin_theory.calibration import beta_of_margins
from spin_theory.claims.calibration import check_beta_of_margins
from tests.strategies import BETAS, log_policies


def pairs(*margins):
    return torch.tensor(margins, dtype=torch.float64)


def test_two_margins_by_hand():
    # sigma(-3s) 3 = sigma(s) at 3s = log 3 + log(...): with right 3 times as often as wrong and one
    # size of margin, sigma(s) = 3/4, so s = log 3.
    assert beta_of_margins(pairs(1.0, 1.0, 1.0, -1.0)).beta == pytest.approx(math.log(3), rel=1e-12)
    assert beta_of_margins(pairs(2.0, -2.0), weights=pairs(3.0, 1.0)).beta == pytest.approx(
        math.log(3) / 2, rel=1e-12
    )


@given(
    tables=log_policies(count=2, max_prompts=1, max_responses=6),
    beta=BETAS,
    loss_type=st.sampled_from(["logistic", "exponential"]),
)
def test_the_margins_of_an_exact_iteration_show_its_beta(tables, beta, loss_type):
    data, opponent = tables
    odds = (data.log_probs - opponent.log_probs)[0]
    weights = (data.probs[0][:, None] * opponent.probs[0]).flatten()
    seen = weights > 0
    spread = (odds[:, None] - odds).flatten()[seen]
    if not (0.01 < spread.abs().max() < 30):
        return  # a margin that is rounding, or a pair ordered wrongly too rarely to be seen
    assert check_beta_of_margins(data, opponent, beta=beta, loss_type=loss_type).holds


@pytest.mark.parametrize(
    "wrong",
    [
        lambda *a, **k: replace(beta_of_margins(*a, **k), beta=1.0),
        lambda m, **k: beta_of_margins(m, **k | {"prompts": None}),
        lambda m, **k: beta_of_margins(m, **k | {"weights": None}),
        lambda m, **k: beta_of_margins(m.clamp(-0.5, 0.5), **k),
    ],
)
def test_the_claim_says_no_to_wrong_estimates(wrong):
    data, opponent = (TabularPolicy.random(1, 6, seed=seed) for seed in (3, 4))
    assert check_beta_of_margins(data, opponent, beta=0.7).holds
    assert not check_beta_of_margins(data, opponent, beta=0.7, estimate=wrong).holds


def test_nine_intervals_in_ten_hold_the_beta_of_sampled_pairs():
    generator = torch.Generator().manual_seed(0)
    data, opponent = (TabularPolicy.random(1, 8, seed=s, smallest=0.05) for s in (0, 1))
    policy = closed_form_update(opponent, data, beta=2.0)
    log_ratio = (policy.log_probs - opponent.log_probs)[0]
    inside = 0
    for _ in range(400):
        real, generated = (
            torch.multinomial(p.probs[0], 300, replacement=True, generator=generator)
            for p in (data, opponent)
        )
        found = beta_of_margins(log_ratio[real] - log_ratio[generated])
        inside += abs(found.beta - 2.0) < 1.645 * found.standard_error
    assert 340 < inside < 380  # 360 expected, and 6 is a standard deviation


def test_pairs_of_one_prompt_count_as_one():
    margins = pairs(1.0, 2.0, -0.5, 0.3, -0.2)
    once = beta_of_margins(margins)
    thrice = beta_of_margins(margins.repeat(3), prompts=torch.arange(5).repeat(3))
    assert thrice.beta == pytest.approx(once.beta, rel=1e-12)
    assert thrice.standard_error == pytest.approx(once.standard_error, rel=1e-12)


@pytest.mark.parametrize(
    ("margins", "beta"),
    [
        ((1.0, 2.0), math.inf),
        ((-1.0, -2.0), -math.inf),
        ((0.0, 0.0), math.inf),
        ((0.0, 3.0), math.inf),
    ],
)
def test_margins_that_no_factor_calibrates_have_no_finite_beta(margins, beta):
    found = beta_of_margins(pairs(*margins))
    assert found.beta == beta
    assert math.isnan(found.standard_error)


def test_a_policy_that_moved_away_from_the_data_has_a_beta_below_0():
    assert beta_of_margins(pairs(1.0, -2.0, -3.0)).beta < 0


def test_one_prompt_has_no_standard_error():
    found = beta_of_margins(pairs(1.0, -0.5), prompts=torch.zeros(2, dtype=torch.int64))
    assert math.isnan(found.standard_error)


@pytest.mark.parametrize("size", [1e-200, 1e-8, 1e150])
def test_margins_of_any_size_are_scaled(size):
    beta = beta_of_margins(pairs(1.0, 2.0, -0.5)).beta
    assert beta_of_margins(size * pairs(1.0, 2.0, -0.5)).beta == pytest.approx(
        beta / size, rel=1e-9
    )


@pytest.mark.parametrize(
    ("margins", "given", "said"),
    [
        (pairs(), {}, "B >= 1"),
        (pairs(1.0, math.nan), {}, "finite"),
        (pairs(1.0, 2.0), {"weights": pairs(1.0)}, "one shape"),
        (pairs(1.0, 2.0), {"weights": pairs(1.0, -1.0)}, ">= 0"),
        (pairs(1.0, 2.0), {"prompts": torch.zeros(3)}, "prompts must have shape"),
    ],
)
def test_what_makes_no_sense_is_refused(margins, given, said):
    with pytest.raises(ValueError, match=said):
        beta_of_margins(margins, **given)


def test_an_unsolved_iteration_shows_a_larger_beta():
    data, opponent = (TabularPolicy.random(1, 8, seed=seed) for seed in (0, 1))
    solved = minimise(opponent, data, beta=0.5).policy
    halfway = TabularPolicy.from_logits((solved.log_probs + opponent.log_probs) / 2)
    log_ratio = (halfway.log_probs - opponent.log_probs)[0]
    margins = (log_ratio[:, None] - log_ratio).flatten()
    weights = (data.probs[0][:, None] * opponent.probs[0]).flatten()
    assert beta_of_margins(margins, weights=weights).beta == pytest.approx(1.0, rel=1e-6)
