"""Evaluate: held-out numbers of a policy, on prompts that no stage of the run trained on."""

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from spin_theory.calibration import beta_of_margins
from spin_theory.meter import FEWEST_PROMPTS, convergence_meter
from spin_train.config.schema import Config
from spin_train.data.records import Record, read_records
from spin_train.model.logps import Group
from spin_train.model.packing import token_blocks
from spin_train.model.routers import has_experts, router_loss
from spin_train.run.graph import Stage
from spin_train.run.resting import resting_note
from spin_train.stages.signs import (
    early_accuracy,
    separability,
    warning_signs,
)
from spin_train.stages.work import Work
from spin_train.system.files import or_null, write_atomically, write_json
from spin_train.training.examples import examples_of
from spin_train.training.objective import Objective, selfplay_objective, sft_objective

__all__ = ["FEWEST_FOR_ERRORS", "evaluate", "held_out_sums", "summarise", "write_examples"]

FEWEST_FOR_ERRORS = 10
"""Prompts from which on a standard error is given. Of four it can be 0 by chance, and of ten it is
still off by a quarter."""


def evaluate(work: Work, stage: Stage) -> list[Path]:
    """Measure the policy of a stage on the held-out prompts, shared out over the ranks."""
    run, k = work.run, stage.iteration
    policy = run.control(k + 1) if stage.control else run.policy(k + 1)
    if k < 0:  # p_0 has no opponent yet
        objective = sft_objective()
        records = read_records(run.directory.held_out_rows)
    else:
        objective = selfplay_objective(work.config, k)
        scored = run.directory.iteration(k) / "scored"
        records = read_records(*work.files_in(scored, "held_out-*.parquet"))
    mine = records[work.ranks.rank :: work.ranks.size]
    work.speed.count(sum(example.group.tokens for example in examples_of(mine, objective)))
    unbalanced = False
    with work.holding(policy, stage) as held:
        sums = (
            held_out_sums(held.logps, mine, objective, tokens=work.scoring_tokens) if mine else {}
        )
        if mine and k >= 0:
            unbalanced = _is_unbalanced(held.model, work.config)
    gathered = work.ranks.gather(sums)
    if work.ranks.is_first:
        names = {name: None for part in gathered for name in part}
        values = {name: [v for part in gathered for v in part.get(name, [])] for name in names}
        generation = work.config.generation
        summary = summarise(
            values,
            temperature=generation.temperature,
            given=generation.engine == "given",
            resting=resting_note(work.config),
        )
        if k >= 0:
            summary["warnings"] = _warnings(work, stage, summary, records, unbalanced=unbalanced)
        # JSON has no nan; numbers that rank policies stay as they are.
        errors = {name: or_null(summary[name]) for name in summary if name.endswith("_error")}
        write_json(policy.evaluation, summary | errors)
        write_examples(policy.evaluation_by_example, values)
    return [policy.evaluation, policy.evaluation_by_example]


def write_examples(path: Path, values: dict[str, list[float]]) -> None:
    """Write what the means are means of, one row per example, in the order of the data."""
    names = [name for name in values if len(values[name]) == len(values["loss"])]
    table = pa.table({name: values[name] for name in names})
    with write_atomically(path) as partial:
        pq.write_table(table.sort_by("prompt_id"), partial)


def _warnings(
    work: Work,
    stage: Stage,
    summary: dict[str, Any],
    records: Sequence[Record],
    *,
    unbalanced: bool,
) -> list[str]:
    folder = work.run.directory.iteration(stage.iteration)
    train = read_records(*sorted((folder / "scored").glob("train-*.parquet")))
    return warning_signs(
        summary,
        separable=separability(train, records),
        early=None if stage.control else early_accuracy(folder / "metrics.jsonl"),
        unbalanced=unbalanced,
    )


def _is_unbalanced(model: Any, config: Config) -> bool:
    """Say whether a mixture of experts trains without the loss that keeps them equally busy."""
    settings = model.config.get_text_config()
    return has_experts(settings) and router_loss(model, config.training.router_loss) is None


def held_out_sums(
    logps: Callable[[Sequence[Group]], torch.Tensor],
    records: Sequence[Record],
    objective: Objective,
    *,
    tokens: int,
) -> dict[str, list[float]]:
    """Measure each held-out example of one rank's share: one value per example, by name.

    `logps` is `response_logps` of the policy, without a graph. The records are scored by the
    opponent, unless the objective is SFT. At most `tokens` go through the model at once. ``prompt``
    is a number that equal prompts share, on every rank, and ``prompt_id`` the number of the row in
    the data.
    """
    values: dict[str, list[float]] = {}
    examples = examples_of(records, objective)
    roles = len(objective.roles)
    stored = ((e.opponent_logps, e.reference_logps or e.opponent_logps) for e in examples)
    for run in token_blocks([example.group for example in examples], tokens):
        policy = logps(run).view(-1, roles).double()
        opponent, reference = torch.tensor(
            [next(stored) for _ in run], dtype=torch.float64, device=policy.device
        ).unbind(1)
        columns = {"loss": objective(policy, reference)}
        for role, column in zip(objective.roles, policy.unbind(1), strict=True):
            columns[f"{role}_logps"] = column
        if objective.algorithm != "sft":
            columns["loss_above_opponent"] = columns["loss"] - objective(opponent, reference)
            contrast = objective.scores(policy, reference)
            columns["margin"] = contrast[:, 0] - contrast[:, 1]
            log_ratio = policy - opponent
            columns["real_log_ratio"] = log_ratio[:, 0]
            columns["generated_log_ratio"] = log_ratio[:, 1]
        for name, column in columns.items():
            values.setdefault(name, []).extend(column.tolist())
    values["prompt_id"] = [
        record.prompt_id
        for record in records
        for _ in record.of_role("generated") or record.of_role("real")
    ]
    values["prompt"] = [_number_of(example.group.prompt_ids) for example in examples]
    values["real_tokens"] = [float(len(example.group.responses[0])) for example in examples]
    for sample in (sample for record in records for sample in record.of_role("generated")):
        values.setdefault("generated_tokens", []).append(float(len(sample.ids)))
        values.setdefault("generated_stopped", []).append(float(sample.finish_reason == "stop"))
    return values


