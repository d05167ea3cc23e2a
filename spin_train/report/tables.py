"""The tables of a report, as headings and rows of text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from spin_train.report.estimates import nll, nll_difference, right_answers
from spin_train.report.pictures import demo_measurements
from spin_train.report.wording import MINUS, signed, with_interval
from spin_train.run.policies import Policy
from spin_train.run.run import Run
from spin_train.run.status import speed_of
from spin_train.run.tables import duration, memory, pace
from spin_train.system.files import read_object

__all__ = [
    "Table",
    "benchmark_rows",
    "main_table",
    "mean_of",
    "provenance",
    "share_of",
    "stage_table",
    "wide_table",
]


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names it."""

    headings: list[str]
    rows: list[list[str]]
    best: set[str] = field(default_factory=set)
    """Names of rows that stand out."""


def main_table(run: Run) -> Table:
    """Make the table that one looks at first: every policy that is evaluated, with intervals."""
    first = run.policy(0)
    policies = [policy for policy in run.listed if policy.numbers is not None]
    measured = {row["policy"]: row for row in demo_measurements(run)}
    columns: dict[str, list[str]] = {
        "NLL per token": [with_interval(nll(policy)) for policy in policies],
        "change since p_0": [
            "" if policy.iteration == 0 else signed(nll_difference(policy, first))
            for policy in policies
        ],
        "against its control": [_against_control(run, policy) for policy in policies],
        "KL(p_data || p), exact": [
            f"{measured[policy.name]['kl']:.4f}" if policy.name in measured else ""
            for policy in policies
        ],
        "right answers, %": [
            with_interval(right_answers(policy), digits=1, scale=100) for policy in policies
        ],
        "margin, nats": [mean_of(policy.numbers or {}, "margin") for policy in policies],
        "samples that stop": [
            share_of((policy.numbers or {}).get("generated_stopped")) for policy in policies
        ],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    rows = [
        [policy.name, *(cells[n] for cells in shown.values())] for n, policy in enumerate(policies)
    ]
    played = [policy for policy in policies if not policy.control and nll(policy) is not None]
    best = min(played, key=_nll, default=None)
    return Table(["policy", *shown], rows, {best.name} if best else set())


def _nll(policy: Policy) -> float:
    found = nll(policy)
    return math.inf if found is None or math.isnan(found.value) else found.value


def _against_control(run: Run, policy: Policy) -> str:
    if policy.control or policy.iteration == 0 or not run.config.control:
        return ""
    return signed(nll_difference(policy, run.control(policy.iteration)))


def mean_of(numbers: dict[str, Any], name: str) -> str:
    """Write a mean with its standard error."""
    if numbers.get(name) is None:
        return ""
    text = f"{numbers[name]:.3f}"
    error = numbers.get(f"{name}_standard_error")
    return (text if error is None else f"{text} ± {error:.3f}").replace("-", MINUS)


def share_of(value: float | None) -> str:
    """Write a share in per cent."""
    return "" if value is None else f"{100 * value:.1f} %"


def wide_table(run: Run) -> Table:
    """List every number of every evaluation.json, a row per number."""
    evaluations = run.evaluations
    names = dict.fromkeys(
        name
        for numbers in evaluations.values()
        for name, value in numbers.items()
        if isinstance(value, int | float) and not name.endswith("_standard_error")
    )
    rows = [[name, *(_cell(of, name) for of in evaluations.values())] for name in names]
    return Table(["number", *evaluations], rows)


def _cell(numbers: dict[str, Any], name: str) -> str:
    value, error = numbers.get(name), numbers.get(f"{name}_standard_error")
    if value is None:
        return ""
    text = str(value) if isinstance(value, int) else f"{value:.5g}"
    return (text if error is None else f"{text} ± {error:.2g}").replace("-", MINUS)


def benchmark_rows(run: Run) -> Table | None:
    """Results of lm-eval, a row per policy, in per cent; None without any."""
    found = {policy.name: policy.benchmarks for policy in run.listed if policy.benchmarks}
    tasks = list(dict.fromkeys(task for results in found.values() for task in results))
    rows = [
        [name, *(_score(results.get(task)) for task in tasks)] for name, results in found.items()
    ]
    return Table(["policy", *tasks], rows) if rows else None


def _score(result: dict[str, Any] | None) -> str:
    if result is None:
        return ""
    error = result.get("standard_error")
    text = f"{100 * result['value']:.1f}"
    return f"{text} ± {100 * error:.1f}" if isinstance(error, int | float) else text


def stage_table(run: Run) -> Table:
    """List the stages that are done, with the time that each took, its speed and its memory."""
    done = run.manifest().content["stages"]
    rows = []
    for name, record in done.items():
        speed = speed_of(record.get("speed", {}))
        rows.append(
            [
                name,
                duration(record["seconds"]),
                pace(speed["tokens_per_second"]),
                memory(speed["peak_memory"], speed["device_memory"]),
                record["finished"].replace("T", " "),
            ]
        )
    total = sum(record["seconds"] for record in done.values())
    headings = ["stage", "time", "tokens/s", "peak memory", "finished"]
    return Table(headings, [*rows, ["all", duration(total), "", "", ""]])


def provenance(run: Run) -> dict[str, Table]:
    """Say what the run was made of: data, weights and programs, each with its hash or version."""
    content = run.manifest().content
    tables = {}
    if run.directory.data_summary.is_file():
        summary = read_object(run.directory.data_summary)
        tables["Data"] = Table(["", ""], _data_rows(summary))
    weights = [
        [policy.name, str(path), record["sha256"]]
        for policy in run.listed
        for path, record in _files_of(content, run, policy)
    ]
    if weights:
        tables["Weights"] = Table(["policy", "file", "SHA-256"], weights)
    versions = content.get("versions", {})
    if versions:
        tables["Programs"] = Table(
            ["package", "version"], [[n, str(v)] for n, v in versions.items()]
        )
    return tables


def _data_rows(summary: dict[str, Any]) -> list[list[str]]:
    source = summary.get("source", {})
    rows = [[f"source: {name}", str(value)] for name, value in source.items()]
    counts = ("rows", "train", "train_prompts", "held_out", "given", "distinct_prompts")
    rows += [[name.replace("_", " "), str(summary[name])] for name in counts if summary.get(name)]
    left_out = {
        name: value
        for name, value in summary.items()
        if isinstance(value, int) and value and name.startswith(("dropped", "truncated"))
    }
    rows += [[name.replace("_", " "), str(value)] for name, value in left_out.items()]
    if "prompts_sha256" in summary:
        rows.append(["SHA-256 of all prompts", summary["prompts_sha256"]])
    return rows


def _files_of(
    content: dict[str, Any], run: Run, policy: Policy
) -> Sequence[tuple[str, dict[str, Any]]]:
    """Weights of a policy as the manifest has them."""
    try:
        folder = policy.evaluation.parent if policy.iteration else run.directory.sft
        place = f"{folder.relative_to(run.root)}/policy/"
    except ValueError:
        return []
    return [
        (name, record)
        for stage in content["stages"].values()
        for name, record in stage["files"].items()
        if name.startswith(place) and name.endswith(".safetensors")
    ]
