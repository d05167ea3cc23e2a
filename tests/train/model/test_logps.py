import copy
import logging
import math
from contextlib import nullcontext

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn import functional

from spin_theory import spin_loss
from spin_train.model import attention, linear_head, trials
from spin_train.model.logps import Group, response_logps, response_loss
from tests.strategies import at_most
from tests.train.models import (
    ARCHITECTURES,
    NOT_SHARING,
    VOCABULARY,
    float64_throughout,
    slow_logps,
    tiny_model,
    uniform_model,
)

EXACT = 1e-10
# Unpatched, norms and some attention go through float32 whatever the model's dtype.
THROUGH_FLOAT32 = 1e-6

TOKENS = st.integers(0, VOCABULARY - 1)
SEQUENCES = st.lists(TOKENS, min_size=1, max_size=9)
GROUPS = st.lists(
    st.builds(Group, SEQUENCES, st.lists(SEQUENCES, min_size=1, max_size=4)), min_size=1, max_size=4
)
UNEVEN = [Group([1, 2, 3], [[4, 2], [5, 6, 7, 8, 9, 2]]), Group([3] * 7, [[1]])]
LONG = Group([4] * 9, [[1] * 9, [2] * 30])
# Segments as one batch, some of them, none; queries in blocks or not; probabilities kept or not.
KERNELS = st.tuples(
    st.sampled_from([0, 6, 64]), st.sampled_from([2, 3, 256]), st.sampled_from([0, 16])
)


def weighted(logps, first=0):
    """A sum with unequal weights, so that two responses cannot change places unseen."""
    return (logps * torch.arange(first + 1, first + len(logps) + 1)).sum()


def gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.fixture(scope="module")
def models():
    return {name: tiny_model(name) for name in ARCHITECTURES}


def assert_same(model, groups, *, tolerance):
    """Values and parameter gradients of the fast paths are those of the slow one."""

    def loss_of_run(logps, run):
        return weighted(logps, sum(len(group.responses) for group in groups[: run.start]))

    slow = slow_logps(model, groups)
    waiting = response_logps(model, groups)
    total, at_once = response_loss(model, groups, loss_of_run)
    for fast in (waiting, at_once):
        torch.testing.assert_close(fast, slow, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(total, weighted(slow), atol=tolerance, rtol=tolerance)
    expected = gradient(model, weighted(slow))
    for loss in (weighted(waiting), total):
        # Relative to the whole gradient: entries that cancel to zero have no relative accuracy.
        error = (gradient(model, loss) - expected).norm()
        assert error <= tolerance * (1 + expected.norm())


@example(groups=UNEVEN, kernels=(64, 256, 16), rows=9).via("padding past a window gave nan")
@example(groups=[*UNEVEN, LONG], kernels=(20, 8, 16), rows=9).via("nan too")
@at_most(25)  # for each architecture
@given(groups=GROUPS, kernels=KERNELS, rows=st.sampled_from([1, 20, 10**6]))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_one_unpadded_forward_a_response_in_value_and_gradient(
    models, architecture, groups, kernels, rows
):
    with pytest.MonkeyPatch.context() as patch, float64_throughout():
        for name, value in zip(("_SMALL", "_QUERY_BLOCK", "_KEPT_KEYS"), kernels, strict=True):
            patch.setattr(attention, name, value)
        patch.setattr(linear_head, "_TOGETHER_BYTES", {"cpu": 8 * VOCABULARY * rows})
        assert_same(models[architecture], groups, tolerance=EXACT)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_models_as_they_are_agree_as_far_as_their_float32_norms_let_them(models, architecture):
    assert_same(models[architecture], UNEVEN, tolerance=THROUGH_FLOAT32)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_prompts_are_shared_and_logits_chunked(models, architecture, caplog):
    # A copy, for the check is made once a model; it would say so if it had chosen another way.
    model = copy.deepcopy(models[architecture])
    with caplog.at_level(logging.WARNING, "spin_train"):
        response_logps(model, UNEVEN)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("dtype", "nats_a_token"),
    # Weights rounded to bfloat16 either way; then 24 bits, or 8 at every product.
    [(torch.float32, 1e-5), (torch.bfloat16, 0.1)],
)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_narrow_types_agree_to_rounding(architecture, dtype, nats_a_token):
    model = tiny_model(architecture, torch.bfloat16)
    fast = response_logps(copy.deepcopy(model).to(dtype), UNEVEN)
    slow = slow_logps(model.double(), UNEVEN)
    lengths = torch.tensor([2, 6, 1])
    assert ((fast - slow).abs() <= nats_a_token * lengths).all()


