"""Gradients on tables of networks: over the space, and over all responses."""

import pytest
import torch
from torch.nn.functional import logsigmoid

from spin_theory.policies import TabularPolicy
from spin_train.lab.gradients import (
    cosine,
    first_spin_gradient,
    gradient,
    sft_gradient,
    spin_gradient,
)
from spin_train.lab.tabulate import tabulate
from spin_train.lab.world import Space
from tests.train.models import VOCABULARY, float64_throughout, tiny_model

EXACT = 1e-10
"""Of a gradient's norm; sums of some thousand terms in float64."""
SPACE = Space(prompts=2, responses=6)
DATA = TabularPolicy.random(2, 6, seed=1, smallest=0.1)


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


def every_text():
    """Responses that no text is without, some of them two tokens past an exit; the space first."""
    inside = [tuple(ids) for ids in SPACE.response_ids]
    begun = {ids[:n] for ids in inside for n in range(len(ids))}
    left = {(*ids, token) for ids in begun for token in range(VOCABULARY)} - begun - {*inside}
    further = {(*ids, token) for ids in left if len(ids) == 1 for token in range(VOCABULARY)}
    return [*inside, *(ids for ids in left if len(ids) > 1), *further]


def apart(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_the_first_gradient_is_that_over_all_texts(model, beta):
    """Slow path: the pairs of (4.7) with every text, written out, the exits' among them."""
    texts = every_text()

    def slow():
        table = tabulate(model, SPACE.prompt_ids, [texts] * 2)
        policy = torch.stack(table.log_probs)  # (X, all texts)
        opponent = policy.detach()
        log_ratios = beta * (policy - opponent)
        real = log_ratios[:, : SPACE.responses, None]
        weights = DATA.probs[:, :, None] * opponent.exp()[:, None, :]
        losses = -logsigmoid(real - log_ratios[:, None, :])
        assert table.outside.max() < EXACT
        parts = torch.autograd.grad((weights * losses).sum() / 2, list(model.parameters()))
        return torch.cat([part.flatten() for part in parts])

    with float64_throughout():
        fast = first_spin_gradient(model, SPACE, DATA, beta=beta)
        assert apart(fast, slow()) < EXACT


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_the_first_gradient_is_beta_halves_of_sfts(model, beta):
    with float64_throughout():
        sft = sft_gradient(model, SPACE, DATA)
        assert apart(first_spin_gradient(model, SPACE, DATA, beta=beta), beta / 2 * sft) < EXACT


def test_without_what_is_outside_of_the_space_it_is_not(model):
    with float64_throughout():
        opponent = SPACE.table(model).policy
        inside = spin_gradient(model, SPACE, opponent, DATA, beta=2.0)
        sft = sft_gradient(model, SPACE, DATA)
    assert apart(inside, sft) > 0.1
    assert cosine(inside, sft) < 0.99


def test_the_mean_score_of_responses_and_exits_is_zero(model):
    """The probabilities sum to one, whatever the weights are."""
    with float64_throughout():
        score = gradient(
            model,
            SPACE,
            lambda table: (table.outcomes.probs.detach() * table.outcomes.log_probs).sum(),
        )
        one_response = gradient(model, SPACE, lambda table: table.log_probs[0][0])
    assert score.norm() < EXACT * one_response.norm()
