"""Greedy answers as stages of a run."""

import json

import pytest

from spin_train.data.records import read_records
from spin_train.run.run import Run
from tests.runs.test_metrics import glossary
from tests.train.runs import make_config, succeed

pytestmark = pytest.mark.process

FINAL = {"evaluation": {"answers": {"final": "^(.)", "prompts": 6}}}
FOLDERS = ("initial", "iter0", "control/iter0")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that is finished, and then gets answers; its stages before, its last output."""
    folder = tmp_path_factory.mktemp("answers")
    changes = {"iterations": 1, "control": True, "ranks": 2}
    succeed("run", make_config(folder, **changes))
    before = json.loads((folder / "run" / "manifest.json").read_text())["stages"]
    return folder / "run", before, succeed("run", make_config(folder, **changes, **FINAL))


def test_answers_come_to_a_finished_run_and_nothing_else_is_done_again(finished):
    root, before, _ = finished
    after = json.loads((root / "manifest.json").read_text())["stages"]
    assert after.keys() - before.keys() == {f"{folder}/answer" for folder in FOLDERS}
    assert all(after[name] == before[name] for name in before)


def test_the_exact_matches_are_those_of_the_texts_that_samples_shows(finished):
    root, _, out = finished
    shown = [json.loads(line) for line in succeed("samples", root, "--json").splitlines()]
    run = Run.open(root)
    for policy in run.listed:
        counted = policy.answers
        asked = [answer for answer in shown if policy.name in answer["greedy"]]
        assert len(asked) == counted["prompts"] == len(read_records(policy.greedy_file)) == 6
        right = [
            answer["greedy"][policy.name]["response"][:1] == answer["human"][0][0]
            for answer in asked
        ]
        assert counted["exact_match"] == sum(right) / 6
        assert counted["exact_match_low"] < counted["exact_match"] + 1e-12
        assert counted.keys() <= glossary()
        assert counted["compared"] == 6
        assert f"{100 * counted['exact_match']:.1f} %" in out
    # Trained on sorted symbols, the last policy gets some of the first ones right.
    assert run.policy(1).answers["exact_match"] > 0
    rows = json.loads((root / "results.json").read_text())
    assert [row["answers"] for row in rows] == [policy.answers for policy in run.listed]


def test_samples_shows_the_last_policy_and_the_control_next_to_the_opponent(finished):
    text = succeed("samples", finished[0], "--prompts", "1")
    for name in ("p_0", "p_1", "p_0, greedy", "p_1, greedy", "control 1, greedy"):
        assert f"\n{name} " in text
