"""Benchmarks: counts as published, refusals before anything starts, a local task end to end."""

import functools
import importlib.util
import json
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from spin_train.config.changes import changes_of
from spin_train.config.files import load_config, parse_config
from spin_train.driver import selfplay
from spin_train.errors import UserError
from spin_train.model.logps import Group, response_logps
from spin_train.run.run import Run
from spin_train.stages import benchmark, leaderboards
from spin_train.stages.benchmark import run_task, wrapped
from spin_train.stages.leaderboards import (
    LEADERBOARDS,
    BenchmarkTask,
    benchmark_tasks,
    require_benchmarks,
)
from tests.train.runs import make_config, make_model

SMALLEST = {"model": "m", "data": {"path": "rows.jsonl"}, "output_dir": "out"}
FOLDERS = ["arc", "gsm8k", "hellaswag", "leaderboard", "mmlu/default", "truthfulqa", "winogrande"]
# The first choice is right; an untrained model that has a liking gets some of them wrong.
QUESTIONS = [("dcba", ["abcd", "dcba"]), ("hgab", ["abgh", "hgba"]), ("cafe", ["feca", "acef"])]


def config_with(**lm_eval):
    return parse_config(SMALLEST | {"evaluation": {"lm_eval": lm_eval}})


def write_task(folder, *, data="questions.jsonl"):
    """A task of two choices per question, as a user writes it; its data are files next to it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"prompt": prompt, "choices": choices, "answer": 0} for prompt, choices in QUESTIONS]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = {
        "task": "sorted_pair",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}>",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    (folder / "sorted_pair.yaml").write_text(yaml.safe_dump(task))
    return folder


@pytest.fixture
def lm_eval():
    return pytest.importorskip("lm_eval")


@functools.cache
def indexed_tasks():
    from lm_eval import tasks

    root = Path(tasks.__file__).parent
    return tasks.TaskManager(include_path=[root / name for name in FOLDERS], include_defaults=False)


@pytest.fixture
def indexed(lm_eval, monkeypatch):
    """The tasks of the leaderboards: to read lm-eval's other 14,000 files takes ten seconds."""
    monkeypatch.setattr(leaderboards, "task_manager", lambda include_path: indexed_tasks())


def test_few_shot_counts_are_the_published_ones():
    shots = {
        name: {task.name: task.num_fewshot for task in tasks}
        for name, tasks in LEADERBOARDS.items()
    }
    # SPIN, Table 1: ARC 25, TruthfulQA 0, WinoGrande 5, GSM8K 5, HellaSwag 10, MMLU 5.
    assert shots["v1"] == {
        "arc_challenge": 25,
        "truthfulqa_mc2": 0,
        "winogrande": 5,
        "gsm8k": 5,
        "hellaswag": 10,
        "mmlu": 5,
    }
    # T-SPIN: GSM8K 5, MATH 4, MUSR 0, MMLU 5, MMLU-Pro 5, GPQA 0, HellaSwag 10, WinoGrande 5,
    # BBH 3, IFEval 0.
    assert list(shots["tspin"].values()) == [5, 4, 0, 5, 5, 0, 10, 5, 3, 0]
    metrics = {task.name: task.metric for task in LEADERBOARDS["v1"]}
    assert metrics["arc_challenge"] == metrics["hellaswag"] == "acc_norm,none"


def test_lm_eval_knows_every_task_of_the_leaderboards(indexed):
    for leaderboard in LEADERBOARDS:
        require_benchmarks(config_with(leaderboard=leaderboard))


def test_lm_eval_reports_the_metric_of_every_column(indexed):
    """It is looked up by that name in what was found, hours later."""
    from lm_eval.tasks._yaml_loader import load_yaml

    index = indexed_tasks().task_index
    for task in (*LEADERBOARDS["v1"], *LEADERBOARDS["tspin"]):
        content = load_yaml(index[task.name].yaml_path, resolve_func=False)
        listed = content.get("aggregate_metric_list") or content["metric_list"]
        filters = [each["name"] for each in content.get("filter_list", [{"name": "none"}])]
        metric, _, filtered = task.metric.partition(",")
        assert metric in [each["metric"] for each in listed], task
        assert filtered == filters[0], task


def test_lm_evals_own_counts_agree_where_it_fixes_one(indexed):
    """It overrides no task that has 0 in its file, so a preset must not ask for more there."""
    index = indexed_tasks().task_index
    for task in (*LEADERBOARDS["v1"], *LEADERBOARDS["tspin"]):
        path = index[task.name].yaml_path
        text = path.read_text() if path else ""
        for line in text.splitlines():
            if line.startswith("num_fewshot:"):
                assert int(line.partition(":")[2]) == task.num_fewshot, task


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "either tasks or a leaderboard"),
        ({"tasks": []}, "either tasks or a leaderboard"),
        ({"tasks": ["mmlu"], "leaderboard": "v1"}, "either tasks or a leaderboard"),
        ({"leaderboard": "v1", "num_fewshot": 3}, "num_fewshot belongs to tasks"),
        ({"leaderboard": "v2"}, "evaluation.lm_eval.leaderboard"),
        ({"tasks": ["mmlu"], "limit": 0}, "evaluation.lm_eval.limit"),
    ],
)
def test_contradictions_are_refused_by_name(settings, named):
    with pytest.raises(UserError, match=named):
        config_with(**settings)