@pytest.mark.parametrize("architecture", NOT_SHARING)
def test_a_model_that_cannot_share_prompts_says_so_and_is_scored_right(architecture, caplog):
    model = tiny_model(architecture)
    with caplog.at_level(logging.WARNING, "spin_train"):
        assert_same(model, UNEVEN, tolerance=THROUGH_FLOAT32)
    lines = [
        record.message for record in caplog.records if record.name == "spin_train.model.exactness"
    ]
    assert "shared prompts, chunked head not used: " in lines[0]
    assert not any("padded" in line for line in lines)


@pytest.mark.parametrize("room_for_a_wider_copy", [True, False])
def test_a_state_that_passes_from_response_to_response_is_noticed_in_bfloat16_too(
    room_for_a_wider_copy, caplog, monkeypatch
):
    # It moves log-probs by 0.03 nats per token, which a tolerance for any rounding would let pass.
    if not room_for_a_wider_copy:
        monkeypatch.setattr(trials, "widened", lambda _: nullcontext())
    with caplog.at_level(logging.WARNING, "spin_train"):
        response_logps(tiny_model("mamba", torch.bfloat16), UNEVEN)
    refused = "shared prompts, full logits not used: off by"
    assert any(refused in line for line in caplog.messages)


@pytest.mark.parametrize("architecture", ["llama", "bloom"])
def test_a_head_that_is_not_understood_falls_back_to_the_models_own(architecture, caplog):
    model = tiny_model(architecture)
    plain = model.forward

    def forward(*args, **kwargs):
        outputs = plain(*args, **kwargs)
        outputs.logits = outputs.logits * 0.5 + outputs.logits.roll(1, -1)
        return outputs

    model.forward = forward
    with caplog.at_level(logging.WARNING, "spin_train"):
        assert_same(model, UNEVEN, tolerance=THROUGH_FLOAT32)
    assert "nats per token" in caplog.messages[0]
    used = "padded rows" if architecture in NOT_SHARING else "shared prompts"
    assert f"{used}, full logits" not in " ".join(caplog.messages)


def test_the_check_leaves_the_model_as_it_was():
    model = tiny_model("mistral").train()
    before = model.config._attn_implementation
    response_logps(model, UNEVEN)
    assert model.training
    assert model.config._attn_implementation == before
    assert "forward" not in vars(model)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("small", [0, 64])
@pytest.mark.parametrize("reentrant", [True, False])
def test_under_gradient_checkpointing_the_gradient_is_the_same(reentrant, small, monkeypatch):
    monkeypatch.setattr(attention, "_SMALL", small)
    model = tiny_model("llama").train()
    expected = gradient(model, weighted(response_logps(model, UNEVEN)))
    old_name = model.gradient_checkpointing_enable  # the only one before transformers 5.23
    enable = getattr(model, "activation_checkpointing_enable", old_name)
    enable({"use_reentrant": reentrant})
    told, _ = response_loss(model, UNEVEN, lambda logps, run: weighted(logps))
    for loss in (told, weighted(response_logps(model, UNEVEN))):
        torch.testing.assert_close(gradient(model, loss), expected, atol=1e-12, rtol=1e-12)


def test_under_inference_mode_the_values_are_the_same(models):
    expected = response_logps(models["llama"], UNEVEN)
    with torch.inference_mode():
        got = response_logps(models["llama"], UNEVEN)
    # no gradient, so other kernels: sums of some hundred terms in float64
    torch.testing.assert_close(got, expected.detach(), atol=1e-12, rtol=1e-12)


