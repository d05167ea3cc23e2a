"""The opponent plays: exact token ids sampled from p_t, with the reason each response ended."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from spin_train.records import Response

__all__ = ["sample_responses", "seed_of"]


def seed_of(*parts: object) -> int:
    """Seed that depends on every part and nothing else.

    Parameters
    ----------
    *parts : object
        Such as the run's seed, a purpose, an iteration, a shard.

    Returns
    -------
    int
        From 0 to 2**63 - 1.

    Examples
    --------
    >>> seed_of(42, "generate", 0) == seed_of(42, "generate", 0)
    True
    >>> seed_of(42, "generate", 0) == seed_of(42, "generate", 1)
    False
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@torch.inference_mode()
def sample_responses(
    model: Any,
    prompts: Sequence[list[int]],
    *,
    stop_id: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    role: str,
    iteration: int,
) -> list[Response]:
    r"""Sample one response a prompt from :math:`p_t(\cdot|x)`, no top-p, no top-k.

    Parameters
    ----------
    model : PreTrainedModel
        The opponent; its own generation settings are ignored.
    prompts : sequence of list of int
        Token ids of rendered prompts, at least one each.
    stop_id : int
        The token that ends a response; it is part of it.
    max_new_tokens : int
        Where a response is cut; a cut one gets no end of text.
    temperature : float
        1 samples the opponent itself.
    seed : int
        Of this call, whatever ran before.
    role : str
        Role to note on the responses.
    iteration : int
        Iteration to note on the responses.

    Returns
    -------
    list of Response
        In the order of `prompts`.
    """
    device = next(model.parameters()).device
    longest = max(map(len, prompts))
    # Padding stands on the left under a zero mask, so which id it is does not matter.
    input_ids = torch.tensor([[stop_id] * (longest - len(ids)) + ids for ids in prompts])
    lengths = torch.tensor([len(ids) for ids in prompts])
    attention_mask = (torch.arange(longest) >= longest - lengths[:, None]).long()
    # `generate` fills what a call leaves open from the model's own file of settings.
    model.generation_config = GenerationConfig()
    settings = GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max_new_tokens,
        eos_token_id=stop_id,
        pad_token_id=stop_id,
    )
    torch.manual_seed(seed)
    sequences = model.generate(
        input_ids=input_ids.to(device),
        attention_mask=attention_mask.to(device),
        generation_config=settings,
    )
    responses = []
    for ids in sequences[:, longest:].tolist():
        stopped = stop_id in ids
        kept = ids[: ids.index(stop_id) + 1] if stopped else ids
        responses.append(
            Response(
                role=role,
                ids=kept,
                finish_reason="stop" if stopped else "length",
                iteration=iteration,
            )
        )
    return responses
