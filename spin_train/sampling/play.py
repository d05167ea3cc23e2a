"""Let the opponent answer the prompts of an iteration, shard by shard."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import packages_distributions, version
from itertools import chain, islice
from typing import Any

from spin_train.config.schema import Config
from spin_train.data.records import Record, Response, write_records
from spin_train.run.directory import RunDirectory
from spin_train.run.shards import claimed_groups, sampled_together, shards_of
from spin_train.sampling.engine import Engine, SamplingSettings
from spin_train.seeds import sample_seed
from spin_train.system.board import Board
from spin_train.system.files import read_json

__all__ = [
    "distribution_of",
    "fill_shards",
    "play",
    "sampled_tokens",
    "sampling_record",
    "stop_ids_of",
]


def fill_shards(
    config: Config,
    run: RunDirectory,
    iteration: int,
    load: Callable[[Callable[[int], None]], Engine],
    *,
    visit: Callable[[int, int], None],
    ranks: int | None = None,
    board: Board | None = None,
) -> int:
    """Sample the shards of an iteration that are not there yet; others may do so at the same time.

    `load` loads the opponent, once there is something to do; the engine calls what it is given with
    the number of samples that it has finished, as often as it likes. `visit` is called with how
    many samples are done, of this and earlier shards, and how many there are; what it raises ends
    the sampling, and the shards that are there stay. `ranks` is how many share the work, as
    `config.ranks` says unless it is given; `board` is where they claim it on several nodes.

    Shards that are sampled together are sampled together again where one of them is missing.
    Returns how many tokens were sampled here.
    """
    generation = config.generation
    settings = SamplingSettings(
        stop_ids=stop_ids_of(run),
        max_new_tokens=generation.max_new_tokens,
        temperature=generation.temperature,
        batch_size=generation.batch_size,
    )
    folder = run.iteration(iteration) / "generations"
    shards = shards_of(run, generation)
    groups = sampled_together(shards, generation, ranks=ranks or config.ranks or 1)
    samples = [
        generation.samples_per_prompt * sum(shard.stop - shard.start for shard in group)
        for group in groups
    ]
    begun, total, tokens = 0, sum(samples), 0

    def finished(done: int) -> None:
        visit(begun + done, total)

    engine: Engine | None = None
    for number, group in claimed_groups(groups, folder, board):
        begun = sum(samples[:number])
        finished(0)
        engine = engine or load(finished)
        records = [shard.records for shard in group]
        played = iter(
            play(
                engine,
                list(chain.from_iterable(records)),
                settings,
                seed=config.seed,
                iteration=iteration,
                samples_per_prompt=generation.samples_per_prompt,
            )
        )
        for shard, rows in zip(group, records, strict=True):
            path, answered = folder / shard.name, list(islice(played, len(rows)))
            tokens += sampled_tokens(answered)
            if not path.exists():
                write_records(path, answered)
    return tokens


def sampled_tokens(records: Sequence[Record]) -> int:
    """Count the tokens of all responses of some records."""
    return sum(len(response.ids) for record in records for response in record.responses)


def stop_ids_of(run: RunDirectory) -> tuple[int, ...]:
    """Tokens that end a response in this run, the one that training teaches first."""
    summary = read_json(run.data_summary)
    return tuple(summary.get("stop_ids", [summary["stop_id"]]))  # runs of before had one


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

    Returns records with the generated responses alone, all samples of a prompt together.
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
        played.append(replace(record, responses=responses))
    return played


def distribution_of(package: str) -> str:
    """Name under which a package is installed: vLLM has another one where it is built for CPUs."""
    names = {name.lower().replace("_", "-") for name in packages_distributions().get(package, [])}
    return package if not names or package in names else min(names)


def sampling_record(config: Config, iteration: int) -> dict[str, Any]:
    """Say how an iteration's samples are drawn: engine, version and all settings."""
    generation = config.generation
    if generation.engine == "given":
        return {"iteration": iteration, "engine": "given", "data": config.data.path}
    package = {"hf": "transformers", "vllm": "vllm"}[generation.engine]
    more = {"vllm_arguments": generation.vllm} if generation.vllm else {}
    return {
        "iteration": iteration,
        "engine": generation.engine,
        package: version(distribution_of(package)),
        **more,
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
