"""Summed log-probs of responses, for scoring, and losses on them, for training.

Prompts are shared (`model.packing`) and logits never exist as a whole (`model.head`) wherever that
is exact: the first call with a model compares it with the plain forward pass.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from spin_train.model.attention import ATTENTION
from spin_train.model.frequencies import frequencies_by_row
from spin_train.model.head import chunked_loss, chunked_token_logps, replaced_forward
from spin_train.model.packing import Group, PackedRow
from spin_train.model.remembered import exact_way
from spin_train.model.routers import RouterLoss
from spin_train.model.trials import Trial, announce_rows, length_for_rows

__all__ = ["Group", "expect_rows_up_to", "response_logps", "response_loss"]

Loss = Callable[[Tensor, slice], Tensor]
"""Maps the log-probs of a block of groups, and its slice, to the sum of losses, a scalar."""


@dataclass(frozen=True)
class _Way:
    """One way to compute log-probs."""

    packed: bool
    chunked: bool


# The way of each model for rows up to so many tokens, and the attention it came with.
_chosen: "WeakKeyDictionary[nn.Module, dict[int, _Way]]" = WeakKeyDictionary()
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
    At the first call with a model, and when rows are longer than any before, this is compared with
    the plain forward pass on random groups with rows as long; where it is not exact, a warning says
    so and rows of prompt and one response take its place.

    The end-of-text token counts where the response has one. Masks follow lengths, never a pad id,
    so a model whose pad token is its end of text is scored right.
    """
    return _response_logps(model, groups, _way(model, groups))


def response_loss(
    model: Any, groups: Sequence[Group], loss: Loss, *, routers: RouterLoss | None = None
) -> tuple[Tensor, Tensor]:
    """Loss of groups on the log-probs of their responses, the head's gradient taken on the way.

    Parameters
    ----------
    model : callable
        Causal language model of transformers, or the engine wrapped around it.
    groups : sequence of Group
        Prompts with their responses.
    loss : callable
        Of the log-probs (R',) of a block of groups, as of `response_logps`, and of the slice of
        `groups` that it is; gives the sum of their losses, a scalar, differentiable in the
        log-probs and in nothing else. It is called for every block, in order.
    routers : RouterLoss, optional
        Takes the router logits of this pass, for the caller to add its loss.

    Returns
    -------
    loss : Tensor, shape ()
        The sum over all groups. Its backward pass, once, gives the gradient of
        ``loss(response_logps(model, groups), slice(0, len(groups)))``.
    logps : Tensor, shape (R,)
        As of `response_logps`, detached.

    Raises
    ------
    ValueError
        If there is no response, or a prompt or response has no token.
    """
    way = _way(model, groups)
    if not way.chunked:
        logps = _response_logps(model, groups, way, routers)
        return loss(logps, slice(0, len(groups))), logps.detach()
    module = _unwrapped(model)
    batch = _batch(module, groups, way)
    tokens = [0, *accumulate(sum(map(len, group.responses)) for group in groups)]
    firsts = [0, *accumulate(len(group.responses) for group in groups)]
    seen: list[Tensor] = []

    def loss_of_tokens(token_logps: Tensor, block: slice) -> Tensor:
        first, stop = firsts[block.start], firsts[block.stop]
        owners = batch.owners[tokens[block.start] : tokens[block.stop]] - first
        logps = _summed(token_logps, owners, stop - first)
        seen.append(logps.detach())
        return loss(logps, block)

    def head(hidden: Tensor) -> Tensor:
        return chunked_loss(module, hidden, batch.targets, tokens[1:], loss_of_tokens)

    # A clone, not the engine's output: where output and loss are one tensor, DeepSpeed assumes that
    # accumulation steps have yet to divide its gradient.
    total = _forward(model, batch, way, head, routers).clone()
    return total, torch.cat(seen)


def expect_rows_up_to(model: Any, tokens: int) -> None:
    """Announce the longest row to come, so that ways are tried once and on all ranks alike.

    Parameters
    ----------
    model : callable
        As of `response_logps`.
    tokens : int
        Bound on the length of a prompt with its response; the model's context bounds it too.
    """
    announce_rows(_unwrapped(model), tokens)


