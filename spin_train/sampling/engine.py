"""The interface of an engine that samples from the opponent.

The engines are `transformers_engine` and `vllm_engine`. Each takes prompts and seeds, and gives for
each the exact token ids, the reason why the response ended, and the log-prob that the engine itself
computed for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Engine", "Sample", "SamplingSettings"]


@dataclass(frozen=True)
class SamplingSettings:
    """What an engine is given in addition to prompts and seeds."""

    stop_ids: tuple[int, ...]
    """The tokens that end a response, one of which is its last; the first is the one taught."""
    max_new_tokens: int
    """Where a response is cut; a cut one gets no end of text."""
    temperature: float
    """1 samples the opponent itself; 0 takes the likeliest token each time."""
    batch_size: int
    """Responses sampled together; an engine that schedules its own batches ignores it."""


@dataclass(frozen=True)
class Sample:
    """One response as an engine gives it."""

    ids: list[int]
    """Token ids, exactly as sampled."""
    finish_reason: str
    """`stop`: ends with a stop token; `length`: cut, without a stop token."""
    logps: float
    """Summed log-prob at temperature 1, computed by the engine, at any sampling temperature."""


Engine = Callable[[Sequence[list[int]], Sequence[int], SamplingSettings], list[Sample]]
"""Maps prompts (token ids), one seed per prompt, and settings to one sample per prompt."""
