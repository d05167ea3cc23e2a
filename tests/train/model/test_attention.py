import operator
from types import SimpleNamespace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch._dynamo.exc import BackendCompilerFailed
from torch.nn.attention.flex_attention import create_block_mask, create_mask
from torch.nn.attention.flex_attention import flex_attention as uncompiled
from transformers.integrations import flex_attention as flex_integration

from spin_train.model import attention, flex
from spin_train.model.attention import packed_attention
from tests.train.model.test_packing import LENGTHS, fast_mask, row_of, slow_mask

LAYER = SimpleNamespace(config=SimpleNamespace())


def slow_attention(query, key, value, mask, *, scaling, softcap):
    """Softmax attention under a mask, a query at a time."""
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    out = []
    for place, seen in enumerate(mask):
        scores = (query[:, :, place, None] * key).sum(-1) * scaling  # (1, H, N)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        out.append((weights[..., None] * value).sum(-2))
    return torch.stack(out, 1)  # (1, N, H, D)


def value_and_gradients(function, tensors):
    tensors = [x.detach().clone().requires_grad_() for x in tensors]
    out = function(*tensors)
    weights = torch.arange(out.numel(), dtype=out.dtype).view(out.shape).sin()
    return [out, *torch.autograd.grad((out * weights).sum(), tensors)]


@example(
    lengths=[(5, [4, 4]), (1, [3])],
    window=2,
    softcap=None,
    kernels=(3, 2, 0),
    heads=(2, 1),
    seed=0,
).via("a padded query behind the window of every key gave nan")
@given(
    lengths=LENGTHS,
    window=st.none() | st.integers(1, 6),
    softcap=st.none() | st.sampled_from([0.5, 3.0]),
    kernels=st.tuples(
        st.sampled_from([0, 3, 64]), st.sampled_from([1, 2, 256]), st.sampled_from([0, 1, 16])
    ),
    heads=st.sampled_from([(1, 1), (2, 2), (4, 2), (3, 1)]),
    seed=st.integers(0, 2**31),
)
def test_equals_attention_under_the_mask_in_value_and_gradient(
    lengths, window, softcap, kernels, heads, seed
):
    row = row_of(lengths)
    generator = torch.Generator().manual_seed(seed)
    shapes = [(1, count, row.input_ids.shape[1], 3) for count in (heads[0], heads[1], heads[1])]
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    settings = {"scaling": 0.7, "softcap": softcap}

    def fast(*tensors):
        return packed_attention(LAYER, *tensors, None, row=row, sliding_window=window, **settings)[
            0
        ]

    def slow(*tensors):
        return slow_attention(*tensors, slow_mask(row, window), **settings)

    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(("_SMALL", "_QUERY_BLOCK", "_KEPT_KEYS"), kernels, strict=True):
            patch.setattr(attention, name, value)
        got = value_and_gradients(fast, tensors)
    for fast_one, slow_one in zip(got, value_and_gradients(slow, tensors), strict=True):
        torch.testing.assert_close(fast_one, slow_one, atol=1e-12, rtol=1e-10)


@given(lengths=LENGTHS, window=st.none() | st.integers(1, 12), block=st.sampled_from([1, 2, 3, 8]))
def test_flex_attention_is_given_the_blocks_of_the_same_mask(lengths, window, block):
    row = row_of(lengths)
    size = row.input_ids.shape[1]
    mask = create_mask(row.sees(window), None, None, size, size, "cpu")
    assert torch.equal(mask[0, 0], fast_mask(row, window))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flex, "BLOCK", block)
        got = flex.block_mask(row, window)
    expected = create_block_mask(row.sees(window), None, None, size, size, "cpu", block)
    for name, value in vars(expected).items():
        same = torch.equal if isinstance(value, torch.Tensor) else operator.eq
        assert name == "mask_mod" or same(vars(got)[name], value), name


