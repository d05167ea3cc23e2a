"""Summed log-probs of responses: the one function behind scoring and training.

Prompts are shared (`spin_train.packing`) and logits never exist as a whole (`spin_train.head`)
wherever that is exact: the first call with a model compares it with the plain forward pass.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from spin_train.attention import ATTENTION
from spin_train.head import chunked_token_logps, replaced_forward
from spin_train.packing import Group, PackedRow

__all__ = ["EXACT_TOLERANCE", "Group", "response_logps"]

# Nats a token between two ways of computing one log-prob, by type of the weights. Seen on models of
# eleven tiny architectures: float64 2e-7 (norms are float32), float32 4e-6, bfloat16 0.02, which
# grows with depth; a wrong position or mask is 0.1 to 8 off in any type.
EXACT_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}
_COARSE_TOLERANCE = 0.25
# Nats: what a response may notice of another one, in any type. Seen: 0, and 3e-3 through a state.
_BLIND_TOLERANCE = 1e-6

_log = logging.getLogger(__name__)
_Way = Callable[[Any, Sequence[Group]], Tensor]
_chosen: "WeakKeyDictionary[nn.Module, _Way]" = WeakKeyDictionary()
_own_attention: "WeakKeyDictionary[nn.Module, str]" = WeakKeyDictionary()


def response_logps(model: Any, groups: Sequence[Group]) -> Tensor:
    r"""Log-probs of every response of every group, summed over its tokens.

    Parameters
    ----------
    model : callable
        Causal language model of transformers, or the engine wrapped around it.
    groups : sequence of Group
        Prompts with their responses.

    Returns
    -------
    Tensor, shape (R,)
        :math:`\sum_i \log p(y_i | x, y_{<i})` in nats for the R responses, group by group; float32,
        or float64 for a float64 model. Differentiable in the model's parameters.

    Raises
    ------
    ValueError
        If there is no response, or a prompt or response has no token.

    Notes
    -----
    All groups go through the model at once, in one row without padding that holds each prompt once.
    At the first call with a model this is compared with the plain forward pass on random groups;
    where it is not exact, a warning says so and rows of prompt and one response take its place.

    The end-of-text token counts where the response has one. Masks follow lengths, never a pad id,
    so a model whose pad token is its end of text is scored right.
    """
    responses = [response for group in groups for response in group.responses]
    if not responses or not all(group.prompt_ids for group in groups) or not all(responses):
        raise ValueError("every prompt and every response needs at least one token")
    module = _unwrapped(model)
    if module not in _chosen:
        _chosen[module] = _exact_way(model, module)
    return _chosen[module](model, groups)


def _packed(model: Any, groups: Sequence[Group], *, chunked: bool = True) -> Tensor:
    """Prompts shared, all groups in one row."""
    module = _unwrapped(model)
    row = PackedRow(groups, _device(module))
    inputs = {"input_ids": row.input_ids, "position_ids": row.position_ids, "row": row}
    with _attention(module, packed=True):
        token_logps = _token_logps(model, inputs, row.predictors, row.targets, chunked=chunked)
    return _summed(token_logps, row.owners, sum(len(group.responses) for group in groups))


def _padded(model: Any, groups: Sequence[Group], *, chunked: bool = True) -> Tensor:
    """Give each response a padded row of its own, under the model's own attention."""
    pairs = [(group.prompt_ids, response) for group in groups for response in group.responses]
    module = _unwrapped(model)
    device = _device(module)
    rows = [prompt + response[:-1] for prompt, response in pairs]
    longest = max(map(len, rows))
    input_ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    # Padding stands on the right, where a causal model's real tokens never look. Hidden by a mask
    # it would see nothing past a sliding window, and give nan where attention is eager.
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    predictors = [
        number * longest + place
        for number, (prompt, response) in enumerate(pairs)
        for place in range(len(prompt) - 1, len(prompt) - 1 + len(response))
    ]
    targets = [token for _, response in pairs for token in response]
    owners = [number for number, (_, response) in enumerate(pairs) for _ in response]
    places, tokens, numbers = (
        torch.tensor(values, device=device) for values in (predictors, targets, owners)
    )
    with _attention(module, packed=False):
        token_logps = _token_logps(model, inputs, places, tokens, chunked=chunked)
    return _summed(token_logps, numbers, len(pairs))


