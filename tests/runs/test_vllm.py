"""Runs whose samples vLLM draws, with the stand-in of tests/train/fakes in its place."""

import json
import os

import pytest

from spin_train.data.records import read_records
from tests.train.runs import make_config, run, succeed
from tests.train.sampling.test_vllm_engine import FAKES, SHORT

pytestmark = pytest.mark.process


@pytest.fixture
def installed(monkeypatch):
    """The stand-in on the path of every process of a run."""
    path = os.pathsep.join([str(FAKES), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


def test_a_run_without_vllm_is_refused_before_anything_is_trained(tmp_path):
    config = make_config(tmp_path, generation={"engine": "vllm"})
    code, _, err = run("run", config)
    assert code == 2
    assert "pip install 'spin-toolkit[vllm" in err.strip().splitlines()[-1]
    assert not (tmp_path / "run" / "sft").exists()


def test_two_ranks_sample_through_processes_of_their_own_and_train_on_it(installed, tmp_path):
    succeed("run", make_config(tmp_path, **SHORT, ranks=2))
    folder = tmp_path / "run" / "iter0"
    generated = [
        r for p in sorted((folder / "generations").glob("*.parquet")) for r in read_records(p)
    ]
    assert len(generated) == 60
    recorded = json.loads((folder / "generations" / "settings.json").read_text())
    assert (recorded["engine"], recorded["vllm"]) == ("vllm", "0.30.0")
    assert (folder / "policy" / "model.safetensors").exists()


def test_samples_of_another_distribution_are_refused_unless_told_otherwise(
    installed, tmp_path, monkeypatch
):
    monkeypatch.setenv("FAKE_VLLM", "other distribution")
    config = make_config(tmp_path, **SHORT)
    code, _, err = run("run", config)
    assert code == 2
    assert "generation parity" in err.strip().splitlines()[-1]
    assert not list((tmp_path / "run" / "iter0" / "scored").glob("*.parquet"))
    succeed("run", config, "generation.parity=warn")
    (log,) = sorted((tmp_path / "run" / "logs").glob("*.log"))[1:]
    assert "generation parity" in log.read_text()


def test_too_little_memory_for_vllm_is_for_the_user_to_fix(installed, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM", "no device")
    code, _, err = run("run", make_config(tmp_path, **SHORT))
    assert code == 2
    assert "No available memory for the cache blocks." in err
    assert "generation.vllm_memory" in err
