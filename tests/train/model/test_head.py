import weakref
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from spin_train.model import linear_head
from spin_train.model.head import chunked_loss, chunked_token_logps, replaced_forward

WIDTH, VOCABULARY = 5, 11


class LowRank(nn.Module):
    """A linear head with an adapter: as it is, and a trained part of rank 1."""

    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.weight = base.weight
        self.down = nn.Parameter(torch.randn(1, WIDTH, dtype=torch.float64))
        self.up = nn.Parameter(torch.randn(VOCABULARY, 1, dtype=torch.float64))

    def forward(self, hidden):
        return self.base(hidden) + hidden @ self.down.T @ self.up.T


def model_with(output, **config):
    """As much of a model as a head needs."""
    config = SimpleNamespace(**config)
    config.get_text_config = lambda: config
    return SimpleNamespace(config=config, get_output_embeddings=lambda: output)


def linear(*, bias=False, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(WIDTH, VOCABULARY, bias=bias, dtype=dtype)


def dense(output, hidden, targets, scale=1.0, cap=None):
    """All logits at once."""
    logits = output(hidden) * scale
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    return logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)


def value_and_gradients(function, output, hidden):
    hidden = hidden.detach().clone().requires_grad_()
    logps = function(hidden)
    weights = torch.arange(1, len(logps) + 1, dtype=logps.dtype).cos()
    trained = [hidden, *(p for p in output.parameters() if p.requires_grad)]
    return [logps, *torch.autograd.grad((logps * weights).sum(), trained)]


HEADS = {
    "linear": lambda: linear(),
    "bias": lambda: linear(bias=True),
    "frozen": lambda: linear().requires_grad_(False),
    "adapter": lambda: LowRank(linear()),
}
SETTINGS = {
    "plain": ({}, {}),
    "gemma": ({"final_logit_softcapping": 1.5}, {"cap": 1.5}),
    "cohere": ({"logit_scale": 0.25}, {"scale": 0.25}),
    "granite, capped": (
        {"logits_scaling": 2.0, "final_logit_softcapping": 3.0},
        {"scale": 0.5, "cap": 3.0},
    ),
}


def rows_at_once(patch, few, most, element_size=8):
    patch.setattr(linear_head, "_TOGETHER_BYTES", {"cpu": few * VOCABULARY * element_size})
    patch.setattr(linear_head, "_rooms", [])
    patch.setattr(linear_head, "_MOST_BYTES", most * VOCABULARY * element_size)
    patch.setattr(linear_head, "_CACHED_ROWS", 2)


def drawn(tokens, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, WIDTH, generator=generator, dtype=torch.float64) * 3
    return hidden.to(dtype), torch.randint(VOCABULARY, (tokens,), generator=generator)


@given(tokens=st.integers(1, 9), rows=st.integers(1, 10), seed=st.integers(0, 2**31))
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", HEADS)
def test_equals_all_logits_at_once_in_value_and_gradient(kind, settings, tokens, rows, seed):
    config, expected_settings = SETTINGS[settings]
    output = HEADS[kind]()
    hidden, targets = drawn(tokens, seed)
    model = model_with(output, **config)
    with pytest.MonkeyPatch.context() as patch:
        rows_at_once(patch, 1, rows)
        got = value_and_gradients(
            lambda hidden: chunked_token_logps(model, hidden, targets), output, hidden
        )
        with torch.no_grad():
            scored = chunked_token_logps(model, hidden, targets)
    wanted = value_and_gradients(
        lambda hidden: dense(output, hidden, targets, **expected_settings), output, hidden
    )
    for fast, slow in zip([scored, *got], [wanted[0], *wanted], strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-12, rtol=1e-10)


def loss_of(stops, calls, seen=None):
    """A curved loss of each example, its tokens and its number weighted unevenly."""

    def loss(logps, run):
        calls.append(run)
        if seen is not None:
            seen.append(logps.detach())
        total, start = 0.0, 0
        for number, length in list(enumerate(lengths(stops)))[run]:
            of_example = logps[start : start + length]
            weights = torch.arange(1, length + 1, dtype=logps.dtype).cos()
            total = total + (number + 1) * torch.exp(0.1 * (weights * of_example).sum())
            start += length
        assert start == len(logps)
        return total

    return loss


