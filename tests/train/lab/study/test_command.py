"""`spin-train study`: what it prints, and that it says how to go on."""

import pytest

from spin_train.cli import app
from spin_train.errors import UserError
from spin_train.lab.study import cells
from spin_train.lab.study.arms import ARMS
from spin_train.lab.study.bases import Base
from spin_train.lab.study.cells import Study


def study(*arguments):
    app(["study", *map(str, arguments)], standalone_mode=False)


def test_a_study_prints_a_table_and_how_to_go_on(tmp_path, capsys, monkeypatch):
    base = Base("tiny", steps=2, prompts=32, width=8, layers=1, heads=2, batch_size=16)
    tiny = Study((base,), ARMS[:2], 1, (1e-3,), (1,), 1, validation=2, test=2, scored=4)
    monkeypatch.setattr(cells, "QUICK", tiny)
    out = tmp_path / "study"
    study("--quick", "--out", out, "--minutes", 0)
    printed = capsys.readouterr().out
    assert printed.splitlines() == [
        f"0 of 3 cells: {out}/cells.jsonl",
        "run the same command again to go on",
    ]
    study("--quick", "--out", out)
    printed = capsys.readouterr().out
    assert "SPIN, beta 0.1" in printed
    assert f"3 of 3 cells: {out}/cells.jsonl" in printed
    assert "to go on" not in printed
    assert (out / "study.png").is_file()


def test_a_quick_study_and_a_whole_one_do_not_share_a_folder(tmp_path):
    study("--quick", "--out", tmp_path / "study", "--minutes", 0)
    with pytest.raises(UserError, match="another grid"):
        study("--out", tmp_path / "study", "--minutes", 0)
