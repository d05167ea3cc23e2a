"""Benchmarks as stages of a run."""

import json

import pytest

from spin_train.config.files import load_config
from spin_train.run.run import Run
from spin_train.run.tables import benchmark_table
from tests.runs.test_metrics import glossary
from tests.train.runs import make_config, succeed
from tests.train.stages.test_benchmark import write_task

pytestmark = pytest.mark.process


@pytest.fixture
def lm_eval():
    return pytest.importorskip("lm_eval")


def test_every_policy_of_a_run_is_benchmarked_task_by_task(lm_eval, tmp_path):
    """Two ranks; benchmarks come to a run that is finished without them; nothing else is redone."""
    changes = {"sft": None, "iterations": 1, "ranks": 2, "control": True}
    config = make_config(tmp_path, **changes)
    succeed("run", config)
    root = tmp_path / "run"
    before = json.loads((root / "manifest.json").read_text())["stages"]
    # As after a kill in the middle of the stage: what was found stays.
    kept = root / "initial" / "benchmark" / "sorted_pair.json"
    kept.parent.mkdir()
    kept.write_text('{"value": 0.125, "lm_eval_version": "0.4.13"}')
    tasks = write_task(tmp_path / "tasks")
    benchmarks = {"tasks": ["sorted_pair"], "include_path": str(tasks)}
    config = make_config(tmp_path, **changes, evaluation={"lm_eval": benchmarks})
    out = succeed("run", config)
    stages = json.loads((root / "manifest.json").read_text())["stages"]
    assert stages.keys() - before.keys() == {
        *("initial/benchmark", "iter0/benchmark", "control/iter0/benchmark")
    }
    assert all(stages[name] == before[name] for name in before)
    values = {"initial": 12.5}
    for folder in ("iter0", "control/iter0"):
        found = json.loads((root / folder / "benchmark" / "sorted_pair.json").read_text())
        assert found.keys() <= glossary()
        values[folder] = 100 * found["value"]
    table = benchmark_table(Run.of(load_config(config)).listed)
    assert list(table.columns[1].cells) == [f"{value:.2f}" for value in values.values()]
    assert "lm-eval 0.4" in out
    rows = json.loads((root / "results.json").read_text())
    assert rows[1]["benchmarks"]["sorted_pair"]["metric"] == "acc,none"
