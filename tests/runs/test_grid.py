"""A grid and a run from Python, against single runs of the command line."""

import json
import os

import pytest

from spin_train.api import run
from tests.train.runs import make_config, succeed, weights

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A grid of two rates by the command line, and one of its runs from Python."""
    folder = tmp_path_factory.mktemp("grid")
    config = make_config(folder, iterations=1, control=True)
    flags = ["learning_rate=1e-3,1e-2", "--seeds", "3", "--out", folder / "grid"]
    out = succeed("grid", config, *flags)
    overrides = ["seed=3", "learning_rate=0.01", f"output_dir={folder / 'alone'}"]
    alone = run(config, overrides, progress=False)
    return folder, [config, *flags], out, alone


def test_a_grid_shares_p_0_and_goes_on_and_equals_single_runs(played):
    folder, arguments, out, alone = played
    assert "control 1" in out
    assert out.count("*") >= 2
    slow, quick = folder / "grid/seed3/0.001", folder / "grid/seed3/0.01"
    assert (
        weights(slow)["sft/policy/model.safetensors"]
        == (weights(quick)["sft/policy/model.safetensors"])
    )
    assert weights(folder / "alone") == weights(quick)
    shards = [next((run / "iter0" / "scored").glob("train-*")) for run in (slow, quick)]
    assert os.path.samefile(*shards)  # sampled and scored once for all rates
    content = json.loads((folder / "grid" / "grid.json").read_text())
    by_name = {(c["policy"], c["setting"]): c["values"] for c in content["cells"]}
    assert by_name["p_1", "0.01"] == [alone.evaluations["p_1"]["real_nll_per_token"]]
    assert by_name["control 1", "0.01"] == [alone.evaluations["control 1"]["real_nll_per_token"]]
    assert len(by_name) == 5  # p_0 once
    before = [path.stat().st_mtime_ns for path in sorted(folder.rglob("*.safetensors"))]
    assert succeed("grid", *arguments) == out
    assert [p.stat().st_mtime_ns for p in sorted(folder.rglob("*.safetensors"))] == before


def test_from_python_a_run_is_what_the_command_line_makes(played):
    folder, _, _, result = played
    assert weights(folder / "alone") == weights(folder / "grid/seed3/0.01")
    assert list(result.policies) == ["p_0", "p_1", "control 1"]
    assert result.best.name in ("p_0", "p_1")
    assert set(result.evaluations) == {"p_0", "p_1", "control 1"}
    assert result.table().row_count == 3
    assert result.config.learning_rate == 0.01
    assert result.directory.manifest_file.is_file()
