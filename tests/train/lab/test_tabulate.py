"""The table of a model over an enumerated space: fast path, slow path, refusals."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spin_train.lab.tabulate import tabulate
from spin_train.model.logps import Group, response_logps
from tests.train.models import (
    ARCHITECTURES,
    VOCABULARY,
    constant_model,
    float64_throughout,
    slow_logps,
    tiny_model,
    uniform_model,
)

EXACT = 1e-12
"""Nats, in float64 throughout: a few dozen roundings of numbers near 100."""
SINGLE = 2e-4
"""Nats, of float32 models with weights this large; the cache sums in another order."""
END = 2

PROMPTS = [[3, 4], [5], [6, 7], [8, 9]]  # two lengths
BODIES = [list(body) for n in range(3) for body in itertools.product([3, 4, 5], repeat=n)]
SPACE = [[*body, END] for body in BODIES]  # 13 responses of 1 to 3 tokens


def slow(model, prompts, responses):
    return [
        torch.stack([response_logps(model, [Group(list(x), [list(y)])])[0] for y in answers])
        for x, answers in zip(prompts, responses, strict=True)
    ]


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "bloom"])
def test_a_table_is_what_each_row_alone_says(architecture):
    model = tiny_model(architecture)
    groups = [Group(x, SPACE) for x in PROMPTS[1:3]]  # of one token, and of two
    with torch.no_grad(), float64_throughout():
        table = tabulate(model, PROMPTS[1:3], [SPACE] * 2)
        found = torch.cat(table.log_probs)
        torch.testing.assert_close(found, slow_logps(model, groups), rtol=0, atol=EXACT)


def test_a_table_is_what_training_says_of_each_row_alone():
    model = tiny_model("llama")
    with torch.no_grad(), float64_throughout():
        table = tabulate(model, PROMPTS, [SPACE] * 4)
        for fast, alone in zip(table.log_probs, slow(model, PROMPTS, [SPACE] * 4), strict=True):
            torch.testing.assert_close(fast, alone, rtol=0, atol=EXACT)


def test_a_table_of_a_float32_model_is_float64_and_what_each_row_alone_says():
    model = tiny_model("llama", torch.float32)
    with torch.no_grad():
        table = tabulate(model, PROMPTS, [SPACE] * 4)
        for fast, alone in zip(table.log_probs, slow(model, PROMPTS, [SPACE] * 4), strict=True):
            assert fast.dtype == torch.float64
            torch.testing.assert_close(fast, alone.double(), rtol=0, atol=SINGLE)


@pytest.mark.parametrize("rows", [1, 20, 10_000])
def test_how_many_rows_go_at_once_changes_nothing(rows):
    model = tiny_model("llama")
    with torch.no_grad(), float64_throughout():
        whole = tabulate(model, PROMPTS, [SPACE] * 4)
        parts = tabulate(model, PROMPTS, [SPACE] * 4, rows=rows)
    for one, other in zip(whole.log_probs, parts.log_probs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=EXACT)


def test_gradients_are_those_of_each_row_alone():
    model = tiny_model("llama")
    weights = torch.linspace(-1, 1, len(SPACE), dtype=torch.float64)

    def gradient(rows):
        loss = sum((row * weights).sum() for row in rows)
        return torch.autograd.grad(loss, list(model.parameters()))

    with float64_throughout():
        fast = gradient(tabulate(model, PROMPTS, [SPACE] * 4).log_probs)
        for one, other in zip(fast, gradient(slow(model, PROMPTS, [SPACE] * 4)), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@given(
    bodies=st.lists(
        st.lists(st.integers(3, 6), max_size=4).map(tuple), min_size=1, max_size=8, unique=True
    )
)
def test_any_space_in_any_order_is_scored_in_that_order(bodies):
    """The next token has the same probabilities everywhere: a response's is their product."""
    probs = [0.1, 0.1, 0.2, 0.05, 0.15, 0.3, 0.1]
    model = constant_model(probs)
    space = [[*body, END] for body in bodies]
    with torch.no_grad():
        (row,) = tabulate(model, [[3]], [space]).log_probs
    expected = [sum(math.log(probs[token]) for token in ids) for ids in space]
    torch.testing.assert_close(row, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-5)


