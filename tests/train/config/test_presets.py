"""Presets against the tables of the papers and of the official repository, written out here."""

import pytest

from spin_train.cli import app
from spin_train.config.changes import flattened
from spin_train.config.files import load_config, presets
from spin_train.errors import UserError

ZEPHYR = "ac6e600eefcce74f5e8bae1035d4f66019e93190"
SPIN = {
    "model": "alignment-handbook/zephyr-7b-sft-full",
    "model_revision": ZEPHYR,
    "template": "zephyr",
    "data.path": "HuggingFaceH4/ultrachat_200k",
    "data.split": "train_sft",
    "data.rows": 50_000,
    "data.too_long": "truncate",
    "data.turn": "first",
    "seed": 42,
    "algorithm": "spin",
    "loss_type": "logistic",
    "iterations": 4,
    "mixing": 1,
    "sft": None,
    "generation.temperature": 1.0,
    "generation.max_new_tokens": 256,
    "training.batch_size": 64,
    "training.dtype": "bfloat16",
    "training.optim": "rmsprop",
    "training.weight_decay": 0.0,
    "training.warmup_steps": 0.1,
    "training.lr_scheduler_type": "linear",
    "zero_stage": 3,
}
SPIN_SCHEDULES = {
    "beta": [0.1, 0.1, 0.1, 5.0],
    "learning_rate": [5e-7, 5e-7, 1e-7, 1e-7],
}
TABLES = {
    # 2 epochs, length 2048.
    "spin-paper-zephyr-7b": (
        SPIN | {"data.max_prompt_tokens": 1024, "data.max_response_tokens": 1024},
        SPIN_SCHEDULES | {"epochs": [2.0] * 4},
    ),
    # YAML: 3 epochs, length 1024 of which the prompt 512.
    "spin-official-repo-zephyr-7b": (
        SPIN | {"data.max_prompt_tokens": 512, "data.max_response_tokens": 512},
        SPIN_SCHEDULES | {"epochs": [3.0] * 4},
    ),
    # alpha 1, history 0 then 0.1, five iterations, no mixing, length 2048, its own template.
    "tspin-zephyr-7b": (
        SPIN
        | {"algorithm": "tspin", "template": "tspin", "iterations": 5, "mixing": 0}
        | {"data.max_prompt_tokens": 1024, "data.max_response_tokens": 1024},
        {"beta": [1.0] * 5, "history_weight": [0.0, 0.1, 0.1, 0.1, 0.1]}
        | {"learning_rate": [5e-7] * 5, "epochs": [2.0] * 5},  # SPIN's, none being stated
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_preset_is_what_was_published(name):
    values, schedules = TABLES[name]
    config = load_config(name, ["output_dir=runs/x"])
    keys = flattened(config)
    assert {key: keys.get(key) for key in values if key != "sft"} == {
        key: value for key, value in values.items() if key != "sft"
    }
    assert config.sft is None
    for key, expected in schedules.items():
        assert [config.at(key, k) for k in range(config.iterations)] == expected


def test_where_the_sources_contradict_the_preset_says_so():
    for name in ("spin-paper-zephyr-7b", "spin-official-repo-zephyr-7b"):
        text = presets()[name].read_text()
        assert "contradict" in text
        assert all(word in text for word in ("epochs", "length", "template"))


def test_every_preset_is_complete_but_for_what_is_the_users():
    for name in presets():
        given = ["output_dir=runs/x"]
        given += ["model=m", "data.path=rows.jsonl"] if name == "tiny" else []
        load_config(name, given)


def test_what_a_preset_leaves_to_the_user_is_asked_for_by_its_name():
    with pytest.raises(UserError, match=r"^preset tiny: key model is missing: give model=\.\.\.$"):
        load_config("tiny")


def test_a_file_comes_before_a_preset_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").write_text("model: mine\ndata: {path: d}\noutput_dir: o\n")
    assert load_config("tiny").model == "mine"


def test_an_unknown_name_lists_the_presets():
    with pytest.raises(UserError, match="tspin-zephyr-7b"):
        load_config("spin-zephyr")


def test_the_command_line_lists_and_prints_them(capsys):
    app(["presets"], standalone_mode=False)
    assert len(capsys.readouterr().out.splitlines()) == len(presets())
    app(["presets", "tiny"], standalone_mode=False)
    assert capsys.readouterr().out == presets()["tiny"].read_text()
    with pytest.raises(UserError, match="no preset"):
        app(["presets", "huge"], standalone_mode=False)
