"""Ways are tried where the run will go: at its lengths, and where rounding hides no fault."""

import logging
from types import SimpleNamespace

import pytest
import torch
import transformers
from packaging import version
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    DogeConfig,
    LlamaConfig,
    ModernBertDecoderConfig,
    Phi3Config,
    PhimoeConfig,
    RobertaConfig,
    XmodConfig,
)

from spin_train.errors import UserError
from spin_train.model import logps as scoring
from spin_train.model.exactness import is_narrow, widened
from spin_train.model.frequencies import longest_with_fixed_frequencies
from spin_train.model.logps import Group, expect_rows_up_to, response_logps
from spin_train.model.trials import context_of, length_for_rows, length_to_try
from tests.train.models import coarse_llama, tiny_model

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 1,
    "eos_token_id": 5,
    "pad_token_id": 3,
}
SOME = {**SIZES, "num_key_value_heads": 2, "initializer_range": 0.3}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 128,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
BY_LENGTH = {
    "longrope": lambda: Phi3Config(
        **SOME,
        max_position_embeddings=1024,
        original_max_position_embeddings=128,
        rope_parameters=LONGROPE,
    ),
    "dynamic": lambda: LlamaConfig(**SOME, max_position_embeddings=128, rope_parameters=DYNAMIC),
}
WINDOWS = {
    "phimoe": lambda: PhimoeConfig(
        **SOME,
        max_position_embeddings=512,
        sliding_window=100,
        num_local_experts=4,
        num_experts_per_tok=2,
    ),
    "doge": lambda: DogeConfig(**SOME, max_position_embeddings=512, sliding_window=100),
}
EXACT = 1e-3  # nats of a response in float32; a lost window is 1 to 22 off, a frequency 0.1


