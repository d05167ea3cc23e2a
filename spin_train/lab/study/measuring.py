"""Exact numbers of a policy on held-out prompts, and how far the real responses have moved."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from spin_train.lab.study.training import MOST_TOKENS, score
from spin_train.lab.study.world import STOP, Row, World
from spin_train.lab.tabulate import tabulate
from spin_train.model.logps import Group
from spin_train.sampling.engine import SamplingSettings
from spin_train.sampling.transformers_engine import sample

__all__ = ["Score", "measure", "real_logps"]


@dataclass(frozen=True)
class Score:
    """Means over prompts; nothing is sampled."""

    kl: float
    """KL(p_data || p), nats: what p gives to invalid responses is missing elsewhere."""
    valid: float
    """Probability of a valid response."""
    greedy: float
    """Share of prompts where greedy decoding gives the likeliest response of p_data."""


@torch.no_grad()
def measure(model: Any, world: World) -> tuple[Score, Score]:
    """Measure a policy on the prompts of validation and of test."""
    prompts = [world.prompt_ids(prompt) for prompt in world.held_out]
    table = tabulate(model, prompts, [responses for responses, _ in world.spaces])
    kls = [
        float((data.exp() * (data - log_probs)).sum())
        for (_, data), log_probs in zip(world.spaces, table.log_probs, strict=True)
    ]
    valid = (1 - table.outside).tolist()
    right = [
        answer == responses[int(data.argmax())]
        for answer, (responses, data) in zip(greedy(model, prompts), world.spaces, strict=True)
    ]
    cut = world.validation
    return _mean(kls[:cut], valid[:cut], right[:cut]), _mean(kls[cut:], valid[cut:], right[cut:])


def _mean(kls: Sequence[float], valid: Sequence[float], right: Sequence[bool]) -> Score:
    count = len(kls)
    return Score(sum(kls) / count, sum(valid) / count, sum(right) / count)


def greedy(model: Any, prompts: Sequence[list[int]]) -> list[list[int]]:
    """Decode the likeliest token each time; the end of text counts."""
    settings = SamplingSettings((STOP,), MOST_TOKENS, temperature=0.0, batch_size=len(prompts))
    return [answer.ids for answer in sample(model, prompts, [0] * len(prompts), settings)]


def real_logps(model: Any, rows: Sequence[Row]) -> float:
    """Mean log-prob of the responses of rows, nats."""
    return float(score(model, [Group(row.prompt, [row.response]) for row in rows]).double().mean())
