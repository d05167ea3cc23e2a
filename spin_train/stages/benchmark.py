"""Benchmark: run lm-eval's tasks on the policy of a stage."""

import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

from spin_train.config.schema import Config
from spin_train.errors import StoppedError, UserError, disk_full, one_line
from spin_train.model.loading import load_tokenizer
from spin_train.run.graph import Stage
from spin_train.stages.leaderboards import BenchmarkTask, benchmark_tasks, task_manager
from spin_train.stages.work import Work
from spin_train.system.files import write_json

__all__ = ["benchmark", "run_task", "wrapped"]

_USUAL_METRICS = ("acc_norm", "exact_match", "prompt_level_strict_acc", "acc")


def benchmark(work: Work, stage: Stage) -> list[Path]:
    """Run the tasks that have no file yet on rank 0; the others wait, task by task."""
    run, k = work.run, stage.iteration
    policy = run.control(k + 1) if stage.control else run.policy(k + 1)
    folder = policy.evaluation.parent / "benchmark"
    tasks = benchmark_tasks(work.config)
    judge: Any = None
    for number, task in enumerate(tasks):
        if work.ranks.stop_requested():  # the same answer on all, who meet again below
            raise StoppedError
        work.progress.report(stage.name, number, len(tasks), task.name)
        path = folder / f"{task.name}.json"
        if work.ranks.is_first and not path.exists():
            judge = judge or wrapped(work.load(policy), load_tokenizer(work.config), work.config)
            write_json(path, run_task(judge, task, work.config))
        work.ranks.barrier()
    return sorted(folder.glob("*.json")) if work.ranks.is_first else []


def wrapped(model: Any, tokenizer: Any, config: Config) -> Any:
    """Wrap a policy for lm-eval, on this rank alone whatever the number of ranks.

    A chat template that is asked for where the tokenizer has none is a `UserError`.
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


def run_task(judged: Any, task: BenchmarkTask, config: Config) -> dict[str, Any]:
    """Ask a policy, from `wrapped`, the questions of one task.

    Returns the value of the task's metric with its standard error, all other metrics, and what
    they rest on: examples before a question, number of questions, template, versions
    of task and lm-eval. Data of the task that cannot be reached are a `UserError`.
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
            task_manager=task_manager(settings.include_path),
            log_samples=False,
        )
    except OSError as error:
        if disk_full(error):
            raise
        line = one_line(error)
        raise UserError(
            f"the data of lm-eval task {task.name} are not available ({line}): make them "
            "reachable or remove the task, then run the same command again"
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
