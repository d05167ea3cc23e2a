"""Tables of a run's numbers, for the terminal and for notebooks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from spin_train.run.policies import Policy

__all__ = [
    "answers_table",
    "benchmark_table",
    "duration",
    "memory",
    "pace",
    "results_table",
    "wide_table",
]

_SHORT_LEGEND = (
    "held-out prompts, ± standard error; y' is sampled from the opponent p_t; more numbers: --wide"
)
_LEGEND = (
    "y: real; y': sampled from the opponent p_t; meter, TV: estimated distance of p_t from the "
    "data, with a\nlower bound at 95 % confidence; a bound of 0 proves nothing (docs/metrics.md)"
)


def results_table(
    title: str,
    evaluations: Mapping[str, Mapping[str, Any]],
    *,
    metric: str,
    better_control: str = "",
) -> Table:
    """Held-out numbers by policy that one looks at first, within 80 columns.

    `metric` is what policies are chosen by; `better_control` names a control that is better than
    the best of them. What is left out stands in `wide_table` and in results.json.
    """
    own = metric not in ("real_nll_per_token", "margin")
    headings = ["policy", "NLL/token"]
    headings += [metric.replace("_", "_\u200b")] if own else []
    table = Table(*headings, "margin (nats)", "y' stops", "note", title=title)
    first = evaluations.get("p_0", {})
    for name, numbers in evaluations.items():
        notes = _short_notes(numbers, first)
        notes += ["better than self-play"] if name == better_control else []
        table.add_row(
            name,
            _number(numbers, "real_nll_per_token", 4),
            *([_number(numbers, metric, 4)] if own else []),
            _with_error(numbers, "margin"),
            _number(numbers, "generated_stopped", 3),
            ", ".join(notes),
        )
    table.caption = "\n".join([_SHORT_LEGEND, *_all_notes(evaluations), *_signs(evaluations)])
    return table


def _short_notes(numbers: Mapping[str, Any], first: Mapping[str, Any]) -> list[str]:
    """Words for the column of notes; the caption and docs/metrics.md say what they mean."""
    notes = []
    if numbers.get("generated_stopped", 1) < 1:
        notes.append(f"{1 - numbers['generated_stopped']:.0%} cut")
    if "real_logps" in numbers and "real_logps" in first and numbers is not first:
        errors = [found["real_logps_standard_error"] for found in (numbers, first)]
        known = None not in errors  # of too few prompts there is none
        if known and numbers["real_logps"] < first["real_logps"] - 2 * max(errors):
            notes.append("log p(y) fell")
    return notes


def _all_notes(evaluations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(
        dict.fromkeys(note for numbers in evaluations.values() for note in numbers.get("notes", ()))
    )


def _signs(evaluations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Warnings with the policies that they are about, each warning once."""
    found: dict[str, list[str]] = {}
    for name, numbers in evaluations.items():
        for sign in numbers.get("warnings", ()):
            found.setdefault(sign, []).append(name)
    return [f"Warning, {', '.join(names)}: {sign}" for sign, names in found.items()]


def wide_table(title: str, evaluations: Mapping[str, Mapping[str, Any]]) -> Table:
    """All held-out numbers by policy, within 140 columns; docs/metrics.md defines them.

    Margin, loss, KL and meter are against the opponent p_t of that iteration, y' its samples.
    """
    table = Table(
        "policy",
        "loss",
        "margin (nats)",
        "accu-\nracy",
        "log p(y) (nats)",
        "log p(y')",
        "NLL/\ntoken",
        "y' to-\nkens",
        "y'\nstops",
        "KL(p_t||p)\n(nats)",
        "meter, and\nat least",
        "TV ≥",
        title=title,
        caption="\n".join([_LEGEND, *_all_notes(evaluations), *_signs(evaluations)]),
    )
    for name, numbers in evaluations.items():
        table.add_row(
            name,
            _number(numbers, "loss", 4) if "margin" in numbers else "",
            _with_error(numbers, "margin"),
            _number(numbers, "accuracy", 3),
            _with_error(numbers, "real_logps"),
            _number(numbers, "generated_logps", 2),
            _number(numbers, "real_nll_per_token", 4),
            _number(numbers, "generated_tokens", 1),
            _number(numbers, "generated_stopped", 3),
            _number(numbers, "opponent_kl", 3),
            f"{numbers['meter']:.3f}, {numbers['meter_lower_bound']:.3f}"
            if "meter" in numbers
            else "",
            _number(numbers, "tv_lower_bound", 3),
        )
    return table


