"""The opponent plays: what an engine is asked for, what it gives back, and the seeds.

Engines are `spin_train.hf_engine` and `spin_train.vllm_engine`; each takes prompts and seeds, and
gives for each the exact token ids, the reason the response ended, and the log-prob the engine
itself computed for it.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from spin_train.artifacts import RunDirectory
from spin_train.config import Config
from spin_train.records import Record, Response, write_records
from spin_train.shards import claimed, shards_of

__all__ = [
    "PARITY_TOLERANCE",
    "Engine",
    "Sample",
    "SamplingSettings",
    "fill_shards",
    "parity_problem",
    "play",
    "sample_seed",
    "sampling_record",
    "seed_of",
]

# Nats between an engine's log-prob of its own sample and the trainer's: a constant, and a part per
# token. Seen with the hf engine, at most, on models of 5 and 12 layers: float32 5e-5 for 56 tokens
# and 2e-4 for 200; bfloat16 1.0 for 55 and 2.7 for 200, as rounding of either sign adds up. Samples
# of other weights, another template or a cut-off vocabulary are 0.05 to 8 off a token.
PARITY_TOLERANCE = {"float32": (1e-3, 2e-5), "bfloat16": (1.5, 0.02)}


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


def sample_seed(seed: int, iteration: int, prompt_id: int, number: int) -> int:
    """Seed of one response: no rank, shard or restart enters it.

    Parameters
    ----------
    seed : int
        The run's.
    iteration : int
        Whose opponent plays.
    prompt_id : int
        Of the record.
    number : int
        Which of the prompt's samples, from 0.

    Returns
    -------
    int
        From 0 to 2**63 - 1.
    """
    return seed_of(seed, "generate", iteration, prompt_id, number)


@dataclass(frozen=True)
class SamplingSettings:
    """What is asked of an engine beside prompts and seeds."""

    stop_id: int
    """The token that ends a response; it is part of it."""
    max_new_tokens: int
    """Where a response is cut; a cut one gets no end of text."""
    temperature: float
    """1 samples the opponent itself."""
    batch_size: int
    """Responses sampled together; an engine that finds this out for itself takes no notice."""


@dataclass(frozen=True)
class Sample:
    """One response as an engine gives it."""

    ids: list[int]
    """Token ids, exactly as sampled."""
    finish_reason: str
    """`stop`: ends with the stop token; `length`: cut, and nothing was invented."""
    logps: float
    """Summed log-prob at temperature 1, whatever it was sampled at, as the engine computed it."""


Engine = Callable[[Sequence[list[int]], Sequence[int], SamplingSettings], list[Sample]]
"""From prompts (token ids), a seed for each, and settings, to a sample for each, in order."""


def fill_shards(
    config: Config,
    run: RunDirectory,
    iteration: int,
    load: Callable[[], Engine],
    *,
    visit: Callable[[int, int], None],
) -> None:
    """Sample the shards of an iteration that are not there yet, beside whoever else does.

    Parameters
    ----------
    config : Config
        The run's.
    run : RunDirectory
        Where the rows are, and the shards go.
    iteration : int
        Whose opponent plays.
    load : callable
        Loads the opponent; called once there is something to do.
    visit : callable
        Called with the number of the shard and their number before each; what it raises ends the
        sampling, and the shards that are there stay.
    """
    generation = config.generation
    settings = SamplingSettings(
        stop_id=json.loads(run.data_summary.read_text(encoding="utf-8"))["stop_id"],
        max_new_tokens=generation.max_new_tokens,
        temperature=generation.temperature,
        batch_size=generation.batch_size,
    )
    folder = run.iteration(iteration) / "generations"
    shards = shards_of(run, generation)
    engine: Engine | None = None
    for number, shard in claimed(shards, folder):
        visit(number, len(shards))
        engine = engine or load()
        played = play(
            engine,
            shard.records,
            settings,
            seed=config.seed,
            iteration=iteration,
            samples_per_prompt=generation.samples_per_prompt,
        )
        write_records(folder / shard.name, played)


def play(
    engine: Engine,
    records: Sequence[Record],
    settings: SamplingSettings,
    *,
    seed: int,
    iteration: int,
    samples_per_prompt: int,
) -> list[Record]:
    """Let the opponent answer the prompts of some records.

    Parameters
    ----------
    engine : callable
        Samples from the opponent.
    records : sequence of Record
        Whose prompts are answered.
    settings : SamplingSettings
        How.
    seed : int
        The run's.
    iteration : int
        Whose opponent plays.
    samples_per_prompt : int
        Responses to each prompt.

    Returns
    -------
    list of Record
        The same prompts with the generated responses alone, all samples of a prompt together.
    """
    numbers = range(samples_per_prompt)
    samples = iter(
        engine(
            [record.prompt_ids for record in records for _ in numbers],
            [
                sample_seed(seed, iteration, r.prompt_id, number)
                for r in records
                for number in numbers
            ],
            settings,
        )
    )
    played = []
    for record in records:
        responses = [
            Response(
                role="generated",
                ids=sample.ids,
                finish_reason=sample.finish_reason,
                iteration=iteration,
                sampling_logps=sample.logps,
            )
            for sample in (next(samples) for _ in numbers)
        ]
        played.append(Record(record.prompt_id, record.prompt_ids, responses))
    return played


def sampling_record(config: Config, iteration: int) -> dict[str, Any]:
    """Say how an iteration's samples are drawn, to be kept with them.

    Parameters
    ----------
    config : Config
        The run's.
    iteration : int
        Whose opponent plays.

    Returns
    -------
    dict
        Engine with version, and every setting that the samples depend on.
    """
    generation = config.generation
    if generation.engine == "given":
        return {"iteration": iteration, "engine": "given", "data": config.data.path}
    package = {"hf": "transformers", "vllm": "vllm"}[generation.engine]
    return {
        "iteration": iteration,
        "engine": generation.engine,
        package: version(package),
        "dtype": config.training.dtype,
        "temperature": generation.temperature,
        "top_p": 1.0,
        "top_k": None,
        "max_new_tokens": generation.max_new_tokens,
        "samples_per_prompt": generation.samples_per_prompt,
        "batch_size": generation.batch_size if generation.engine == "hf" else None,
        "seed": config.seed,
        "seeds": "sha256 of (seed, 'generate', iteration, prompt_id, number of the sample)",
    }


def parity_problem(records: Sequence[Record], config: Config, iteration: int) -> str:
    """Compare the engine's log-probs of its samples with the trainer's.

    Parameters
    ----------
    records : sequence of Record
        Scored.
    config : Config
        The run's.
    iteration : int
        Whose samples are compared: those whose opponent both numbers belong to.

    Returns
    -------
    str
        One line on what is wrong and what to do; empty where both agree.

    Notes
    -----
    Both numbers are taken at temperature 1 whatever the samples were drawn at, so they are
    comparable at any temperature.
    """
    constant, per_token = PARITY_TOLERANCE[config.training.dtype]
    worst, beyond, compared = 0.0, 0, 0
    for record in records:
        for sample in record.of_role("generated"):
            if sample.iteration != iteration or sample.sampling_logps is None:
                continue
            assert sample.opponent_logps is not None
            difference = abs(sample.sampling_logps - sample.opponent_logps)
            compared += 1
            if not difference <= constant + per_token * len(sample.ids):  # nan is beyond as well
                beyond += 1
                worst = max(worst, difference / len(sample.ids))
    if not beyond:
        return ""
    return (
        f"generation parity: engine {config.generation.engine} and the training forward pass "
        f"differ on the log-prob of {beyond} of {compared} samples by up to {worst:.3g} nats a "
        f"token (tolerance {constant:g} nats + {per_token:g} a token): samples and scores do not "
        "belong to one distribution; use generation.engine=hf in a new output_dir, or go on with "
        "generation.parity=warn"
    )
