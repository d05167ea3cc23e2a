"""Answer: a policy's greedy answers to held-out prompts, and how many final answers are right."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from spin_train.config.schema import Config
from spin_train.data.records import Record, Response, read_records, write_records
from spin_train.model.loading import load_tokenizer
from spin_train.run.graph import Stage
from spin_train.run.run import Run
from spin_train.sampling.engine import SamplingSettings
from spin_train.sampling.play import sampled_tokens, stop_ids_of
from spin_train.sampling.transformers_engine import sample
from spin_train.stages.work import Work
from spin_train.system.files import write_json

__all__ = [
    "answer",
    "final_answer",
    "greedy_answers",
    "greedy_settings",
    "questions",
    "summarise_answers",
]

CONFIDENCE = 0.95
"""Of the interval of Wilson around the share of right answers."""


def answer(work: Work, stage: Stage) -> list[Path]:
    """Decode the answers of a stage's policy, shared out over the ranks, and count right ones."""
    run, k = work.run, stage.iteration
    policy = run.control(k + 1) if stage.control else run.policy(k + 1)
    asked = questions(read_records(run.directory.held_out_rows), work.config)
    mine = asked[work.ranks.rank :: work.ranks.size]
    with work.holding(policy, stage) as held:
        decoded = greedy_answers(
            held.model if mine else None,
            mine,
            greedy_settings(run),
            finished=lambda done: held.visit(done, len(mine)),
        )
    work.speed.count(sampled_tokens(decoded))
    gathered = [record for part in work.ranks.gather(decoded) for record in part]
    if work.ranks.is_first:
        gathered.sort(key=lambda record: record.prompt_id)
        write_records(policy.greedy_file, gathered)
        write_json(policy.answers_file, summarise_answers(gathered, asked, work.config))
    return [policy.greedy_file, policy.answers_file]


def questions(records: Sequence[Record], config: Config) -> list[Record]:
    """Take the held-out rows to answer: each prompt once, and as many as are asked for."""
    settings = config.evaluation.answers
    first: dict[tuple[int, ...], Record] = {}
    for record in records:
        first.setdefault(tuple(record.prompt_ids), record)
    return list(first.values())[: settings.prompts if settings else None]


def greedy_settings(run: Run) -> SamplingSettings:
    """Say how the answers of a run are decoded: as its samples are, but without a draw."""
    generation = run.config.generation
    return SamplingSettings(
        stop_ids_of(run.directory),
        generation.max_new_tokens,
        temperature=0.0,
        batch_size=generation.batch_size,
    )


def greedy_answers(
    model: Any,
    records: Sequence[Record],
    settings: SamplingSettings,
    *,
    finished: Callable[[int], None] = lambda _: None,
) -> list[Record]:
    """Give the prompts of records with the answer of a model to each, of role ``greedy``."""
    prompts = [record.prompt_ids for record in records]
    samples = sample(model, prompts, [0] * len(prompts), settings, finished=finished)
    return [
        replace(
            record,
            responses=[
                Response("greedy", found.ids, found.finish_reason, sampling_logps=found.logps)
            ],
        )
        for record, found in zip(records, samples, strict=True)
    ]


def final_answer(text: str, pattern: str) -> str | None:
    """Find the final answer in a response: the last match, without spaces, commas, $ and full stop.

    Examples
    --------
    >>> final_answer("5 * 210 = 1050 #### $1,050.", "#### *(.+)")
    '1050'
    >>> final_answer("I do not know", "#### *(.+)") is None
    True
    """
    found = [match.group(1) or "" for match in re.finditer(pattern, text)]
    return re.sub(r"[\s,$]", "", found[-1]).rstrip(".").casefold() if found else None


def summarise_answers(
    answers: Sequence[Record], asked: Sequence[Record], config: Config
) -> dict[str, Any]:
    """Count ends, lengths and right final answers; docs/metrics.md defines the numbers.

    `asked` holds the same prompts with their human responses, in any order. Prompts whose human
    response has no final answer are not compared, and ``notes`` says how many.
    """
    settings = config.evaluation.answers
    greedy = [record.responses[0] for record in answers]
    stopped = sum(response.finish_reason == "stop" for response in greedy)
    summary: dict[str, Any] = {
        "prompts": len(greedy),
        "stopped": stopped / len(greedy),
        "tokens": sum(len(response.ids) for response in greedy) / len(greedy),
        "max_new_tokens": config.generation.max_new_tokens,
        "notes": [],
    }
    if stopped < len(greedy):
        summary["notes"].append(
            f"{len(greedy) - stopped} of {len(greedy)} greedy answers were cut at "
            f"generation.max_new_tokens={config.generation.max_new_tokens}"
        )
    if settings is None or settings.final is None:
        return summary
    tokenizer = load_tokenizer(config)

    def final(response: Response) -> str | None:
        text = str(tokenizer.decode(response.ids, skip_special_tokens=True))
        return final_answer(text, settings.final or "")

    human = {record.prompt_id: final(record.of_role("real")[0]) for record in asked}
    bare = [number for number, wanted in human.items() if wanted is None]
    if bare:
        summary["notes"].append(
            f"{len(bare)} of {len(human)} human responses have no final answer by "
            f"{settings.final!r} and are not compared, row {bare[0] + 1} of the data the first"
        )
    found = {
        record.prompt_id: final(record.responses[0])
        for record in answers
        if human[record.prompt_id] is not None
    }
    if not found:
        return summary
    from scipy.stats import binomtest  # half a second to import

    right = sum(value == human[number] for number, value in found.items())
    interval = binomtest(right, len(found)).proportion_ci(CONFIDENCE, method="wilson")
    return {
        **summary,
        "final": settings.final,
        "compared": len(found),
        "exact_match": right / len(found),
        "exact_match_low": float(interval.low),
        "exact_match_high": float(interval.high),
        "exact_match_confidence": CONFIDENCE,
        "with_final": sum(value is not None for value in found.values()) / len(found),
    }
