import json
import math

import pytest

from spin_train.config.files import parse_config
from spin_train.errors import UserError
from spin_train.run.run import Run
from spin_train.run.selection import judged


def test_losses_of_sft_and_of_self_play_are_not_compared(tmp_path):
    run = a_run(tmp_path, [0.1, 2.0, 1.0], metric="loss")
    (tmp_path / "initial" / "evaluation.json").write_text('{"loss": 0.1}')
    assert run.best.name == "p_2"


def a_run(folder, values, **selection):
    """A run with these values of real_nll_per_token: p_0, p_1, ..."""
    for number, value in enumerate(values):
        place = folder / ("initial" if number == 0 else f"iter{number - 1}")
        place.mkdir(parents=True)
        numbers = {"real_nll_per_token": value} | ({"loss": value} if number else {})
        (place / "evaluation.json").write_text(json.dumps(numbers))
    content = {"model": "m", "data": {"path": "d"}, "output_dir": str(folder), "iterations": 5}
    return Run.of(parse_config({**content, "selection": selection}))


def judged_names(run):
    return [found.name for found in judged(run.listed, run.config.selection)]


def test_the_best_is_the_least_and_of_equals_the_earliest(tmp_path):
    best = a_run(tmp_path, [3.0, 1.0, 2.0, 1.0]).best
    assert (best.name, best.value) == ("p_1", 1.0)
    assert best.policy.source == tmp_path / "iter0" / "policy"


@pytest.mark.parametrize(("goal", "sign"), [("min", -1), ("max", 1)])
def test_a_number_that_is_better_by_rounding_alone_is_not_better(tmp_path, goal, sign):
    values = [3.0, 3.0 * (1 + sign * 1e-7), 3.0 * (1 - sign * 1e-7)]
    run = a_run(tmp_path, values, goal=goal, patience=2)
    assert run.best.name == "p_0"
    assert run.iterations_wanted == 2


def test_goal_max_turns_it_round_and_p_0_is_the_model(tmp_path):
    best = a_run(tmp_path, [3.0, 1.0, 2.0], goal="max").best
    assert (best.name, best.policy.source) == ("p_0", "m")


def test_after_sft_p_0_is_what_sft_made(tmp_path):
    run = a_run(tmp_path, [1.0, 2.0])
    tuned = Run.of(parse_config(run.config.model_dump() | {"sft": {"learning_rate": 1e-5}}))
    assert tuned.best.policy.source == tmp_path / "sft" / "policy"


def test_a_control_is_never_the_best(tmp_path):
    run = a_run(tmp_path, [3.0, 2.0])
    (tmp_path / "control" / "iter0").mkdir(parents=True)
    numbers = '{"real_nll_per_token": 1.0}'
    (tmp_path / "control" / "iter0" / "evaluation.json").write_text(numbers)
    beside = Run.of(run.config.model_copy(update={"control": True}))
    assert judged_names(beside) == ["p_0", "p_1"]


@pytest.mark.parametrize(("metric", "best"), [("real_logps", "p_1"), ("margin", "p_1")])
def test_of_what_should_grow_the_most_is_the_best_unless_told_otherwise(tmp_path, metric, best):
    run = a_run(tmp_path, [1.0, 3.0, 2.0], metric=metric)
    for number in (1, 2):
        path = tmp_path / f"iter{number - 1}" / "evaluation.json"
        path.write_text(json.dumps({metric: [1.0, 3.0, 2.0][number]}))
    assert run.best.name == best
    selection = run.config.selection.model_copy(update={"goal": "min"})
    least = Run.of(run.config.model_copy(update={"selection": selection}))
    assert least.best.name == "p_2"


def test_nan_is_never_the_best(tmp_path):
    assert a_run(tmp_path, [math.nan, 2.0, math.nan]).best.name == "p_1"


@pytest.mark.parametrize(
    ("values", "patience", "wanted"),
    [
        ([3.0], 1, 5),  # p_0 alone says nothing
        ([math.nan], 1, 5),
        ([3.0, 2.0, 1.0], 1, 5),
        ([3.0, 3.5], 1, 1),
        ([3.0, 3.0], 1, 1),
        ([3.0, 3.5], 2, 5),
        ([3.0, 3.5, 3.2], 2, 2),
        ([3.0, 3.5, 2.9, 3.1, 3.0], 2, 4),
        ([3.0, 2.0, 2.5], None, 5),
    ],
)
def test_patience_counts_iterations_in_a_row_without_a_better_policy(
    tmp_path, values, patience, wanted
):
    assert a_run(tmp_path, values, patience=patience).iterations_wanted == wanted


def test_a_metric_against_an_opponent_leaves_p_0_out(tmp_path):
    run = a_run(tmp_path, [0.1, 2.0, 1.0], metric="loss")
    assert judged_names(run) == ["p_1", "p_2"]


def test_an_unknown_metric_names_those_there_are(tmp_path):
    with pytest.raises(UserError, match="real_nll_per_token"):
        a_run(tmp_path, [1.0, 2.0], metric="bleu")


def test_a_metric_that_this_run_does_not_measure_names_those_it_does(tmp_path):
    with pytest.raises(UserError, match=r"has no value 'meter'; choose one of loss, real_nll"):
        _ = a_run(tmp_path, [1.0, 2.0], metric="meter").best


def test_best_json_names_policy_and_values(tmp_path):
    content = json.loads(a_run(tmp_path, [3.0, 2.0, 2.5], patience=1).write_best().read_text())
    assert content["best"]["name"] == "p_1"
    assert content["values"] == {"p_0": 3.0, "p_1": 2.0, "p_2": 2.5}
    assert content["stopped_early"]


def test_best_json_names_the_goal_and_says_when_all_iterations_are_wanted(tmp_path):
    path = a_run(tmp_path, [3.0, 3.5, 2.5], patience=2, goal="max").write_best()
    content = json.loads(path.read_text())
    assert (content["metric"], content["goal"]) == ("real_nll_per_token", "max")
    assert content["best"]["value"] == 3.5
    assert not content["stopped_early"]


def test_nothing_is_written_before_the_first_evaluation(tmp_path):
    assert a_run(tmp_path, []).write_best() is None


def with_control(folder, values, control, **selection):
    run = a_run(folder, values, **selection)
    (folder / "control" / "iter0").mkdir(parents=True)
    numbers = {"real_nll_per_token": control}
    (folder / "control" / "iter0" / "evaluation.json").write_text(json.dumps(numbers))
    return Run.of(parse_config(run.config.model_dump() | {"control": True}))


@pytest.mark.parametrize(
    ("control", "goal", "found"),
    [
        (0.03, "min", True),
        (1.0, "min", False),
        (1.0 - 1e-8, "min", False),  # by rounding alone
        (2.0, "min", False),
        (4.0, "max", True),
        (2.0, "max", False),
    ],
)
def test_a_control_that_is_better_than_the_best_policy_is_named(tmp_path, control, goal, found):
    run = with_control(tmp_path, [3.0, 1.0], control, goal=goal)
    assert (run.better_control is not None) == found
    if found:
        assert (run.better_control.name, run.better_control.value) == ("control 1", control)
        assert json.loads(run.write_best().read_text())["better_control"]["name"] == "control 1"
        assert "better than self-play" in "".join(run.table().columns[-1].cells)


def test_losses_of_a_control_and_of_self_play_are_not_compared(tmp_path):
    assert with_control(tmp_path, [3.0, 1.0], 0.1, metric="loss").better_control is None
