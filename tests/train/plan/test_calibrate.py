"""Time from a cut-down model: the arithmetic by hand, and that layers cost."""

import pytest

from spin_train.config.files import load_config
from spin_train.plan.calibrate import Pace, pace_of, seconds_by_stage
from spin_train.plan.rows import rows_of
from spin_train.plan.work import sampled_by, trained_by
from tests.train.runs import make_config


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_config(tmp_path_factory.mktemp("calibrate"), iterations=1)


def test_seconds_of_stages_by_hand(path):
    config = load_config(path, ["ranks=2", "zero_stage=2"])
    rows = rows_of(config)
    pace = Pace(training=0.01, prompts=0.5, token=0.1, update=1e-3)
    trained, sampled = trained_by(config, rows), sampled_by(config, rows)
    found = seconds_by_stage(config, pace, trained, sampled, weights=1000)
    # 936 tokens on two ranks, and 14 steps with 500 weights of each rank
    assert found["sft/train"] == pytest.approx(936 / 2 * 0.01 + 14 * 0.5)
    # 60 samples by 16 on two ranks are two batches, each of 6 tokens
    assert found["iter0/generate"] == pytest.approx(2 * (0.5 + 6 * 0.1))


def test_more_layers_take_longer(path):
    config = load_config(path)
    rows = rows_of(config)
    found = pace_of(config, rows, trained_by(config, rows)[0], device="cpu")
    assert found.training > 0
    assert found.prompts > 0
    assert found.update > 0