def test_without_lm_eval_the_extra_is_named_before_anything_starts(tmp_path, monkeypatch):
    path = make_config(tmp_path, evaluation={"lm_eval": {"tasks": ["mmlu"]}})
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "lm_eval" else found(name)
    )
    with pytest.raises(UserError, match=r"pip install 'spin-toolkit\[eval\]'"):
        selfplay.play(Run.of(load_config(path)))
    assert not (tmp_path / "run").exists()


def test_without_benchmarks_nothing_is_looked_for(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", pytest.fail)
    require_benchmarks(parse_config(SMALLEST))


def test_a_misspelt_task_is_refused_with_the_nearest_name(indexed):
    with pytest.raises(UserError, match=r"no task 'helaswag'; did you mean hellaswag\?"):
        require_benchmarks(config_with(tasks=["helaswag"]))


def test_a_missing_include_path_is_named(lm_eval, tmp_path):
    with pytest.raises(UserError, match="no directory"):
        require_benchmarks(config_with(tasks=["mmlu"], include_path=str(tmp_path / "no")))


def test_benchmarks_may_be_added_and_left_out_but_not_changed():
    without, some = parse_config(SMALLEST), config_with(tasks=["mmlu"])
    assert changes_of(without, some) == changes_of(some, without) == []
    assert changes_of(some, config_with(tasks=["mmlu"], batch_size=1)) == []
    (change,) = changes_of(some, config_with(tasks=["gsm8k"]))
    assert change.key == "evaluation.lm_eval.tasks"


def test_a_task_named_twice_is_run_once():
    tasks = benchmark_tasks(config_with(tasks=["a", "b", "a"], num_fewshot=2))
    assert tasks == (BenchmarkTask("a", 2), BenchmarkTask("b", 2))


@pytest.mark.process  # lm-eval asks git for its version
def test_a_local_task_gives_what_the_log_probs_say(lm_eval, tmp_path):
    make_model(tmp_path / "model", seed=3)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tasks = write_task(tmp_path / "tasks")
    config = config_with(tasks=["sorted_pair"], include_path=str(tasks), num_fewshot=0)
    (task,) = benchmark_tasks(config)
    found = run_task(wrapped(model, tokenizer, config), task, config)
    hits = 0
    for prompt, choices in QUESTIONS:
        group = Group(
            tokenizer(prompt + ">")["input_ids"],
            [tokenizer(choice)["input_ids"] for choice in choices],
        )
        right, wrong = response_logps(model, [group]).tolist()
        hits += right > wrong
    assert 0 < hits < len(QUESTIONS)  # else a constant would do
    assert found["value"] == pytest.approx(hits / len(QUESTIONS))
    assert found["metric"] == "acc,none"
    assert (found["questions"], found["num_fewshot"]) == (3, 0)
    assert found["lm_eval_version"] == lm_eval.__version__
    limited = config_with(tasks=["sorted_pair"], include_path=str(tasks), limit=2)
    assert run_task(wrapped(model, tokenizer, limited), task, limited)["questions"] == 2


@pytest.fixture
def asked(lm_eval, monkeypatch):
    """What lm-eval is asked for; it answers at once, to every task alike."""
    asked = {}
    numbers = {"acc,none": 0.5, "acc_stderr,none": 0.2, "alias": "a task"}
    numbers |= {"acc_norm,none": 0.25, "acc_norm_stderr,none": 0.1}

    def evaluate(**given):
        asked.update(given)
        (task,) = given["tasks"]
        return {"results": {task: numbers}, "n-shot": {}, "n-samples": {}, "versions": {}}

    monkeypatch.setattr(lm_eval, "simple_evaluate", evaluate)
    monkeypatch.setattr(benchmark, "task_manager", lambda include_path: include_path)
    return asked


def test_what_the_run_asks_for_reaches_lm_eval(asked):
    settings = {"num_fewshot": 3, "chat_template": True, "limit": 2, "include_path": "tasks"}
    config = config_with(tasks=["a"], **settings)
    found = run_task("model", *benchmark_tasks(config), config)
    assert (asked["model"], asked["tasks"]) == ("model", ["a"])
    assert (asked["num_fewshot"], asked["apply_chat_template"]) == (3, True)
    assert (asked["limit"], asked["task_manager"]) == (2, "tasks")
    assert (found["num_fewshot"], found["chat_template"], found["limit"]) == (3, True, 2)


@pytest.mark.parametrize(
    ("metric", "numbers"),
    [(None, ("acc_norm,none", 0.25, 0.1)), ("acc,none", ("acc,none", 0.5, 0.2))],
)
def test_the_metric_of_the_column_is_taken_or_else_the_most_usual(asked, metric, numbers):
    config = config_with(tasks=["a"])
    found = run_task("model", BenchmarkTask("a", metric=metric), config)
    assert (found["metric"], found["value"], found["standard_error"]) == numbers


def test_data_that_are_not_available_are_named(lm_eval, tmp_path, monkeypatch):
    from lm_eval.tasks import TaskManager

    alone = {"include_defaults": False}  # reading lm-eval's own tasks takes seconds
    monkeypatch.setattr(benchmark, "task_manager", lambda path: TaskManager(None, path, **alone))
    make_model(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tasks = write_task(tmp_path / "tasks", data="gone.jsonl")
    config = config_with(tasks=["sorted_pair"], include_path=str(tasks))
    with pytest.raises(UserError, match="the data of lm-eval task sorted_pair are not available"):
        run_task(wrapped(model, tokenizer, config), benchmark_tasks(config)[0], config)
    templated = config_with(tasks=["sorted_pair"], chat_template=True)
    with pytest.raises(UserError, match="has no chat template"):
        wrapped(model, tokenizer, templated)
