import importlib.metadata
import re

import pytest

from spin_train import grid
from spin_train.cli import app
from spin_train.errors import UserError
from tests.train.runs import make_config


def test_version_is_that_of_the_package(capsys):
    app(["--version"], standalone_mode=False)
    assert capsys.readouterr().out == f"spin-train {importlib.metadata.version('spin-toolkit')}\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "learning_rate=1e-6,3e-6"),
        (["--learning-rates", "1e-6,3e-6"], "write learning_rate=1e-6,3e-6"),
        (["seed=0,1"], "--seeds 0,1"),
        (["beta=0.1,"], "beta=0.1,: a value of the grid is empty"),
    ],
)
def test_what_is_no_grid_is_one_line_that_says_what_to_write(given, message):
    with pytest.raises(UserError, match=re.escape(message)):
        app(["grid", "config.yaml", *given], standalone_mode=False)


@pytest.mark.parametrize(("given", "seeds"), [([], [42]), (["--seeds", "3,4"], [3, 4])])
def test_a_grid_takes_the_seed_of_the_configuration(tmp_path, monkeypatch, given, seeds):
    played = []
    monkeypatch.setattr(grid, "play_grid", lambda *_, **options: played.append(options) or ([], []))
    config = str(make_config(tmp_path))
    app(["grid", config, "learning_rate=0.1,0.2", "beta=2", *given], standalone_mode=False)
    assert played[0]["seeds"] == seeds
    assert played[0]["axes"] == {"learning_rate": ["0.1", "0.2"]}
    assert played[0]["overrides"] == ["beta=2"]


def keys_of(capsys, *arguments):
    app(["keys", *arguments], standalone_mode=False)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    [
        "loss_type ['logistic'] (logistic, hinge, exponential, correlation, bernoulli, ",
        "training.dtype ['float32'] (float32, bfloat16): ",
        "selection.metric ['real_nll_per_token'] (real_nll_per_token, ",
        "zero_stage [2] (0, 1, 2, 3): ",
        "evaluation.lm_eval.leaderboard [None] (v1, tspin): ",
        "data.path [required]: ",
        "beta [0.1]: ",
        "sft: ",
    ],
)
def test_keys_lists_defaults_and_allowed_values(capsys, line):
    assert f"\n{line}" in keys_of(capsys)


def test_keys_takes_the_beginning_of_those_to_list(capsys):
    listed, all_keys = keys_of(capsys, "sft"), keys_of(capsys)
    assert [line.split()[0] for line in listed.splitlines() if line.startswith("sft")] == [
        "sft_weight",
        "sft:",
        "sft.epochs",
        "sft.learning_rate",
    ]
    assert set(listed.splitlines()) <= set(all_keys.splitlines())
    with pytest.raises(UserError, match="no key begins with 'lr'"):
        keys_of(capsys, "lr")
