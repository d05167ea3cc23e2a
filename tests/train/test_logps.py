import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from spin_train.logps import Group, response_logps
from tests.train.models import ARCHITECTURES, VOCABULARY, tiny_model, uniform_model

# Rotary angles and RMS norms are computed in float32 whatever the model's dtype, so batches of
# other shapes may round otherwise; the tables of GPT-2 are float64 throughout.
TOLERANCE = {name: 1e-10 if name == "gpt2" else 1e-5 for name in ARCHITECTURES}

TOKENS = st.integers(0, VOCABULARY - 1)
SEQUENCES = st.lists(TOKENS, min_size=1, max_size=7)
GROUPS = st.lists(
    st.builds(Group, SEQUENCES, st.lists(SEQUENCES, min_size=1, max_size=3)), min_size=1, max_size=4
)
UNEVEN = [Group([1, 2, 3], [[4, 2], [5, 6, 7, 8, 9, 2]]), Group([3] * 7, [[1]])]


def slow_logps(model, groups):
    """One unpadded forward a response, one token after the other."""
    logps = []
    for group in groups:
        for response in group.responses:
            ids = torch.tensor([group.prompt_ids + response])
            log_probs = model(input_ids=ids).logits[0].log_softmax(-1)  # (T, V)
            logp = torch.zeros((), dtype=torch.float64)
            for place, token in enumerate(response, start=len(group.prompt_ids)):
                logp = logp + log_probs[place - 1, token]
            logps.append(logp)
    return torch.stack(logps)


def gradient(model, logps):
    """Of a sum with unequal weights, so that two responses cannot change places unseen."""
    model.zero_grad()
    (logps * torch.arange(1, len(logps) + 1)).sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.fixture(scope="module")
def models():
    return {name: tiny_model(name) for name in ARCHITECTURES}


@example(groups=UNEVEN).via("padding beyond a sliding window of eager attention gave nan")
@given(groups=GROUPS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_one_unpadded_forward_a_response_in_value_and_gradient(models, architecture, groups):
    model, tolerance = models[architecture], TOLERANCE[architecture]
    fast, slow = response_logps(model, groups), slow_logps(model, groups)
    torch.testing.assert_close(fast, slow, atol=tolerance, rtol=tolerance)
    fast, slow = gradient(model, fast), gradient(model, slow)
    # Relative to the whole gradient: entries that cancel to zero have no relative accuracy.
    assert (fast - slow).norm() <= tolerance * (1 + slow.norm())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_long_neighbour_changes_nothing(models, architecture):
    short, long = Group([1, 2], [[3, 4]]), Group([5] * 7, [[6] * 20])
    alone = response_logps(models[architecture], [short])
    beside = response_logps(models[architecture], [short, long])[:1]
    torch.testing.assert_close(beside, alone, atol=TOLERANCE[architecture], rtol=0)


@pytest.mark.parametrize("token", [0, 2], ids=["padding id", "end of text"])
def test_a_special_token_inside_a_response_is_scored_like_any_other(models, token):
    groups = [Group([1, token], [[3, token, 4, token, token], [5] * 7])]
    model = models["gpt2"]
    torch.testing.assert_close(
        response_logps(model, groups), slow_logps(model, groups), atol=1e-10, rtol=0
    )


@pytest.mark.parametrize("length", [1, 5, 10])
def test_a_uniform_model_gives_minus_log_vocabulary_for_every_token(length):
    # n tokens of probability 1/31 each: -n log 31, a sum that grows with the length.
    (logp,) = response_logps(uniform_model(), [Group([1], [[3] * length])]).tolist()
    assert logp == pytest.approx(-length * math.log(VOCABULARY), rel=1e-12)


def test_probabilities_of_all_one_token_responses_sum_to_one(models):
    responses = [[token] for token in range(VOCABULARY)]
    logps = response_logps(models["gpt2"], [Group([7, 3], responses)])
    assert logps.exp().sum().item() == pytest.approx(1.0, abs=1e-12)


def test_probabilities_of_all_responses_up_to_a_length_sum_to_one_with_the_unfinished(models):
    # Ended by token 2 after one or two tokens, or not ended after two: these exclude each other.
    others = [token for token in range(VOCABULARY) if token != 2]
    ended = [[2]] + [[token, 2] for token in others]
    unfinished = [[first, second] for first in others for second in others]
    logps = response_logps(models["gpt2"], [Group([7, 3], ended + unfinished)])
    total, of_ended = logps.exp().sum().item(), logps[: len(ended)].exp().sum().item()
    assert total == pytest.approx(1.0, abs=1e-12)
    assert of_ended < 1


def test_the_order_is_group_by_group(models):
    groups = [Group([1], [[3], [4, 5]]), Group([2], [[6, 7, 8]])]
    apart = [
        response_logps(models["gpt2"], [Group(group.prompt_ids, [response])])
        for group in groups
        for response in group.responses
    ]
    together = response_logps(models["gpt2"], groups)
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_sums_are_float32_at_least(dtype, expected):
    assert response_logps(tiny_model("llama", dtype), UNEVEN).dtype == expected


def test_a_model_inside_an_engine_is_found():
    class Engine:
        def __init__(self, module):
            self.module = module

        def __call__(self, **inputs):
            return self.module(**inputs)

    model = tiny_model("gpt2")
    assert torch.equal(response_logps(Engine(model), UNEVEN), response_logps(model, UNEVEN))


@pytest.mark.parametrize(
    "groups", [[], [Group([1], [])], [Group([], [[1]])], [Group([1], [[2], []])]]
)
def test_a_group_without_tokens_to_score_is_refused(models, groups):
    with pytest.raises(ValueError, match="at least one token"):
        response_logps(models["gpt2"], groups)
