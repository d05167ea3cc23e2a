import math

import pytest
import torch

from spin_train.model.rounding import Rounding

ROUNDING = Rounding(0.1, 0.5, drift=5e-3)
TOKENS = torch.randint(20, 257, (16, 2), generator=torch.Generator().manual_seed(0))


def walks(seed, *, step, drift=0.0):
    """Sums of independent roundings of each token, nats."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(TOKENS.shape, generator=generator) * step * TOKENS.sqrt() + drift * TOKENS


def test_the_rounding_of_a_real_model_is_explained():
    assert all(ROUNDING.explains(walks(seed, step=0.07), TOKENS) for seed in range(2000))


def test_a_small_drift_at_every_token_is_not_although_each_response_might_be():
    differences = walks(0, step=0.07, drift=0.03)
    worst = differences.abs() / (0.1 + 0.5 * TOKENS.sqrt() + 5e-3 * TOKENS)
    assert worst.max() < 1
    assert not ROUNDING.explains(differences, TOKENS)
    assert not ROUNDING.explains(-differences, TOKENS)


def test_one_response_that_is_another_models_is_not():
    differences = walks(0, step=0.07)
    differences[5, 1] = 1.01 * ROUNDING.allowed(int(TOKENS[5, 1]))
    assert not ROUNDING.explains(differences, TOKENS)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_not(odd):
    differences = torch.zeros(TOKENS.shape)
    differences[0, 0] = odd
    assert not ROUNDING.explains(differences, TOKENS)
    assert not ROUNDING.explains(differences[:1], TOKENS[:1])


def test_a_few_responses_are_judged_one_by_one():
    tokens = torch.tensor([100, 64])
    differences = 0.99 * torch.tensor([ROUNDING.allowed(100), -ROUNDING.allowed(64)])
    assert ROUNDING.explains(differences, tokens)
    assert not ROUNDING.explains(1.02 * differences[:1], tokens[:1])
    assert not ROUNDING.explains(1.02 * differences[1:], tokens[1:])
    assert not ROUNDING.explains(differences.repeat(4), tokens.repeat(4))
    assert ROUNDING.explains(torch.zeros(0), torch.zeros(0))


def test_the_drift_of_a_real_model_is_explained_however_long_its_responses():
    for tokens in (torch.full((64,), 10**k) for k in range(6)):
        assert Rounding(1e-3, 3e-4, drift=1e-4).explains(1.8e-5 * tokens, tokens)
        assert not Rounding(1e-3, 3e-4, drift=1e-4).explains(1e-3 * tokens, tokens)


def test_it_is_said_in_nats():
    assert ROUNDING.allowed(100) == pytest.approx(0.1 + 5 + 0.5, abs=1e-12)
    assert str(ROUNDING) == "0.1 + 0.5 sqrt(n) + 0.005 n nats for n tokens"
