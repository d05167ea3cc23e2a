import json
import math

import pytest

from spin_train import grid
from spin_train.api import run
from spin_train.cli import app
from spin_train.config.files import parse_config
from spin_train.driver import selfplay
from spin_train.errors import DivergedError, UserError
from spin_train.grid import Cell, best_cells, cells, grid_table, play_grid
from spin_train.run.run import Run
from tests.train.runs import make_config


def test_best_and_spread_are_of_the_mean_over_seeds():
    found = [
        Cell("p_1", "0.1", (1.0, 5.0)),  # holds the best value, and is not the best
        Cell("p_1", "0.2", (2.0, 2.5)),
        Cell("control 1", "0.1", (1.0, 2.0)),
        Cell("control 1", "0.2", (3.0, 1.0)),
    ]
    assert [cell.setting for cell in best_cells(found, goal="min")] == ["0.2", "0.1"]
    assert [cell.setting for cell in best_cells(found, goal="max")] == ["0.1", "0.2"]
    assert found[2].spread == pytest.approx(math.sqrt(0.5))
    assert Cell("p_1", "0.1", (1.0,)).spread is None


def test_a_policy_that_some_rates_lack_stands_under_its_own_rate():
    found = [
        Cell("p_0", None, (3.0,)),
        Cell("p_1", "0.1", (2.0,)),
        Cell("p_1", "0.2", (1.5,)),
        Cell("p_2", "0.2", (1.0,)),
    ]
    table = grid_table(found, metric="loss", goal="min")
    columns = [list(column.cells) for column in table.columns]
    assert columns == [
        ["p_0", "p_1", "p_2"],
        ["3.0000", "2.0000", ""],
        ["", "1.5000 *", "1.0000 *"],
    ]
    table = grid_table(found, metric="accuracy", goal="max")
    assert list(table.columns[1].cells) == ["3.0000", "2.0000 *", ""]


def played_or(error, diverging):
    """Stand-in for `selfplay.play`: `error` at the learning rate `diverging`."""

    def play(run, watch=None):
        if run.config.learning_rate == diverging:
            raise error
        for place, value in (("initial", 2.0), ("iter0", 1.0), ("control/iter0", 1.5)):
            folder = run.root / place
            folder.mkdir(parents=True)
            (folder / "evaluation.json").write_text(json.dumps({"real_nll_per_token": value}))

    return play


def test_a_rate_that_diverges_is_noted_and_the_others_are_played(tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "branch", lambda *arguments, **options: None)
    monkeypatch.setattr(selfplay, "play", played_or(DivergedError("the loss is nan"), 10.0))
    config = make_config(tmp_path, iterations=1)
    cells, failures = play_grid(
        config, tmp_path / "grid", axes={"learning_rate": ["0.1", "10", "0.2"]}, seeds=[0]
    )
    assert [(failure.seed, failure.setting) for failure in failures] == [(0, "10")]
    assert {cell.setting for cell in cells if cell.policy == "p_1"} == {"0.1", "0.2"}
    text = (tmp_path / "grid" / "grid.json").read_text()
    assert "NaN" not in text  # JSON has none
    content = json.loads(text)
    assert content["failed"] == [{"seed": 0, "setting": "10", "error": "the loss is nan"}]


def test_a_rate_that_diverged_is_no_beginning_for_another(tmp_path, monkeypatch):
    """Its SFT may be what diverged."""
    begun = []
    monkeypatch.setattr(grid, "branch", lambda source, target, **options: begun.append(source.name))
    monkeypatch.setattr(selfplay, "play", played_or(DivergedError("the loss is nan"), 0.1))
    config = make_config(tmp_path, iterations=1)
    play_grid(config, tmp_path / "grid", axes={"learning_rate": ["0.1", "0.2", "0.3"]}, seeds=[0])
    assert begun == ["0.2"]


def test_a_grid_of_which_all_diverged_has_an_empty_table():
    assert grid_table([], metric="meter", goal="min").row_count == 0


def test_nan_is_never_the_best_of_a_grid():
    found = [Cell("p_1", "0.1", (math.nan,)), Cell("p_1", "0.2", (1.0,))]
    assert best_cells(found, goal="min") == best_cells(found, goal="max") == [found[1]]