def lengths(stops):
    return [stop - start for start, stop in zip([0, *stops], stops, strict=False)]


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    rows=st.tuples(st.integers(1, 8), st.integers(1, 8)).map(sorted),
    factor=st.sampled_from([1.0, -0.3]),
    seed=st.integers(0, 2**31),
)
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", HEADS)
def test_a_loss_equals_that_on_all_logits_in_value_and_gradient(
    kind, settings, sizes, rows, factor, seed
):
    config, expected_settings = SETTINGS[settings]
    output = HEADS[kind]()
    stops = torch.tensor(sizes).cumsum(0).tolist()
    hidden, targets = drawn(stops[-1], seed)
    calls = []

    def of_chunks(hidden):
        with pytest.MonkeyPatch.context() as patch:
            rows_at_once(patch, *rows)
            seen = []
            loss = chunked_loss(
                model_with(output, **config), hidden, targets, stops, loss_of(stops, calls, seen)
            )
        expected = dense(output, hidden, targets, **expected_settings)
        torch.testing.assert_close(torch.cat(seen), expected.detach(), atol=1e-12, rtol=1e-10)
        return loss[None]

    def at_once(hidden):
        logps = dense(output, hidden, targets, **expected_settings)
        return loss_of(stops, [])(logps, slice(0, len(stops)))[None]

    got, wanted = (
        value_and_gradients(lambda hidden, of=of: factor * of(hidden), output, hidden)
        for of in (of_chunks, at_once)
    )
    for fast, slow in zip(got, wanted, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-10, rtol=1e-10)
    # Every example once, in order, alone only where two are more than fit.
    assert [run.start for run in calls] == [0, *(run.stop for run in calls[:-1])]
    assert calls[-1].stop == len(stops)
    if kind != "adapter":
        for run, following in pairwise(calls):
            assert sum(sizes[run]) + sizes[following.start] > rows[0]
            assert len(sizes[run]) == 1 or sum(sizes[run]) <= rows[0]


@pytest.mark.parametrize("kind", ["linear", "adapter"])
def test_without_a_gradient_there_is_the_loss_all_the_same(kind):
    output, stops = HEADS[kind](), [2, 5]
    hidden, targets = drawn(5, 0)
    expected = loss_of(stops, [])(dense(output, hidden, targets), slice(0, 2))
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            loss = chunked_loss(model_with(output), hidden, targets, stops, loss_of(stops, []))
        torch.testing.assert_close(loss, expected.detach(), atol=1e-12, rtol=1e-12)


def test_a_loss_is_backpropagated_through_once():
    output, (hidden, targets) = linear(), drawn(3, 0)
    loss = chunked_loss(model_with(output), hidden, targets, [3], loss_of([3], []))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward was already called"):
        loss.backward()


def test_scoring_while_a_gradient_is_awaited_or_taken_changes_nothing():
    output, (hidden, targets) = linear(), drawn(6, 0)
    model = model_with(output)
    (expected,) = torch.autograd.grad(dense(output, hidden, targets).sum(), output.weight)

    def score():
        with torch.inference_mode():
            chunked_token_logps(model, hidden + 1, targets)

    def loss(logps, run):
        score()
        return logps.sum()

    score()
    logps = chunked_token_logps(model, hidden, targets)
    score()
    (waiting,) = torch.autograd.grad(logps.sum(), output.weight)
    (told,) = torch.autograd.grad(chunked_loss(model, hidden, targets, [6], loss), output.weight)
    torch.testing.assert_close(waiting, expected)
    torch.testing.assert_close(told, expected)


def test_a_weight_changed_before_the_backward_pass_is_noticed():
    output, (hidden, targets) = linear(), drawn(6, 0)
    logps = chunked_token_logps(model_with(output), hidden, targets)
    with torch.no_grad():
        output.weight += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logps.sum().backward()