def test_what_is_outside_of_the_space_is_the_rest():
    """Of a uniform model: n responses of one token and the end have n / V^2."""
    space = [[token, END] for token in (3, 4, 5)]
    with torch.no_grad():
        table = tabulate(uniform_model(), [[3], [4]], [space, space])
    expected = torch.full((2,), 1 - 3 / VOCABULARY**2, dtype=torch.float64)
    torch.testing.assert_close(table.outside, expected, rtol=0, atol=EXACT)
    torch.testing.assert_close(table.policy.probs, torch.full((2, 3), 1 / 3).double())


@pytest.mark.parametrize("space", [SPACE, SPACE[:5], SPACE[7:], [[3, 4, 5, END]], [[END]]])
def test_responses_and_exits_are_all_that_can_come(space):
    with torch.no_grad(), float64_throughout():
        table = tabulate(tiny_model("llama"), PROMPTS, [space] * 4)
        logps = torch.stack(table.log_probs)
    torch.testing.assert_close(table.outside, 1 - logps.exp().sum(-1), rtol=0, atol=EXACT)
    torch.testing.assert_close(table.outcomes.log_probs[:, : len(space)], logps)


def test_an_exit_is_a_beginning_that_goes_on_otherwise():
    """Of a model with the same next token everywhere, and the responses e, 3e, 33e."""
    probs = [0.1, 0.1, 0.2, 0.05, 0.15, 0.3, 0.1]
    with torch.no_grad():
        (exits,) = tabulate(constant_model(probs), [[3]], [[[END], [3, END], [3, 3, END]]]).exits
    # After nothing and after 3: all but the end and 3. After 33: all but the end.
    expected = torch.tensor([0.75, 0.05 * 0.75, 0.05**2 * 0.8], dtype=torch.float64)
    torch.testing.assert_close(exits.exp(), expected, rtol=1e-6, atol=0)


def test_a_node_that_every_token_hangs_from_has_no_exit():
    tokens = range(VOCABULARY)
    space = [[END], *([3, t] for t in tokens), *([t, END] for t in tokens if t not in (END, 3))]
    model = tiny_model("llama")
    with float64_throughout():
        table = tabulate(model, [[3]], [space])
        outside = table.outside.sum()
        outside.backward()
    assert len(table.exits[0]) == VOCABULARY - 2  # not after nothing, and not after 3
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


def test_nothing_is_outside_of_a_space_with_every_beginning():
    """All tokens but the end go on, and after two of them all tokens are an end."""
    tokens = range(VOCABULARY)
    space = [[END], *([t, u] for t in tokens if t != END for u in tokens)]
    with torch.no_grad(), float64_throughout():
        table = tabulate(tiny_model("llama"), [[3]], [space])
    assert abs(float(table.outside)) < EXACT


def test_prompts_may_have_different_responses():
    model = tiny_model("llama")
    responses = [SPACE[:3], SPACE[4:9], SPACE[:1], SPACE]
    with torch.no_grad(), float64_throughout():
        table = tabulate(model, PROMPTS, responses)
        for fast, alone in zip(table.log_probs, slow(model, PROMPTS, responses), strict=True):
            torch.testing.assert_close(fast, alone, rtol=0, atol=EXACT)


@pytest.mark.parametrize(
    ("prompts", "responses", "message"),
    [
        ([[3]], [[[3, END], [3, END]]], "prompt 0: a response comes twice"),
        ([[3]], [[[3], [3, END]]], "is the beginning of another"),
        ([[3], [3]], [[[END]], []], "prompt 1: no response"),
        ([[3]], [[[]]], "one without a token"),
        ([[]], [[[END]]], "prompt 0 has no token"),
        ([[3]], [[[END]], [[END]]], "1 prompts, but responses to 2"),
    ],
)
def test_what_is_no_space_is_refused(prompts, responses, message):
    with pytest.raises(ValueError, match=message):
        tabulate(uniform_model(), prompts, responses)


def test_a_model_without_keys_and_values_is_refused():
    with pytest.raises(ValueError, match="keeps no keys and values"):
        tabulate(tiny_model("mamba"), [[3]], [SPACE])


def test_a_model_that_computes_something_else_with_its_cache_is_refused():
    model = tiny_model("llama")
    plain = model.forward

    def forgetful(*args, past_key_values=None, **kwargs):
        out = plain(*args, past_key_values=past_key_values, **kwargs)
        if past_key_values is not None:
            out.logits = out.logits.flip(-1)
        return out

    model.forward = forgetful
    with pytest.raises(ValueError, match="with its cache than without"):
        tabulate(model, [[3]], [SPACE])
