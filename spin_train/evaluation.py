"""Held-out numbers of a policy, on prompts no stage of the run trained on."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from spin_train.batching import examples_of, token_runs
from spin_train.logps import response_logps
from spin_train.objective import Objective
from spin_train.records import Record

__all__ = ["held_out_sums", "summarise"]


@torch.inference_mode()
def held_out_sums(
    model: Any, records: Sequence[Record], objective: Objective, *, tokens: int
) -> dict[str, list[float]]:
    """Values of each held-out example, for one rank's share of them.

    Parameters
    ----------
    model : PreTrainedModel
        The policy to judge.
    records : sequence of Record
        Scored by the opponent, unless the objective is SFT.
    objective : Objective
        What it was trained on.
    tokens : int
        Taken through the model at once, a prompt counted once.

    Returns
    -------
    dict
        Name of the number to one value an example.
    """
    values: dict[str, list[float]] = {}
    examples = examples_of(records, objective)
    roles = len(objective.roles)
    stored = iter([example.reference_logps or example.opponent_logps for example in examples])
    for run in token_runs([example.group for example in examples], tokens):
        policy = response_logps(model, run).view(-1, roles).double()
        reference = torch.tensor(
            [next(stored) for _ in run], dtype=torch.float64, device=policy.device
        )
        columns = {"loss": objective(policy, reference)}
        for role, column in zip(objective.roles, policy.unbind(1), strict=True):
            columns[f"{role}_logps"] = column
        if objective.algorithm == "spin":
            log_ratio = policy - reference
            columns["margin"] = log_ratio[:, 0] - log_ratio[:, 1]
            columns["real_log_ratio"] = log_ratio[:, 0]
        elif objective.algorithm != "sft":
            scores = objective.scores(policy, reference)
            columns["margin"] = scores[:, 0] - scores[:, 1]
        for name, column in columns.items():
            values.setdefault(name, []).extend(column.tolist())
    values["real_tokens"] = [float(len(example.group.responses[0])) for example in examples]
    for sample in (sample for record in records for sample in record.of_role("generated")):
        values.setdefault("generated_tokens", []).append(float(len(sample.ids)))
        values.setdefault("generated_stopped", []).append(float(sample.finish_reason == "stop"))
    return values


def summarise(values: dict[str, list[float]]) -> dict[str, float]:
    """Means with their standard errors.

    Parameters
    ----------
    values : dict
        As from `held_out_sums`, of all ranks.

    Returns
    -------
    dict
        ``name`` and ``name_standard_error`` (nan for one value), the number of ``examples``, the
        share of positive margins (``accuracy``) and the negative log-prob a token of the real
        responses (``real_nll_per_token``, nats).
    """
    summary: dict[str, float] = {"examples": float(len(values["loss"]))}
    for name, column in values.items():
        tensor = torch.tensor(column, dtype=torch.float64)
        error = tensor.std().item() / math.sqrt(len(column)) if len(column) > 1 else math.nan
        summary[name] = tensor.mean().item()
        summary[f"{name}_standard_error"] = error
    if "margin" in values:
        margins = values["margin"]
        summary["accuracy"] = sum(margin > 0 for margin in margins) / len(margins)
    summary["real_nll_per_token"] = -sum(values["real_logps"]) / sum(values["real_tokens"])
    return summary