def test_there_is_no_second_derivative():
    output, (hidden, targets) = linear(), drawn(6, 0)
    hidden.requires_grad_()
    loss = chunked_loss(model_with(output), hidden, targets, [6], loss_of([6], []))
    factor = torch.ones((), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(factor * loss, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_second_backward_pass_gives_the_same():
    # The probabilities that the forward pass left are used once, and computed again after that.
    output, hidden = linear(), torch.randn(3, WIDTH, dtype=torch.float64, requires_grad=True)
    logps = chunked_token_logps(model_with(output), hidden, torch.tensor([1, 2, 3]))
    first, second = (
        torch.autograd.grad(logps.sum(), [hidden, output.weight], retain_graph=True)
        for _ in range(2)
    )
    torch.testing.assert_close(first, second)


class LivingLogits(TorchDispatchMode):
    """Notes the most logits alive at a time, all tensors with V columns together."""

    def __init__(self):
        super().__init__()
        self.most = 0
        self._tensors = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.shape[-1:] == (VOCABULARY,):
            self._tensors.append(weakref.ref(out))
            alive = [tensor for tensor in (ref() for ref in self._tensors) if tensor is not None]
            sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in alive}
            self.most = max(self.most, sum(sizes.values()) // 8)
        return out


@pytest.mark.parametrize("kind", ["linear", "frozen"])
@pytest.mark.parametrize("example", [30, 200], ids=["examples in a chunk", "one in many"])
@pytest.mark.parametrize("told", [True, False], ids=["loss", "log-probs"])
def test_no_more_than_a_chunk_of_logits_is_alive(kind, told, example, monkeypatch):
    rows, tokens = 30, 200
    rows_at_once(monkeypatch, rows, rows)
    output, hidden = HEADS[kind](), torch.randn(tokens, WIDTH, dtype=torch.float64)
    model, targets = model_with(output), torch.arange(tokens) % VOCABULARY
    stops = [min(stop, tokens) for stop in range(example, tokens + example, example)]
    hidden.requires_grad_()
    with LivingLogits() as living:
        if told:
            loss = chunked_loss(model, hidden, targets, stops, loss_of(stops, []))
        else:
            loss = chunked_token_logps(model, hidden, targets).sum()
        loss.backward()
    weight = WIDTH * VOCABULARY  # its transpose has V columns too
    assert rows * VOCABULARY <= living.most <= rows * VOCABULARY + weight


class Products(TorchDispatchMode):
    """Counts the products that make logits."""

    def __init__(self):
        super().__init__()
        self.rows = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if "mm" in str(function) and out.shape[-1:] == (VOCABULARY,):
            self.rows += len(out)
        return out


def test_examples_of_a_chunk_have_their_logits_computed_once(monkeypatch):
    rows_at_once(monkeypatch, 30, 30)
    output, (hidden, targets) = linear(), drawn(200, 0)
    stops = list(range(25, 201, 25))
    with Products() as products:
        loss = chunked_loss(model_with(output), hidden, targets, stops, loss_of(stops, []))
        loss.backward()
    assert products.rows == 200


def test_a_gradient_can_follow_on_scores_under_inference_mode(monkeypatch):
    monkeypatch.setattr(linear_head, "_rooms", [])
    output, (hidden, targets) = linear(), drawn(6, 0)
    with torch.inference_mode():
        chunked_token_logps(model_with(output), hidden, targets)
    assert not linear_head._rooms[0].is_inference()
    loss = chunked_loss(model_with(output), hidden, targets, [6], loss_of([6], []))
    loss.backward()
    assert output.weight.grad.isfinite().all()


def test_logits_go_where_the_last_ones_were_unless_they_are_too_many(monkeypatch):
    rows_at_once(monkeypatch, 30, 60)
    linear_head._rooms[:] = [torch.zeros(30 * VOCABULARY * 8, dtype=torch.uint8)]
    places = []
    for tokens in (30, 7, 60, 30):
        output, (hidden, targets) = linear(), drawn(tokens, 0)
        model = model_with(output)
        chunked_loss(model, hidden, targets, [tokens], loss_of([tokens], [])).backward()
        (room,) = linear_head._rooms
        assert room.nbytes == 30 * VOCABULARY * 8
        assert bool(room.any()) == (tokens <= 30)  # probabilities stand there, or elsewhere
        with torch.no_grad():
            chunked_token_logps(model, hidden, targets)
        assert linear_head._rooms[0] is room
        assert room.any()
        room.zero_()
        places.append(room.data_ptr())
    assert len(set(places)) == 1


def test_extreme_logits_lose_nothing():
    # Logits 0, 500, ... 5000: log p of the lowest is -5000 and its gradient finite.
    output = linear(dtype=torch.float32)
    with torch.no_grad():
        output.weight.zero_()
        output.weight[:, 0] = torch.arange(VOCABULARY) * 500.0
    hidden = torch.eye(1, WIDTH, requires_grad=True)
    (logp,) = chunked_token_logps(model_with(output), hidden, torch.tensor([0]))
    logp.backward()
    assert logp.item() == -5000.0
    assert hidden.grad.isfinite().all()


@pytest.mark.parametrize("told", [True, False], ids=["loss", "log-probs"])
@pytest.mark.parametrize("rows", [1, 30])
def test_bfloat16_gradients_are_as_good_as_those_of_all_logits_at_once(rows, told, monkeypatch):
    rows_at_once(monkeypatch, rows, rows, element_size=2)
    tokens = 300
    exact, narrow = linear(bias=True), linear(bias=True).bfloat16()
    hidden, targets = drawn(tokens, 0)
    weights = torch.arange(1, tokens + 1).cos()

    def of(logps, run=slice(0, tokens)):
        return (weights[run] * logps).sum()

    def fast(hidden):
        if told:
            stops = range(1, tokens + 1)
            return chunked_loss(model_with(narrow), hidden, targets, stops, of)[None]
        return of(chunked_token_logps(model_with(narrow), hidden, targets))[None]

    wanted = value_and_gradients(lambda h: of(dense(exact, h, targets))[None], exact, hidden)
    hidden = hidden.bfloat16()
    chunked = value_and_gradients(fast, narrow, hidden)
    at_once = value_and_gradients(
        lambda h: of(dense(narrow, h, targets).float())[None], narrow, hidden
    )
    assert chunked[0].dtype == torch.float32
    for got, plain, true in zip(chunked[1:], at_once[1:], wanted[1:], strict=True):
        error, of_plain = (got - true).norm(), (plain - true).norm()
        assert error <= 1.5 * of_plain + 1e-3 * true.norm()


def test_a_replaced_forward_is_put_back():
    output = linear()
    with replaced_forward(output, lambda hidden: "other"):
        assert output(None) == "other"
        with replaced_forward(output, lambda hidden: "inner"):
            assert output(None) == "inner"
        assert output(None) == "other"
    assert "forward" not in vars(output)
