import json
import math

import pytest

from spin_train.api import run
from spin_train.artifacts import RunDirectory
from spin_train.errors import UserError
from spin_train.grid import Cell, best_cells, grid_table, play_grid
from tests.train.runs import make_config, succeed, weights
from tests.train.test_run import refused


def test_best_and_spread_are_of_the_mean_over_seeds():
    found = [
        Cell("p_1", 0.1, (1.0, 5.0)),  # holds the best value, and is not the best
        Cell("p_1", 0.2, (2.0, 2.5)),
        Cell("control 1", 0.1, (1.0, 2.0)),
        Cell("control 1", 0.2, (3.0, 1.0)),
    ]
    assert [cell.learning_rate for cell in best_cells(found, goal="min")] == [0.2, 0.1]
    assert [cell.learning_rate for cell in best_cells(found, goal="max")] == [0.1, 0.2]
    assert found[2].spread == pytest.approx(math.sqrt(0.5))
    assert math.isnan(Cell("p_1", 0.1, (1.0,)).spread)


def test_a_policy_that_some_rates_lack_stands_under_its_own_rate():
    found = [
        Cell("p_0", math.nan, (3.0,)),
        Cell("p_1", 0.1, (2.0,)),
        Cell("p_1", 0.2, (1.5,)),
        Cell("p_2", 0.2, (1.0,)),
    ]
    table = grid_table(found, metric="loss", goal="min")
    columns = [list(column.cells) for column in table.columns]
    assert columns == [
        ["p_0", "p_1", "p_2"],
        ["3.0000", "2.0000", ""],
        ["", "1.5000 *", "1.0000 *"],
    ]


@pytest.mark.slow
def test_a_grid_shares_p_0_and_goes_on_and_equals_single_runs(tmp_path):
    config = make_config(tmp_path, iterations=1, control=True)
    arguments = ["--learning-rates", "1e-3,1e-2", "--seeds", "3", "--out", tmp_path / "grid"]
    out = succeed("grid", config, *arguments)
    assert "control 1" in out
    assert out.count("*") >= 2
    slow, quick = tmp_path / "grid/seed3/0.001", tmp_path / "grid/seed3/0.01"
    assert (
        weights(slow)["sft/policy/model.safetensors"]
        == (weights(quick)["sft/policy/model.safetensors"])
    )
    alone = run(config, ["seed=3", "learning_rate=0.01", f"output_dir={tmp_path / 'alone'}"])
    assert weights(tmp_path / "alone") == weights(quick)
    content = json.loads((tmp_path / "grid" / "grid.json").read_text())
    by_name = {(c["policy"], c["learning_rate"]): c["values"] for c in content["cells"]}
    assert by_name["p_1", 0.01] == [alone.evaluations["p_1"]["real_nll_per_token"]]
    assert by_name["control 1", 0.01] == [alone.evaluations["control 1"]["real_nll_per_token"]]
    assert len(by_name) == 5  # p_0 once
    before = (quick / "manifest.json").stat().st_mtime_ns
    assert succeed("grid", config, *arguments) == out
    assert (quick / "iter0/policy/model.safetensors").stat().st_mtime_ns < before + 10**10


def test_an_empty_or_unreadable_grid_is_one_line(tmp_path):
    config = make_config(tmp_path)
    with pytest.raises(UserError, match="at least one"):
        play_grid(config, tmp_path / "grid", learning_rates=[], seeds=[0])
    line = refused("grid", config, "--learning-rates", "1e-3;1e-4", "--out", tmp_path / "grid")
    assert "list of numbers" in line


@pytest.mark.slow
def test_from_python_a_run_is_what_the_command_line_makes(tmp_path):
    from_python = make_config(tmp_path / "python", iterations=1, sft=None)
    result = run(from_python, ["beta=0.7"], progress=False)
    succeed("run", make_config(tmp_path / "line", iterations=1, sft=None), "beta=0.7")
    assert weights(tmp_path / "python" / "run") == weights(tmp_path / "line" / "run")
    assert list(result.policies) == ["p_1"]
    assert result.best.name in ("p_0", "p_1")
    assert set(result.evaluations) == {"p_0", "p_1"}
    assert result.table().row_count == 2
    assert result.config.beta == 0.7
    assert RunDirectory(result.config.output_dir).manifest.is_file()


def test_overrides_leave_a_mapping_as_it_was():
    content = {"model": "m", "data": {"path": "nowhere.jsonl"}, "output_dir": "/dev/null/no"}
    with pytest.raises(UserError):
        run(content, ["data.held_out=4"], progress=False)
    assert content["data"] == {"path": "nowhere.jsonl"}
