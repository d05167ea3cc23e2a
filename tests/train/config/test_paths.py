"""`~` and variables in every key that holds a path."""

import re
from pathlib import Path

import pytest

from spin_train.config.files import known_keys, load_config, parse_config
from spin_train.config.paths import expanded
from spin_train.errors import UserError

SMALLEST = {"model": "m", "data": {"path": "d.jsonl"}, "output_dir": "o"}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.delenv("NOWHERE", raising=False)


def test_every_key_whose_meaning_is_a_place_is_expanded(tmp_path):
    content = {
        "model": "~/model",
        "data": {"path": "$SCRATCH/rows.jsonl"},
        "output_dir": "${SCRATCH}/runs",
        "evaluation": {"lm_eval": {"tasks": ["a"], "include_path": "~/tasks"}},
    }
    config = parse_config(content)
    assert config.model == f"{tmp_path}/model"
    assert config.data.path == "/scratch/me/rows.jsonl"
    assert config.output_dir == "/scratch/me/runs"
    assert config.evaluation.lm_eval.include_path == f"{tmp_path}/tasks"
    # A new key that names a place belongs in the list above.
    places = re.compile(r"\b(directory|folder|files?)\b", re.IGNORECASE)
    texts = {
        key
        for key, field in known_keys().items()
        if "str" in str(field.annotation) and places.search(field.description or "")
    }
    assert texts == {"model", "data.path", "output_dir", "evaluation.lm_eval.include_path",
                     "data.split"}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("$NOWHERE/x", "NOWHERE is not set"),
        ("~nobody-here/x", "no home directory ~nobody-here"),
        ("a\0b", "cannot hold a zero byte"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused_by_its_key(path, reason):
    with pytest.raises(UserError, match=f"output_dir: .*{reason}"):
        parse_config({**SMALLEST, "output_dir": path})


def test_a_file_with_a_dollar_sign_in_its_name_is_itself(tmp_path):
    (tmp_path / "a$NOWHERE").touch()
    assert expanded(f"{tmp_path}/a$NOWHERE") == f"{tmp_path}/a$NOWHERE"


def test_the_config_file_itself_may_lie_at_home(tmp_path):
    (tmp_path / "c.yaml").write_text("model: m\ndata: {path: d.jsonl}\noutput_dir: ~/runs/x\n")
    assert Path(load_config("~/c.yaml").output_dir) == tmp_path / "runs" / "x"