def _token_logps(
    model: Any, inputs: dict[str, Any], predictors: Tensor, targets: Tensor, *, chunked: bool
) -> Tensor:
    """Log-probs (T,) of target tokens, predicted at places of the flattened batch."""
    module = _unwrapped(model)
    if not chunked:
        logits: Tensor = model(**inputs, use_cache=False).logits.flatten(0, 1)
        logits = logits.index_select(0, predictors)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)

    def forward(**inputs: Any) -> Tensor:
        hidden = module.base_model(**inputs).last_hidden_state.flatten(0, 1)
        return chunked_token_logps(module, hidden.index_select(0, predictors), targets)

    # In the model's own place, so that an engine around it gathers, releases and hooks as ever.
    with replaced_forward(module, forward):
        logps: Tensor = model(**inputs, use_cache=False)
    return logps


def _summed(token_logps: Tensor, owners: Tensor, responses: int) -> Tensor:
    # Added up in float64: 128 terms of 10 nats, one after the other in float32, lost 4e-4 nats.
    zeros = token_logps.new_zeros(responses, dtype=torch.float64)
    return zeros.index_add(0, owners, token_logps.double()).to(token_logps.dtype)


def _one_by_one(model: Any, groups: Sequence[Group]) -> Tensor:
    """Do what all ways are judged by: a forward pass for each response, full logits."""
    pairs = [(group.prompt_ids, response) for group in groups for response in group.responses]
    alone = [Group(prompt, [response]) for prompt, response in pairs]
    return torch.cat([_padded(model, [group], chunked=False) for group in alone])


_WAYS: dict[str, _Way] = {
    "shared prompts, chunked head": _packed,
    "shared prompts, full logits": lambda model, groups: _packed(model, groups, chunked=False),
    "padded rows, chunked head": _padded,
    "padded rows, full logits": lambda model, groups: _padded(model, groups, chunked=False),
}


@torch.no_grad()
def _exact_way(model: Any, module: Any) -> _Way:
    """Pick the first way that is exact on the loaded model, and say why if it is not the first."""
    training = module.training
    module.eval()
    try:
        groups = _random_groups(module.config.get_text_config())
        lengths = [len(response) for group in groups for response in group.responses]
        expected = _one_by_one(model, groups)
        tolerance = EXACT_TOLERANCE.get(next(module.parameters()).dtype, _COARSE_TOLERANCE)
        for name, way in _WAYS.items():
            try:
                logps = way(model, groups)
                seen = (way(model, _neighbours_changed(groups)) - logps)[_LAST].abs().max().item()
                error = ((logps - expected).abs() / expected.new_tensor(lengths)).max().item()
                if error <= tolerance and seen <= _BLIND_TOLERANCE:
                    return way
                reason = f"off by {error:.2g} nats a token, {seen:.2g} by its neighbours"
            except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            _log.warning("%s: %s not used: %s", type(module).__name__, name, reason)
    finally:
        module.train(training)
    raise RuntimeError(f"{type(module).__name__}: no two forward passes agree on a log-prob")


def _random_groups(config: Any) -> list[Group]:
    """Make a long group and a short one, within the model's context."""
    context = getattr(config, "max_position_embeddings", None) or 128
    prompt, longer = min(60, context // 2), min(30, context // 3)
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        return torch.randint(config.vocab_size, (count,), generator=generator).tolist()

    short = Group(ids(min(5, prompt)), [ids(1), ids(min(4, longer))])
    return [Group(ids(prompt), [ids(longer), ids(longer // 2 + 1)]), short]


def _neighbours_changed(groups: Sequence[Group]) -> list[Group]:
    """Give the last response of each random group other neighbours of the same length."""
    return [
        Group(group.prompt_ids, [group.responses[0][::-1], group.responses[1]]) for group in groups
    ]


# Of the four responses of the random groups, the last of each.
_LAST = [1, 3]


@contextmanager
def _attention(module: Any, *, packed: bool) -> Iterator[None]:
    """Let the model attend within packed rows, or in its own way, within the block."""
    config = module.config
    if config._attn_implementation != ATTENTION:
        _own_attention[module] = config._attn_implementation
    config._attn_implementation = ATTENTION if packed else _own_attention[module]
    try:
        yield
    finally:
        # With activation checkpointing the backward pass goes through the layers once more.
        if not (packed and torch.is_grad_enabled() and module.is_activation_checkpointing):
            config._attn_implementation = _own_attention[module]


def _unwrapped(model: Any) -> Any:
    return model if isinstance(model, PreTrainedModel) else _unwrapped(model.module)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
