"""Whole runs on a CUDA device, under each stage of ZeRO; skipped where there is none."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.train.runs import losses, make_config, run, weights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.process,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
KINDS = {
    **{f"zero{stage}": {"zero_stage": stage} for stage in range(4)},
    "zero2 again": {"zero_stage": 2},
    "zero2 in bfloat16": {"zero_stage": 2, "training": {"dtype": "bfloat16"}},
    "zero3 in bfloat16": {"zero_stage": 3, "training": {"dtype": "bfloat16"}},
    "T-SPIN with adapters": {"algorithm": "tspin", "adapter": {"rank": 4}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of runs by their kinds, all played at the same time."""
    folder = tmp_path_factory.mktemp("gpu")

    configs = {
        kind: make_config(folder / kind.replace(" ", "_"), width=64, iterations=1, **changes)
        for kind, changes in KINDS.items()
    }

    def play(kind):
        config = configs[kind]
        code, _, err = run("run", config)
        logs = "".join(path.read_text() for path in (config.parent / "run/logs").glob("*.log"))
        return config.parent / "run", code, f"{err[-2000:]}\n{logs[-4000:]}"

    with ThreadPoolExecutor(len(KINDS)) as pool:
        return dict(zip(KINDS, pool.map(play, KINDS), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_it_plays_to_the_end(runs, kind):
    folder, code, said = runs[kind]
    assert code == 0, said
    assert [row["policy"] for row in results(folder)] == ["p_0", "p_1"]
    assert all(row["real_nll_per_token"] < 5 for row in results(folder))


@pytest.mark.parametrize("kind", ["zero1", "zero2", "zero3"])
def test_stages_of_zero_agree_on_the_first_losses(runs, kind):
    # RMSprop divides by the gradient's size, so that its rounding grows tenfold each step.
    first, other = (losses(runs[name][0], "sft") for name in ("zero0", kind))
    for step in range(1, 6):
        assert other[step] == pytest.approx(first[step], rel=1e-4)


def test_the_same_run_gives_the_same_weights(runs):
    first, again = (weights(runs[kind][0]) for kind in ("zero2", "zero2 again"))
    assert first
    assert first == again


def results(folder):
    return json.loads((folder / "results.json").read_text())