@pytest.fixture
def played(tmp_path, monkeypatch):
    """A grid of two rates and two seeds that is only noted: its runs, and who began with whom."""
    runs, branches, out = [], [], tmp_path / "grid"

    def note(source, target, *, at, overrides):
        branches.append((str(source.relative_to(out)), str(target.relative_to(out)), at))

    monkeypatch.setattr(grid, "branch", note)
    monkeypatch.setattr(selfplay, "play", lambda run, watch=None: runs.append(run.config))
    config = make_config(tmp_path, selection={"patience": 1, "goal": "max"})
    numbers = {"axes": {"learning_rate": ["0.1", "0.12345678", "0.1"]}, "seeds": [3, 4, 3]}
    play_grid(config, out, **numbers, overrides=["beta=0.7", "control=false"])
    return out, runs, branches


def test_every_rate_is_played_once_with_every_seed(played):
    out, runs, _ = played
    assert [(run.seed, run.learning_rate) for run in runs] == [
        (3, 0.1),
        (3, 0.12345678),
        (4, 0.1),
        (4, 0.12345678),
    ]
    assert [run.output_dir for run in runs] == [
        str(out / place) for place in ("seed3/0.1", "seed3/0.123457", "seed4/0.1", "seed4/0.123457")
    ]


def test_every_run_of_a_grid_has_its_control_all_iterations_and_what_is_overridden(played):
    assert all(run.control and run.selection.patience is None for run in played[1])
    assert {run.beta for run in played[1]} == {0.7}


