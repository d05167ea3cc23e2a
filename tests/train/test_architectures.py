"""Models of many types go through a whole iteration, in whichever way is exact on them."""

import pytest

from benchmarks.architectures import Outcome, one_iteration, table
from tests.strategies import QUICK

# States, hybrids of states and attention, experts, windows in the mask alone, heads of their own.
KINDS = [
    "bamba",
    "doge",
    "falcon_h1",
    "gpt_oss",
    "granitemoehybrid",
    "jamba",
    "lfm2",
    "mamba2",
    "mixtral",
    "modernbert-decoder",
    "opt",
    "phimoe",
    "qwen3_5_text",
    "qwen3_next",
    "zamba2",
]


@pytest.mark.parametrize("kind", KINDS[::3] if QUICK else KINDS)
def test_a_type_of_model_runs_whole(kind, tmp_path):
    assert one_iteration(kind, tmp_path).verdict == "runs"


def test_the_table_counts_what_runs():
    lines = table([Outcome("a", "s", "t"), Outcome("b", verdict="refused: no")]).splitlines()
    assert lines[0].startswith("1 of 2 types run")
    assert lines[-2:] == ["| a | s | t | runs |", "| b |  |  | refused: no |"]