def summarise(
    values: dict[str, list[float]],
    *,
    temperature: float = 1.0,
    given: bool = False,
    resting: str | None = None,
) -> dict[str, Any]:
    """Summarise the values of `held_out_sums` of all ranks: means, errors, and what follows.

    Returns ``name`` and ``name_standard_error`` (nan for fewer than `FEWEST_FOR_ERRORS` prompts),
    and more that `docs/metrics.md` defines. ``notes`` says in words where a number is not what its
    name says, because samples were drawn at another temperature, given with the data, or cut.
    `resting` is what `resting_note` says of the run.
    """
    columns = {name: values[name] for name in values if name not in ("prompt", "prompt_id")}
    prompts = len(set(values.get("prompt", [])))
    few = prompts < FEWEST_FOR_ERRORS
    summary: dict[str, Any] = {"examples": len(columns["loss"])}
    for name, column in columns.items():
        summary[name], summary[f"{name}_standard_error"] = _mean(column, few=few)
    summary["real_nll_per_token"] = -sum(columns["real_logps"]) / sum(columns["real_tokens"])
    if "margin" in columns:
        margins = columns["margin"]
        summary["accuracy"] = sum(margin > 0 for margin in margins) / len(margins)
        if temperature == 1.0 and not given:
            kl, error = _mean([-value for value in columns["generated_log_ratio"]], few=few)
            summary |= {"opponent_kl": kl, "opponent_kl_standard_error": error}
            summary |= _effective_beta(columns, values["prompt"])
        if len(set(values["prompt"])) >= FEWEST_PROMPTS and all(map(math.isfinite, margins)):
            summary |= _meter(margins, values["prompt"])
        if resting is not None:
            summary["resting"] = resting
    summary["notes"] = _notes(summary, temperature, given) if "margin" in columns else []
    if few:
        summary["notes"].append(
            f"{prompts} held-out prompts are too few for standard errors (fewer than "
            f"{FEWEST_FOR_ERRORS}): raise data.held_out"
        )
    return summary


def _effective_beta(columns: dict[str, list[float]], prompts: list[float]) -> dict[str, float]:
    """Take the beta that log-ratios show; nothing where no finite one explains them."""
    names = ("real_log_ratio", "generated_log_ratio")
    real, generated = (torch.tensor(columns[name], dtype=torch.float64) for name in names)
    margins = real - generated
    if not bool(margins.isfinite().all()):
        return {}
    found = beta_of_margins(margins, prompts=torch.tensor(prompts, dtype=torch.int64))
    if not math.isfinite(found.beta):
        return {}
    return {
        "effective_beta": found.beta,
        "effective_beta_standard_error": (
            found.standard_error if len(set(prompts)) >= FEWEST_FOR_ERRORS else math.nan
        ),
    }


def _meter(margins: list[float], prompts: list[float]) -> dict[str, float]:
    numbers = torch.tensor(prompts, dtype=torch.int64)
    meter = convergence_meter(torch.tensor(margins, dtype=torch.float64), prompts=numbers)
    return {
        "meter": meter.estimate,
        "meter_standard_error": (
            meter.standard_error if meter.prompts >= FEWEST_FOR_ERRORS else math.nan
        ),
        "meter_lower_bound": meter.lower_bound,
        "meter_confidence": meter.confidence,
        "meter_prompts": meter.prompts,
        "meter_scale": meter.scale,
        "meter_clip": meter.clip,
        "tv_lower_bound": meter.tv_lower_bound,
    }


def _notes(summary: dict[str, Any], temperature: float, given: bool) -> list[str]:
    if given:
        return [
            "given pairs: the meter describes the data's other responses, and KL is not computed"
        ]
    notes = []
    if temperature != 1.0:
        notes.append(
            f"sampled at temperature {temperature:g}, not from p_t: the meter describes that "
            "sampler, and KL is not computed"
        )
    if summary["generated_stopped"] < 1:
        notes.append(
            f"{1 - summary['generated_stopped']:.1%} of the opponent's samples were cut at "
            "max_new_tokens: meter and KL describe p_t truncated there"
        )
    return notes


def _mean(column: list[float], *, few: bool) -> tuple[float, float]:
    """Mean and its standard error; nan where the prompts are too few for one."""
    tensor = torch.tensor(column, dtype=torch.float64)
    error = math.nan if few else tensor.std().item() / math.sqrt(len(column))
    return tensor.mean().item(), error


def _number_of(prompt: Sequence[int]) -> int:
    """Derive a number from a prompt, unrelated to the order of the data."""
    digest = hashlib.sha256(" ".join(map(str, prompt)).encode()).digest()
    return int.from_bytes(digest[:6])