def _way(model: Any, groups: Sequence[Group]) -> _Way:
    """Take the model's way for rows of this length, once there is something to score."""
    responses = [response for group in groups for response in group.responses]
    if not responses or not all(group.prompt_ids for group in groups) or not all(responses):
        raise ValueError("every prompt and every response needs at least one token")
    module = _unwrapped(model)
    if _device(module).type == "meta":  # without numbers there is nothing to compare
        return _Way(packed=True, chunked=True)
    longest = max(len(group.prompt_ids) + max(map(len, group.responses)) for group in groups)
    length = length_for_rows(module, longest)
    ways = _chosen.setdefault(module, {})
    if length not in ways:
        ways[length] = _exact_way(model, module, length)
    return ways[length]


def _response_logps(
    model: Any, groups: Sequence[Group], way: _Way, routers: RouterLoss | None = None
) -> Tensor:
    token_logps, owners = _token_logps(model, groups, way, routers)
    return _summed(token_logps, owners, sum(len(group.responses) for group in groups))


def _token_logps(
    model: Any, groups: Sequence[Group], way: _Way, routers: RouterLoss | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probs (T,) of the tokens of all responses, and the number (T,) of each one's response."""
    module = _unwrapped(model)
    batch = _batch(module, groups, way)

    def head(hidden: Tensor) -> Tensor:
        return chunked_token_logps(module, hidden, batch.targets)

    return _forward(model, batch, way, head if way.chunked else None, routers), batch.owners


@dataclass(frozen=True)
class _Batch:
    """The arguments of a model call, and which of its predictions are scored."""

    inputs: dict[str, Any]
    predictors: Tensor
    """Places (T,) of the flattened batch that predict the targets."""
    targets: Tensor
    """Token ids (T,), response after response."""
    owners: Tensor
    """Number (T,) of the response of each."""
    lengths: Sequence[int] = ()
    """Tokens of each padded row; none where all share one row."""


def _batch(module: Any, groups: Sequence[Group], way: _Way) -> _Batch:
    return (_packed if way.packed else _padded)(groups, _device(module))


def _packed(groups: Sequence[Group], device: torch.device) -> _Batch:
    """Put all groups into one row, where responses share their prompts."""
    row = PackedRow(groups, device)
    inputs = {"input_ids": row.input_ids, "position_ids": row.position_ids, "row": row}
    return _Batch(inputs, row.predictors, row.targets, row.owners)


def _padded(groups: Sequence[Group], device: torch.device) -> _Batch:
    """Give each response a padded row of its own, under the model's own attention."""
    pairs = [(group.prompt_ids, response) for group in groups for response in group.responses]
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
    places, wanted, of = (
        torch.tensor(values, device=device) for values in (predictors, targets, owners)
    )
    return _Batch(inputs, places, wanted, of, lengths=list(map(len, rows)))


def _forward(
    model: Any,
    batch: _Batch,
    way: _Way,
    head: Callable[[Tensor], Tensor] | None,
    routers: RouterLoss | None,
) -> Tensor:
    """Give the head the hidden states (T, W) of the predictors; without a head, take log-probs."""
    module = _unwrapped(model)
    asked = {} if routers is None else {"output_router_logits": True}

    def forward(**inputs: Any) -> Tensor:
        out = module.base_model(**inputs)
        hidden = out.last_hidden_state.flatten(0, 1)  # (rows * N, W)
        if routers is not None:
            routers.take(out.router_logits, batch.lengths)
        return head(hidden.index_select(0, batch.predictors))  # type: ignore[misc]

    with _attention(module, packed=way.packed), frequencies_by_row(module, batch.lengths):
        if head is not None:
            # In the model's own place, so that an engine around it works as usual.
            with replaced_forward(module, forward):
                total: Tensor = model(**batch.inputs, **asked, use_cache=False)
            return total
        last, places = _last_columns(module, batch)
        out = model(**batch.inputs, **last, **asked, use_cache=False)
        if routers is not None:
            routers.take(out.router_logits, batch.lengths)
        logits: Tensor = out.logits.flatten(0, 1).index_select(0, places)  # (T, V)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return logits.log_softmax(-1).gather(-1, batch.targets[:, None]).squeeze(-1)


def _last_columns(module: Any, batch: _Batch) -> tuple[dict[str, int], Tensor]:
    """Ask for logits from the first predictor on, where a model can be asked, and find them there.

    Returns arguments of the model, and the places (T,) of the predictors in what comes back.
    """
    if "logits_to_keep" not in inspect.signature(module.forward).parameters:
        return {}, batch.predictors
    columns = batch.inputs["input_ids"].shape[1]
    row, column = batch.predictors // columns, batch.predictors % columns
    kept = columns - int(column.min())
    return {"logits_to_keep": kept}, row * kept + column - (columns - kept)


def _summed(token_logps: Tensor, owners: Tensor, responses: int) -> Tensor:
    # (T,) to (R,), in float64: 128 terms of 10 nats, one after the other in float32, lost 4e-4.
    zeros = token_logps.new_zeros(responses, dtype=torch.float64)
    return zeros.index_add(0, owners, token_logps.double()).to(token_logps.dtype)


def _one_by_one(model: Any, groups: Sequence[Group]) -> Tensor:
    """Compute what all ways are compared with: one forward pass per response, full logits."""
    return torch.stack([logps.double().sum().to(logps.dtype) for logps in _alone(model, groups)])


def _alone(model: Any, groups: Sequence[Group]) -> list[Tensor]:
    """Log-probs (T,) of the tokens of each response, in a forward pass of its own."""
    plain = _Way(packed=False, chunked=False)
    pairs = [(group.prompt_ids, response) for group in groups for response in group.responses]
    return [_token_logps(model, [Group(prompt, [ids])], plain)[0] for prompt, ids in pairs]


_WAYS = {
    "shared prompts, chunked head": _Way(packed=True, chunked=True),
    "shared prompts, full logits": _Way(packed=True, chunked=False),
    "padded rows, chunked head": _Way(packed=False, chunked=True),
    "padded rows, full logits": _Way(packed=False, chunked=False),
}


@torch.no_grad()
def _exact_way(model: Any, module: Any, length: int) -> _Way:
    """Pick the first way that is exact on the loaded model, for rows of up to so many tokens."""

    def by(way: _Way, groups: Sequence[Group]) -> list[Tensor]:
        token_logps, _ = _token_logps(model, groups, way)
        lengths = [len(response) for group in groups for response in group.responses]
        return list(torch.split(token_logps, lengths))

    def search(ways: Mapping[str, _Way], tokens: int) -> _Way:
        trial = Trial(module, tokens, lambda groups: _alone(model, groups), by)
        return trial.first_exact(ways, "no two forward passes agree on a log-prob")

    training = module.training
    module.eval()
    try:
        return exact_way("scoring", module, _WAYS, length, search)
    finally:
        module.train(training)


@contextmanager
def _attention(module: Any, *, packed: bool) -> Iterator[None]:
    """Within the block, let the model attend within packed rows, or in its own way."""
    config = module.config
    if config._attn_implementation != ATTENTION:
        _own_attention[module] = config._attn_implementation
    config._attn_implementation = ATTENTION if packed else _own_attention[module]
    try:
        yield
    finally:
        # With activation checkpointing the backward pass runs the layers again.
        if not (packed and torch.is_grad_enabled() and _is_checkpointing(module)):
            config._attn_implementation = _own_attention[module]


def _is_checkpointing(module: nn.Module) -> bool:
    """Say whether layers are checkpointed; transformers 5.23 renamed its own answer to this."""
    return any(getattr(layer, "gradient_checkpointing", False) for layer in module.modules())


def _unwrapped(model: Any) -> Any:
    return model if isinstance(model, PreTrainedModel) else _unwrapped(model.module)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
