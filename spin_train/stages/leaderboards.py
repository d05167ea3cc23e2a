"""Benchmarks of lm-evaluation-harness: which tasks, how many examples before a question.

Light to import: the driver checks here, before anything is loaded, that they can be run.
"""

import difflib
import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spin_train.config.schema import Config
from spin_train.errors import UserError

__all__ = [
    "LEADERBOARDS",
    "BenchmarkTask",
    "benchmark_tasks",
    "require_benchmarks",
    "task_manager",
]


@dataclass(frozen=True)
class BenchmarkTask:
    """One column of a leaderboard."""

    name: str
    """In lm-eval; a task or a group."""
    num_fewshot: int | None = None
    """Examples before each question; None is the task's own number."""
    metric: str | None = None
    """Metric and filter, as lm-eval names them; None is the first of those usual."""


LEADERBOARDS = {
    # Open LLM Leaderboard v1, as in Table 1 of SPIN (arXiv:2401.01335).
    "v1": (
        BenchmarkTask("arc_challenge", 25, "acc_norm,none"),
        BenchmarkTask("truthfulqa_mc2", 0, "acc,none"),
        BenchmarkTask("winogrande", 5, "acc,none"),
        BenchmarkTask("gsm8k", 5, "exact_match,strict-match"),
        BenchmarkTask("hellaswag", 10, "acc_norm,none"),
        BenchmarkTask("mmlu", 5, "acc,none"),
    ),
    # The ten tasks of T-SPIN (arXiv:2601.08198); where Open LLM Leaderboard v2 has one of that
    # name and that count, its version is taken.
    "tspin": (
        BenchmarkTask("gsm8k", 5, "exact_match,strict-match"),
        BenchmarkTask("leaderboard_math_hard", 4, "exact_match,none"),
        BenchmarkTask("leaderboard_musr", 0, "acc_norm,none"),
        BenchmarkTask("mmlu", 5, "acc,none"),
        BenchmarkTask("leaderboard_mmlu_pro", 5, "acc,none"),
        BenchmarkTask("leaderboard_gpqa", 0, "acc_norm,none"),
        BenchmarkTask("hellaswag", 10, "acc_norm,none"),
        BenchmarkTask("winogrande", 5, "acc,none"),
        BenchmarkTask("leaderboard_bbh", 3, "acc_norm,none"),
        BenchmarkTask("leaderboard_ifeval", 0, "prompt_level_strict_acc,none"),
    ),
}


def benchmark_tasks(config: Config) -> tuple[BenchmarkTask, ...]:
    """List the tasks that a run asks for, in order; none without `evaluation.lm_eval`."""
    settings = config.evaluation.lm_eval
    if settings is None:
        return ()
    if settings.leaderboard:
        return LEADERBOARDS[settings.leaderboard]
    names = dict.fromkeys(settings.tasks or ())
    return tuple(BenchmarkTask(name, settings.num_fewshot) for name in names)


def require_benchmarks(config: Config) -> None:
    """Check, before anything is trained, that the benchmarks can be run.

    Raises `UserError` if lm-eval is not installed, `include_path` is not a directory, or a task is
    unknown. Without `evaluation.lm_eval` nothing is imported.
    """
    settings = config.evaluation.lm_eval
    if settings is None:
        return
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "evaluation.lm_eval needs lm-eval, which is not installed: "
            "pip install 'spin-toolkit[eval]', or remove evaluation.lm_eval"
        )
    if settings.include_path and not Path(settings.include_path).is_dir():
        raise UserError(
            f"evaluation.lm_eval.include_path: there is no directory {settings.include_path}"
        )
    known = task_manager(settings.include_path).task_index
    for task in benchmark_tasks(config):
        if task.name not in known:
            close = difflib.get_close_matches(task.name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(f"evaluation.lm_eval: lm-eval has no task {task.name!r}{hint}")


@functools.cache
def task_manager(include_path: str | None) -> Any:
    """All known tasks; reading their files takes seconds, once per process."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path)