def answers_table(policies: Sequence[Policy]) -> Table | None:
    """Right final answers by greedy decoding, with intervals; None where none are decoded."""
    found = {policy.name: policy.answers for policy in policies}
    counted = {name: answers for name, answers in found.items() if answers is not None}
    if not counted:
        return None
    prompts = max(answers["prompts"] for answers in counted.values())
    table = Table(
        "policy",
        "exact match (95 %)",
        "with an answer",
        "stops",
        "tokens",
        title=f"greedy answers to {prompts} held-out prompts",
    )
    for name, answers in counted.items():
        exact = ""
        if "exact_match" in answers:
            low, high = (100 * answers[f"exact_match_{end}"] for end in ("low", "high"))
            exact = f"{100 * answers['exact_match']:.1f} % ({low:.1f} to {high:.1f})"
        table.add_row(
            name,
            exact,
            _number(answers, "with_final", 2),
            _number(answers, "stopped", 2),
            _number(answers, "tokens", 1),
        )
    table.caption = "\n".join(_all_notes(counted)) or None
    return table


def benchmark_table(policies: Sequence[Policy]) -> Table | None:
    """Results of lm-eval by policy and task, in per cent, and their mean where all are there."""
    found = {policy.name: policy.benchmarks for policy in policies}
    tasks = list(dict.fromkeys(task for results in found.values() for task in results))
    if not tasks:
        return None
    versions = {
        result["lm_eval_version"] for results in found.values() for result in results.values()
    }
    title = f"lm-eval {', '.join(sorted(versions))} (per cent)"
    table = Table("policy", *(task.replace("_", "_\u200b") for task in tasks), "mean", title=title)
    for name, results in found.items():
        values = [results[task]["value"] if task in results else None for task in tasks]
        known = [value for value in values if value is not None]
        mean = sum(known) / len(known) if len(known) == len(tasks) else None
        table.add_row(name, *map(_per_cent, [*values, mean]))
    return table


def _per_cent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _number(numbers: Mapping[str, Any], name: str, digits: int) -> str:
    return f"{numbers[name]:.{digits}f}" if name in numbers else ""


def _with_error(numbers: Mapping[str, Any], name: str) -> str:
    """Write a mean to the second digit of its standard error."""
    if name not in numbers:
        return ""
    error = numbers[f"{name}_standard_error"]
    if error is None or math.isnan(error):  # too few prompts for one
        return f"{numbers[name]:.3f}"
    digits = min(4, max(0, 1 - math.floor(math.log10(error)))) if error > 0 else 3
    return f"{numbers[name]:.{digits}f} ± {error:.{digits}f}"


def duration(seconds: float | None) -> str:
    """Format seconds as h:mm:ss; empty if not known.

    Examples
    --------
    >>> duration(7509.4), duration(59.6), duration(None)
    ('2:05:09', '1:00', '')
    """
    if seconds is None:
        return ""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def pace(tokens_per_second: float | None) -> str:
    """Format tokens per second; empty if not known.

    Examples
    --------
    >>> pace(12345.6), pace(7.25), pace(None)
    ('12,346', '7.2', '')
    """
    if tokens_per_second is None:
        return ""
    return f"{tokens_per_second:,.{0 if tokens_per_second >= 100 else 1}f}"


def memory(peak: int | None, device: int | None) -> str:
    """Format bytes that were held, and how many the device has; empty if not known.

    Examples
    --------
    >>> memory(2**31, None), memory(65 * 2**30, 80 * 2**30), memory(None, None)
    ('2.0 GiB', '65.0 of 80.0 GiB', '')
    """
    if peak is None:
        return ""
    of = "" if device is None else f" of {device / 2**30:.1f}"
    return f"{peak / 2**30:.1f}{of} GiB"
