"""Summed log-probs of responses: the one function behind scoring and training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Group", "response_logps"]


@dataclass(frozen=True)
class Group:
    """A prompt and the responses to it whose log-probs are wanted."""

    prompt_ids: list[int]
    """At least one token: without one the first response token has no prediction."""
    responses: list[list[int]]
    """Token ids of each response, at least one token each."""


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
    The end-of-text token counts where the response has one. Masks follow lengths, never a pad id,
    so a model whose pad token is its end of text is scored right.
    """
    prompts = [group.prompt_ids for group in groups for _ in group.responses]
    responses = [response for group in groups for response in group.responses]
    if not responses or not all(prompts) or not all(responses):
        raise ValueError("every prompt and every response needs at least one token")
    rows = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    longest = max(map(len, rows))
    device = _device(model)
    input_ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    starts = torch.tensor([len(prompt) for prompt in prompts], device=device)
    positions = torch.arange(longest, device=device)
    # Padding stands on the right, where a causal model's real tokens never look. Hidden by a mask
    # it would see nothing past a sliding window, and give nan where attention is eager.
    attention_mask = torch.ones_like(input_ids)  # (R, T)

    logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
    logits = logits[:, :-1]  # position i predicts token i + 1
    if logits.dtype != torch.float64:
        logits = logits.float()
    chosen = input_ids[:, 1:, None]
    token_logps = logits.log_softmax(-1).gather(-1, chosen).squeeze(-1)  # (R, T - 1)
    targets = positions[1:]
    in_response = (targets >= starts[:, None]) & (targets < lengths[:, None])
    logps: Tensor = token_logps.where(in_response, 0.0).sum(-1)
    return logps


def _device(model: Any) -> torch.device:
    module = model if isinstance(model, nn.Module) else model.module
    return next(module.parameters()).device
