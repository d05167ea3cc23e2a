import weakref
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from spin_train import head
from spin_train.head import chunked_token_logps, replaced_forward

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


@given(tokens=st.integers(1, 9), rows=st.integers(1, 10), seed=st.integers(0, 2**31))
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", HEADS)
def test_equals_all_logits_at_once_in_value_and_gradient(kind, settings, tokens, rows, seed):
    config, expected_settings = SETTINGS[settings]
    output = HEADS[kind]()
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, WIDTH, generator=generator, dtype=torch.float64) * 3
    targets = torch.randint(VOCABULARY, (tokens,), generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "_CHUNK_ELEMENTS", {"cpu": rows * VOCABULARY})
        patch.setattr(head, "_CACHED_ROWS", 2)
        model = model_with(output, **config)
        got = value_and_gradients(
            lambda hidden: chunked_token_logps(model, hidden, targets), output, hidden
        )
    wanted = value_and_gradients(
        lambda hidden: dense(output, hidden, targets, **expected_settings), output, hidden
    )
    for fast, slow in zip(got, wanted, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-12, rtol=1e-10)


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
def test_no_more_than_a_chunk_of_logits_is_alive(kind, monkeypatch):
    rows, tokens = 30, 200
    monkeypatch.setattr(head, "_CHUNK_ELEMENTS", {"cpu": rows * VOCABULARY})
    monkeypatch.setattr(head, "_CACHED_ROWS", 2)
    output, hidden = HEADS[kind](), torch.randn(tokens, WIDTH, dtype=torch.float64)
    targets = torch.arange(tokens) % VOCABULARY
    with LivingLogits() as living:
        logps = chunked_token_logps(model_with(output), hidden.requires_grad_(), targets)
        logps.sum().backward()
    weight = WIDTH * VOCABULARY  # its transpose has V columns too
    assert rows * VOCABULARY <= living.most <= rows * VOCABULARY + weight


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


@pytest.mark.parametrize("rows", [1, 30])
def test_bfloat16_gradients_are_as_good_as_those_of_all_logits_at_once(rows, monkeypatch):
    monkeypatch.setattr(head, "_CHUNK_ELEMENTS", {"cpu": rows * VOCABULARY})
    exact = linear()
    hidden = torch.randn(30, WIDTH, dtype=torch.float64)
    targets = torch.arange(30) % VOCABULARY
    wanted = value_and_gradients(lambda h: dense(exact, h, targets), exact, hidden)
    narrow = linear().bfloat16()
    hidden = hidden.bfloat16()
    model = model_with(narrow)
    chunked = value_and_gradients(lambda h: chunked_token_logps(model, h, targets), narrow, hidden)
    at_once = value_and_gradients(lambda h: dense(narrow, h, targets).float(), narrow, hidden)
    assert chunked[0].dtype == torch.float32
    for got, plain, true in zip(chunked, at_once, wanted, strict=True):
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