def test_every_combination_of_several_keys_is_a_setting(tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr(grid, "branch", lambda *arguments, **options: None)
    monkeypatch.setattr(selfplay, "play", lambda run, watch=None: runs.append(run.config))
    axes = {"beta": ["0.1", "1"], "generation.temperature": ["0.7", "1.0"]}
    play_grid(make_config(tmp_path), tmp_path / "grid", axes=axes, seeds=[0])
    assert [(run.beta, run.generation.temperature) for run in runs] == [
        (0.1, 0.7),
        (0.1, 1.0),
        (1.0, 0.7),
        (1.0, 1.0),
    ]
    assert len({run.output_dir for run in runs}) == 4
    assert runs[1].output_dir.endswith("seed0/beta=0.1,generation.temperature=1")


def test_what_another_p_0_needs_is_not_borrowed(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(grid, "branch", lambda source, target, **options: begun.append(target))
    monkeypatch.setattr(selfplay, "play", lambda run, watch=None: None)
    axes = {"data.held_out": ["4", "8"]}
    play_grid(make_config(tmp_path), tmp_path / "grid", axes=axes, seeds=[0])
    assert begun == []


def test_a_p_0_that_keep_has_removed_is_not_borrowed(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(grid, "branch", lambda source, target, **options: begun.append(target))
    monkeypatch.setattr(selfplay, "play", lambda run, watch=None: None)
    monkeypatch.setattr(Run, "has_removed", lambda run, policy: policy.name == "p_0")
    axes = {"beta": ["0.1", "1"]}
    play_grid(make_config(tmp_path), tmp_path / "grid", axes=axes, seeds=[0])
    assert begun == []


def test_a_p_0_that_differs_between_settings_stands_under_each(tmp_path):
    runs = {
        s: [a_run(tmp_path / s, {"initial": v, "iter0": 1.0})] for s, v in (("a", 2.0), ("b", 3.0))
    }
    assert cells(runs)[:2] == [Cell("p_0", "a", (2.0,)), Cell("p_0", "b", (3.0,))]


def test_rates_of_one_seed_share_its_beginning_and_seeds_share_nothing(played):
    assert played[2] == [("seed3/0.1", "seed3/0.123457", 0), ("seed4/0.1", "seed4/0.123457", 0)]


def test_the_goal_stands_in_grid_json(played):
    content = json.loads((played[0] / "grid.json").read_text())
    assert (content["metric"], content["goal"]) == ("real_nll_per_token", "max")


def a_run(folder, values, **changes):
    """A run with these values of real_nll_per_token, by place."""
    for place, value in values.items():
        (folder / place).mkdir(parents=True)
        numbers = json.dumps({"real_nll_per_token": value})
        (folder / place / "evaluation.json").write_text(numbers)
    content = {"model": "m", "data": {"path": "d"}, "output_dir": str(folder), "control": True}
    return Run.of(parse_config(content | changes))


def test_losses_of_sft_and_of_self_play_are_not_compared(tmp_path):
    config = a_run(tmp_path, {"initial": 2.5, "iter0": 0.6}, selection={"metric": "loss"})
    for place in ("initial", "iter0"):
        (tmp_path / place / "evaluation.json").write_text('{"loss": 1.0}')
    assert [cell.policy for cell in cells({"0.1": [config]})] == ["p_1"]


def test_a_cell_holds_the_numbers_of_its_policy_and_rate_one_a_seed(tmp_path):
    played = {
        rate: [
            a_run(
                tmp_path / f"{rate}-{seed}",
                {"initial": seed, "iter0": 10 * rate + seed, "control/iter0": 20 * rate + seed},
            )
            for seed in (0.25, 0.5)
        ]
        for rate in (1.0, 2.0)
    }
    assert cells({str(rate): runs for rate, runs in played.items()}) == [
        Cell("p_0", None, (0.25, 0.5)),
        Cell("p_1", "1.0", (10.25, 10.5)),
        Cell("control 1", "1.0", (20.25, 20.5)),
        Cell("p_1", "2.0", (20.25, 20.5)),
        Cell("control 1", "2.0", (40.25, 40.5)),
    ]


def test_a_rate_that_diverged_with_one_seed_has_no_cell_of_the_others(tmp_path):
    whole = a_run(tmp_path / "whole", {"initial": 3.0, "iter0": 2.0, "iter1": 1.0})
    diverged = a_run(tmp_path / "diverged", {"initial": 3.5, "iter0": 2.5})
    found = cells({"0.1": [whole, diverged]})
    assert found == [Cell("p_0", None, (3.0, 3.5)), Cell("p_1", "0.1", (2.0, 2.5))]


def test_any_other_error_ends_a_grid(tmp_path, monkeypatch):
    monkeypatch.setattr(selfplay, "play", played_or(UserError("the disk is full"), 0.1))
    with pytest.raises(UserError, match="disk"):
        play_grid(
            make_config(tmp_path), tmp_path / "grid", axes={"learning_rate": ["0.1"]}, seeds=[0]
        )


def test_an_empty_or_unreadable_grid_is_one_line(tmp_path):
    config = make_config(tmp_path)
    with pytest.raises(UserError, match="at least one"):
        play_grid(config, tmp_path / "grid", axes={}, seeds=[0])
    alike = {"learning_rate": ["0.12345678", "0.123456789"]}
    with pytest.raises(UserError, match="look alike"):
        play_grid(config, tmp_path / "grid", axes=alike, seeds=[0])
    flags = ["beta=1,2", "--seeds", "1;2", "--out", str(tmp_path / "grid")]
    with pytest.raises(UserError, match="list of numbers"):
        app(["grid", str(config), *flags], standalone_mode=False)


def test_policies_are_those_made_so_far_each_under_its_name(tmp_path):
    for place in ("iter0", "iter1", "control/iter0"):
        (tmp_path / place / "policy").mkdir(parents=True)
    run = a_run(tmp_path, {}, iterations=3, control=True)
    assert {name: policy.source for name, policy in run.policies.items()} == {
        "p_0": "m",
        "p_1": tmp_path / "iter0" / "policy",
        "control 1": tmp_path / "control" / "iter0" / "policy",
        "p_2": tmp_path / "iter1" / "policy",
    }


def test_a_mapping_is_run_with_its_overrides_and_quietly_where_asked(monkeypatch):
    seen = []
    monkeypatch.setattr(
        selfplay, "play", lambda run, watch=None, before=None: seen.append((run.config, watch))
    )
    content = {"model": "m", "data": {"path": "d"}, "output_dir": "o", "beta": 0.1}
    quiet, shown = run(content, ["beta=0.7"], progress=False), run(content, ["beta=0.7"])
    assert [config for config, _ in seen] == [quiet.config, shown.config]
    assert quiet.config.beta == shown.config.beta == 0.7
    assert [watch is None for _, watch in seen] == [True, False]
    assert run(content, "beta=0.7", progress=False).config == quiet.config


def test_overrides_leave_a_mapping_as_it_was():
    content = {"model": "m", "data": {"path": "nowhere.jsonl"}, "output_dir": "/dev/null/no"}
    with pytest.raises(UserError):
        run(content, ["data.held_out=4"], progress=False)
    assert content["data"] == {"path": "nowhere.jsonl"}