def test_the_loss_and_its_gradient_are_those_of_dpo_written_out_on_padded_rows():
    # beta 0.1 on (real, generated): -log sigmoid(beta (log-ratio real - log-ratio generated)), the
    # log-ratios to another model, all rows padded with zeros under a mask, full float32 logits.
    model, other = tiny_model("llama", torch.float32), tiny_model("llama", torch.float32, seed=1)
    groups = [Group([1, 2, 3], [[4, 2], [5, 6, 7, 2]]), Group([3] * 7, [[1], [8, 9]])]

    def padded(model):
        rows = [(group.prompt_ids, ids) for group in groups for ids in group.responses]
        ids = torch.zeros(4, 12, dtype=torch.long)
        wanted = torch.zeros(4, 12, dtype=torch.bool)
        for number, (prompt, response) in enumerate(rows):
            stop = len(prompt) + len(response)
            ids[number, :stop] = torch.tensor(prompt + response)
            wanted[number, len(prompt) : stop] = True
        logits = model(input_ids=ids, attention_mask=(ids > 0).long()).logits[:, :-1]
        logps = functional.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])[..., 0]
        return (logps * wanted[:, 1:]).sum(-1)

    def loss(logps, opponent):
        return spin_loss(
            policy_real_logps=logps[0::2],
            policy_generated_logps=logps[1::2],
            opponent_real_logps=opponent[0::2],
            opponent_generated_logps=opponent[1::2],
            beta=0.1,
        ).mean()

    def dpo(logps, opponent):
        ratios = logps - opponent
        return -functional.logsigmoid(0.1 * (ratios[0::2] - ratios[1::2])).mean()

    with torch.no_grad():
        opponent = padded(other)
    results = []
    for value in (loss(response_logps(model, groups), opponent), dpo(padded(model), opponent)):
        model.zero_grad()
        value.backward()
        grads = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        results.append((value.detach(), grads))
    (value, grads), (expected, expected_grads) = results
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    assert (grads - expected_grads).norm() <= 1e-5 * expected_grads.norm()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_long_neighbour_changes_nothing(models, architecture):
    short, long = Group([1, 2], [[3, 4]]), Group([5] * 7, [[6] * 20])
    alone = response_logps(models[architecture], [short])
    beside = response_logps(models[architecture], [short, long])[:1]
    torch.testing.assert_close(beside, alone, atol=THROUGH_FLOAT32, rtol=0)


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


class Engine:
    def __init__(self, module):
        self.module = module

    def __call__(self, **inputs):
        self.outputs = self.module(**inputs)
        return self.outputs


def test_a_model_inside_an_engine_is_found():
    model = tiny_model("gpt2")
    assert torch.equal(response_logps(Engine(model), UNEVEN), response_logps(model, UNEVEN))


def test_the_loss_is_not_the_engines_output_itself():
    engine = Engine(tiny_model("gpt2"))
    loss, _ = response_loss(engine, UNEVEN, lambda logps, run: logps.sum())
    assert loss.requires_grad
    assert loss is not engine.outputs


@pytest.mark.parametrize(
    "groups", [[], [Group([1], [])], [Group([], [[1]])], [Group([1], [[2], []])]]
)
def test_a_group_without_tokens_to_score_is_refused(models, groups):
    with pytest.raises(ValueError, match="at least one token"):
        response_logps(models["gpt2"], groups)
    with pytest.raises(ValueError, match="at least one token"):
        response_loss(models["gpt2"], groups, lambda logps, run: logps.sum())


def test_a_long_sum_in_float32_keeps_its_digits(models):
    # 40 tokens of about 10 nats each; added up in float32 one by one, they lost a digit.
    model = copy.deepcopy(models["gpt2"]).float()
    groups = [Group([1, 2], [[3] * 40, [7, 9] * 20])]
    got = response_logps(model, groups)
    torch.testing.assert_close(got.double(), slow_logps(model.double(), groups), rtol=1e-6, atol=0)
