"""A run that keeps little: what it leaves, what it still shows, and how it goes on."""

import json

import pytest

from spin_train.run.run import Run
from tests.train.runs import make_config, refused, succeed

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Two ranks keep the last iteration alone, and play one more than they first were to."""
    folder = tmp_path_factory.mktemp("keep")
    changes = {"keep": "last", "mixing": 1, "control": True, "ranks": 2}
    succeed("run", make_config(folder, **changes))
    first = list(Run.open(folder / "run").policies)
    config = make_config(folder, iterations=3, **changes)
    out = succeed("run", config)
    return Run.open(folder / "run"), config, first, out


def test_only_the_last_policy_and_its_control_stay_and_all_numbers(played):
    run, _, first, out = played
    assert first == ["p_2", "control 2"]
    assert list(run.policies) == ["p_3", "control 3"]
    names = ["p_0", "p_1", "control 1", "p_2", "control 2", "p_3", "control 3"]
    assert [row["policy"] for row in json.loads(run.directory.results.read_text())] == names
    assert all(name in out for name in names)
    assert not list(run.root.glob("*/policy/*.safetensors"))[1:]


def test_status_names_what_is_gone_and_samples_shows_every_policy(played):
    run = played[0]
    assert "removed by keep: p_0, p_1, control 1, p_2, control 2, samples" in succeed(
        "status", run.root
    )
    shown = succeed("samples", run.root)
    assert all(f"p_{k} " in shown for k in range(4))
    assert "removed by keep" in succeed("samples", run.root, "--split", "train")


def test_a_stage_that_needs_what_is_gone_is_refused_before_workers_start(played):
    saved = played[0].directory.config_file.read_text()
    line = refused("run", played[1], "evaluation.answers.prompts=2")
    assert "initial/answer needs p_0, removed by keep" in line
    assert played[0].directory.config_file.read_text() == saved