def model_of(config, dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def ids(count, seed=0):
    return torch.randint(300, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("kind", WINDOWS)
def test_a_window_that_lives_in_the_mask_alone_is_kept(kind):
    if kind == "doge" and version.parse(transformers.__version__) < version.parse("5.18"):
        pytest.skip("before transformers 5.18 Doge sees later tokens, and is refused")
    model = model_of(WINDOWS[kind]())
    groups = [Group(ids(150), [ids(40), ids(30)])]
    with torch.no_grad():
        response_logps(model, [Group(ids(20), [ids(5)])])  # short rows first: they show nothing
        difference = response_logps(model, groups) - scoring._one_by_one(model, groups)
    assert difference.abs().max() < EXACT


@pytest.mark.parametrize("kind", BY_LENGTH)
def test_frequencies_follow_the_row_and_not_its_neighbours(kind):
    model = model_of(BY_LENGTH[kind]())
    short, long, longer = (Group(ids(n), [ids(30, n)]) for n in (20, 150, 200))
    with torch.no_grad():
        alone = torch.cat([response_logps(model_of(model.config), [g]) for g in (short, long)])
        together = response_logps(model, [short, longer, long])[[0, 2]]
        afterwards = torch.cat([response_logps(model, [group]) for group in (short, long)])
        # The plain model, which has never seen another row.
        row = torch.tensor([long.prompt_ids + long.responses[0]])
        plain = model_of(model.config)(row[:, :-1]).logits[0].log_softmax(-1)
    plain = plain.gather(-1, row[0, 1:, None])[-30:].sum()
    assert (together - alone).abs().max() < EXACT
    assert (afterwards - alone).abs().max() < EXACT
    assert abs(plain - alone[1]) < EXACT


@pytest.mark.parametrize("kind", BY_LENGTH)
def test_rows_below_the_limit_share_their_prompts(kind, caplog):
    with caplog.at_level(logging.WARNING, "spin_train"), torch.no_grad():
        response_logps(model_of(BY_LENGTH[kind]()), [Group(ids(20), [ids(10), ids(9)])])
    assert caplog.messages == []


@pytest.mark.parametrize(("kind", "limit"), [("longrope", 128), ("dynamic", 128)])
def test_the_length_is_known_up_to_which_frequencies_are_fixed(kind, limit):
    assert longest_with_fixed_frequencies(BY_LENGTH[kind]()) == limit
    assert longest_with_fixed_frequencies(tiny_model("llama").config) is None


def test_in_bfloat16_another_head_than_the_models_shows():
    # Its head is dense, norm and decoder; the decoder alone is 0.2 nats per token off.
    config = ModernBertDecoderConfig(**SIZES, max_position_embeddings=256, initializer_range=0.1)
    model = model_of(config, torch.bfloat16)
    groups = [Group(ids(n), [ids(40, n)]) for n in (20, 40, 60)]
    with torch.no_grad():
        difference = response_logps(model, groups) - scoring._one_by_one(model, groups)
    assert (difference / 40).abs().max() < 0.05


@pytest.mark.parametrize("seed", [0, 3])
def test_coarse_rounding_does_not_choose_the_way(seed, caplog):
    model = coarse_llama(seed)
    with torch.no_grad(), caplog.at_level(logging.WARNING, "spin_train"):
        assert response_logps(model, [Group([1, 2, 3], [[4, 5]])]).isfinite().all()
    assert caplog.messages == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_encoder_is_called_one(dtype):
    config = BertConfig(**SIZES, max_position_embeddings=256, initializer_range=0.3)
    with torch.no_grad(), pytest.raises(UserError, match=r"BertLMHeadModel sees the tokens that f"):
        response_logps(model_of(config, dtype), [Group(ids(20), [ids(10)])])


def test_a_row_that_the_model_cannot_compute_is_named_by_its_length():
    config = RobertaConfig(**SIZES, max_position_embeddings=180, is_decoder=True)
    with torch.no_grad(), pytest.raises(UserError, match=r"a row of 180 tokens \(\w+Error: "):
        response_logps(model_of(config), [Group(ids(100), [ids(10)])])


def test_weights_that_are_not_finite_are_called_broken():
    model = tiny_model("llama", torch.float32)
    model.lm_head.weight.data[3] = torch.nan
    with torch.no_grad(), pytest.raises(UserError, match="not finite: its weights are broken"):
        response_logps(model, [Group([1, 2], [[1, 2]])])


@pytest.mark.parametrize("name", ["max_seq_len", "n_ctx", "seq_length", "context_length"])
def test_the_context_is_known_under_its_other_names(name):
    assert context_of(SimpleNamespace(**{name: 64})) == 64
    assert context_of(SimpleNamespace(**{name: None})) is None


def test_rows_that_were_announced_are_tried_once(monkeypatch):
    model, tried = tiny_model("llama", torch.float32), []
    monkeypatch.setattr(
        scoring, "_exact_way", lambda *given: tried.append(given[2]) or scoring._Way(False, False)
    )
    model.config.max_position_embeddings = 1000
    expect_rows_up_to(model, 200)
    for count in (3, 40, 198):
        response_logps(model, [Group([1] * count, [[1, 2]])])
    assert tried == [200]
    response_logps(model, [Group([1] * 199, [[1, 2]])])
    assert tried == [200, 360]  # nobody announced it, so longer ones may follow


def test_a_trial_is_as_long_as_the_announced_rows_and_the_context_allow():
    model = tiny_model("llama", torch.float32)
    for context, announced, expected in ((64, 50, 64), (64, 80, 64), (500, 50, 90), (500, 91, 91)):
        model.config.max_position_embeddings = context
        expect_rows_up_to(model, announced)
        assert length_for_rows(model, 30) == expected


def test_lengths_to_try_are_few_cover_the_rows_and_stay_within_the_context():
    settings = WINDOWS["doge"]()
    lengths = [length_to_try(settings, longest) for longest in range(1, 600)]
    assert all(length >= longest for longest, length in enumerate(lengths, 1))
    assert sorted({length for length in lengths if length <= 512}) == [90, 180, 360, 512]
    assert lengths[599 - 1] == 599  # beyond the context nothing is left out of the trial


def test_weights_are_wide_within_the_block_and_the_same_tensors_after_it():
    model = tiny_model("gemma2", torch.bfloat16)
    before = [(p, p.data_ptr(), p.dtype) for p in model.parameters()]
    assert is_narrow(model)
    with torch.inference_mode(), widened(model) as wide:
        assert wide == torch.float32
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert model(torch.tensor([[1, 2, 3]])).logits.dtype == torch.float32
    assert [(p, p.data_ptr(), p.dtype) for p in model.parameters()] == before


def test_a_model_that_cannot_compute_a_row_is_refused_with_its_own_reason():
    """X-MOD asks for a language first; looking for why no way is exact must not hide that."""
    model = AutoModelForCausalLM.from_config(XmodConfig(**SIZES, is_decoder=True)).eval()
    with pytest.raises(UserError, match=r"cannot compute a row of .*Input language unknown"):
        response_logps(model, [Group([6, 7], [[8, 9]])])
