"""Benchmarks of lm-evaluation-harness: which tasks, how many examples before a question."""

import difflib
import functools
import importlib.util
import logging
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spin_train.errors import UserError, disk_full, one_line

if TYPE_CHECKING:
    from spin_train.config.schema import Config

__all__ = [
    "LEADERBOARDS",
    "BenchmarkTask",
    "benchmark_tasks",
    "require_benchmarks",
    "run_task",
    "wrapped",
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
_USUAL_METRICS = ("acc_norm", "exact_match", "prompt_level_strict_acc", "acc")


def benchmark_tasks(config: "Config") -> tuple[BenchmarkTask, ...]:
    """Tasks that a run asks for.

    Parameters
    ----------
    config : Config
        The run's.

    Returns
    -------
    tuple of BenchmarkTask
        In the order they are run; empty without `evaluation.lm_eval`.
    """
    settings = config.evaluation.lm_eval
    if settings is None:
        return ()
    if settings.leaderboard:
        return LEADERBOARDS[settings.leaderboard]
    names = dict.fromkeys(settings.tasks or ())
    return tuple(BenchmarkTask(name, settings.num_fewshot) for name in names)


def require_benchmarks(config: "Config") -> None:
    """Check, before anything is trained, that the benchmarks can be run.

    Parameters
    ----------
    config : Config
        The run's; without `evaluation.lm_eval` nothing is imported.

    Raises
    ------
    UserError
        If lm-eval is not installed, `include_path` is no directory, or a task is unknown.
    """
    settings = config.evaluation.lm_eval
    if settings is None:
        return
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "evaluation.lm_eval needs lm-eval, which is not installed: "
            "pip install -e '.[eval]', or leave evaluation.lm_eval out"
        )
    if settings.include_path and not Path(settings.include_path).is_dir():
        raise UserError(f"evaluation.lm_eval.include_path: no directory {settings.include_path}")
    known = _task_manager(settings.include_path).task_index
    for task in benchmark_tasks(config):
        if task.name not in known:
            close = difflib.get_close_matches(task.name, known, n=1)
            hint = f"; {close[0]}?" if close else ""
            raise UserError(f"evaluation.lm_eval: lm-eval knows no task {task.name!r}{hint}")


def wrapped(model: Any, tokenizer: Any, config: "Config") -> Any:
    """Make a policy something that lm-eval can question.

    Parameters
    ----------
    model : PreTrainedModel
        The policy, on its device.
    tokenizer : PreTrainedTokenizerBase
        The run's.
    config : Config
        The run's.

    Returns
    -------
    lm_eval.models.huggingface.HFLM
        For `run_task`; on this rank alone, whatever the number of ranks.

    Raises
    ------
    UserError
        If a chat template is asked for and the tokenizer has none.
    """
    from lm_eval.models.huggingface import HFLM

    settings = config.evaluation.lm_eval
    assert settings is not None
    if settings.chat_template and tokenizer.chat_template is None:
        raise UserError(
            f"evaluation.lm_eval.chat_template: the tokenizer of {config.model} has no chat "
            "template; set it to false"
        )
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=settings.batch_size)


def run_task(judged: Any, task: BenchmarkTask, config: "Config") -> dict[str, Any]:
    """Ask a policy the questions of one task.

    Parameters
    ----------
    judged : lm_eval.models.huggingface.HFLM
        From `wrapped`.
    task : BenchmarkTask
        Which.
    config : Config
        The run's.

    Returns
    -------
    dict
        Value of the task's metric and its standard error, all other metrics, and what they rest
        on: examples before a question, questions, template, versions of task and lm-eval.

    Raises
    ------
    UserError
        If the task's data cannot be had.
    """
    from lm_eval import simple_evaluate

    settings = config.evaluation.lm_eval
    assert settings is not None
    limit = settings.limit
    try:
        found: Any = simple_evaluate(
            model=judged,
            tasks=[task.name],
            num_fewshot=task.num_fewshot,
            limit=limit if limit is None or limit < 1 else int(limit),
            apply_chat_template=settings.chat_template,
            task_manager=_task_manager(settings.include_path),
            log_samples=False,
        )
    except OSError as error:
        if disk_full(error):
            raise
        line = one_line(error)
        raise UserError(
            f"lm-eval cannot have the data of {task.name} ({line}): make them reachable, or leave "
            "the task out; then the same command goes on"
        ) from None
    numbers = {
        name: value for name, value in found["results"][task.name].items() if _is_number(value)
    }
    metric = task.metric or _first_metric(numbers)
    return {
        "task": task.name,
        "metric": metric,
        "value": numbers.get(metric),
        "standard_error": numbers.get(metric.replace(",", "_stderr,")),
        "num_fewshot": found["n-shot"].get(task.name, task.num_fewshot),
        "questions": sum(count["effective"] for count in found["n-samples"].values()),
        "limit": limit,
        "chat_template": settings.chat_template,
        "task_version": found["versions"].get(task.name),
        "lm_eval_version": version("lm_eval"),
        "metrics": numbers,
    }


@functools.cache
def _task_manager(include_path: str | None) -> Any:
    """All tasks there are: seconds for their files, once a process."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _first_metric(numbers: dict[str, Any]) -> str:
    """Choose the most usual of the metrics that a task reports."""
    names = [name for name in numbers if "," in name and "_stderr," not in name]
    for usual in _USUAL_METRICS:
        for name in names:
            if name.partition(",")[0] == usual:
                return name
    return names[0] if names else ""
