"""A grid and a run from Python, against single runs of the command line."""

import json

import pytest

from spin_train.api import run
from tests.train.runs import make_config, succeed, weights

pytestmark = pytest.mark.process


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
    before = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.safetensors"))]
    assert succeed("grid", config, *arguments) == out
    assert [p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("*.safetensors"))] == before


def test_from_python_a_run_is_what_the_command_line_makes(tmp_path):
    from_python = make_config(tmp_path / "python", iterations=1, sft=None)
    result = run(from_python, ["beta=0.7"], progress=False)
    succeed("run", make_config(tmp_path / "line", iterations=1, sft=None), "beta=0.7")
    assert weights(tmp_path / "python" / "run") == weights(tmp_path / "line" / "run")
    assert list(result.policies) == ["p_0", "p_1"]
    assert result.best.name in ("p_0", "p_1")
    assert set(result.evaluations) == {"p_0", "p_1"}
    assert result.table().row_count == 2
    assert result.config.beta == 0.7
    assert result.directory.manifest_file.is_file()