def test_no_kind_of_row_makes_flex_attention_the_one_that_is_not_compiled(monkeypatch):
    """On an H200 one process met more than torch's 8 kinds, and got N x N scores instead.

    On an H100 short rows got a kernel for decoding, which did not compile.
    """
    seen = []

    def forward(*arguments, kernel_options):
        assert kernel_options == {"FORCE_USE_FLEX_ATTENTION": True}
        seen.append(torch._dynamo.config.recompile_limit)
        seen.append(torch._dynamo.config.fail_on_recompile_limit_hit)
        return arguments[1], None

    monkeypatch.setattr(flex, "flex_attention_forward", forward)
    row, tensor = row_of([(5, [4])]), torch.zeros(1, 1, 8, 4)
    flex.flex_attention(None, tensor, tensor, tensor, row, None, 1.0, None)
    assert seen == [64, True]
    assert torch._dynamo.config.fail_on_recompile_limit_hit is False


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (20, None), (None, 0.5)])
def test_flex_attention_gives_the_same_values(window, softcap, monkeypatch):
    """Uncompiled and without its backward pass, which only a GPU has."""
    monkeypatch.setattr(
        flex_integration,
        "compile_friendly_flex_attention",
        lambda query, key, value, training, **settings: uncompiled(query, key, value, **settings),
    )
    row = row_of([(150, [60, 30]), (3, [200, 1])])
    shapes = [(1, heads, row.input_ids.shape[1], 8) for heads in (4, 2, 2)]
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    got = flex.flex_attention(SimpleNamespace(training=True), *tensors, row, window, 0.7, softcap)
    settings = {"scaling": 0.7, "softcap": softcap, "sliding_window": window}
    expected, _ = packed_attention(LAYER, *tensors, None, row=row, **settings)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.xfail(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT",
    raises=BackendCompilerFailed,
    reason="the C++ that torch writes for flex attention needs a vector unit",
)
@pytest.mark.process  # a compiler
def test_flex_attention_is_not_compiled_anew_for_every_row():
    """Its forward pass, compiled for CPUs: rows of all lengths, each with a mask of its own."""
    torch._dynamo.reset()
    stats = torch._dynamo.utils.counters["stats"]
    graphs = []
    for length in (30, 150, 400, 37, 300, 512, 333):
        row = row_of([(length, [60 + length, 30]), (90, [length, 9])])
        shapes = [(1, heads, row.input_ids.shape[1], 16) for heads in (4, 2, 2)]
        generator = torch.Generator().manual_seed(length)
        tensors = [torch.randn(shape, generator=generator) for shape in shapes]
        before = stats["unique_graphs"]
        with torch.no_grad():
            got = flex.flex_attention(
                SimpleNamespace(training=False), *tensors, row, None, 0.25, None
            )
            expected, _ = packed_attention(LAYER, *tensors, None, row=row, scaling=0.25)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        graphs.append(stats["unique_graphs"] - before)
    assert graphs[0] == 1
    assert sum(graphs) <= 3  # one length, any length, any number of blocks
    assert graphs[3:] == [0, 0, 0, 0]


def attend(layer=LAYER, **settings):
    row = row_of([(2, [2])])
    tensors = torch.ones(3, 1, 1, row.input_ids.shape[1], 2)
    return packed_attention(layer, *tensors, None, row=row, **settings)


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"s_aux": torch.ones(1)}, "s_aux"), ({"dropout": 0.1}, "dropout")],
)
def test_what_a_layer_asks_for_in_vain_is_refused_by_name(settings, named):
    with pytest.raises(NotImplementedError, match=named):
        attend(**settings)


def test_attention_in_chunks_is_refused():
    layer = SimpleNamespace(config=SimpleNamespace(attention_chunk_size=8192))
    with pytest.raises(NotImplementedError, match="chunks"):
        attend(layer)


def test_settings_without_effect_are_let_through():
    out, weights = attend(s_aux=None, is_causal=True)
    assert out.shape == (1, 3, 1, 2)
    assert weights is None
