"""The grid on disk: whole lines, resumed, never two grids in one folder."""

import json
import math
from dataclasses import replace

import pytest

from spin_train.errors import UserError
from spin_train.lab.study import cells
from spin_train.lab.study.arms import ARMS
from spin_train.lab.study.bases import Base
from spin_train.lab.study.cells import QUICK, STUDY, Cell, Study, read_cells, run_study
from spin_train.lab.study.measuring import Score

TINY = Study(
    bases=(Base("tiny", steps=6, prompts=32, width=16, layers=1, heads=2, batch_size=16),),
    arms=(ARMS[0], ARMS[2]),
    seeds=1,
    rates=(1e-3,),
    steps=(2,),
    validation=4,
    test=4,
    scored=8,
)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    return out, run_study(out, TINY, minutes=5)


def test_there_is_a_cell_for_the_base_and_one_for_each_arm(played):
    out, found = played
    assert [cell.arm for cell in found] == [None, *(arm.name for arm in TINY.arms)]
    assert read_cells(out) == found
    base, control, spin = found
    assert base.displacement == 0
    assert control.displacement > 0  # SFT on these very rows
    assert len({cell.test.kl for cell in (base, control, spin)}) == 3


def test_a_cell_does_not_depend_on_the_cells_before_it(played, tmp_path):
    _, (base, _, spin) = played
    alone = replace(TINY, arms=(ARMS[2],))
    assert run_study(tmp_path, alone, minutes=5) == [base, spin]


def test_what_a_kill_cut_short_is_played_again(played, tmp_path):
    out, found = played
    run_study(tmp_path, TINY, minutes=0)  # only the folder
    lines = (out / "cells.jsonl").read_text().splitlines(keepends=True)
    cut = tmp_path / "cells.jsonl"
    cut.write_text(lines[0] + lines[1][:40])
    assert read_cells(tmp_path) == found[:1]
    again = run_study(tmp_path, TINY, minutes=5)
    assert again == found
    assert cut.read_text() == "".join(lines)


def test_nothing_is_played_that_is_there(played, monkeypatch):
    out, found = played
    monkeypatch.setattr(cells, "_Player", None)
    assert run_study(out, TINY, minutes=5) == found


def test_no_cell_begins_after_the_time_is_up(tmp_path):
    assert run_study(tmp_path, TINY, minutes=0) == []


def test_another_grid_or_other_files_are_refused(played, tmp_path):
    out, _ = played
    with pytest.raises(UserError, match="on another grid: choose another --out"):
        run_study(out, replace(TINY, rates=(2e-3,)), minutes=0)
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match=r"--out .* holds files"):
        run_study(tmp_path, TINY, minutes=0)


def test_more_seeds_go_on_in_the_same_folder(played):
    out, found = played
    assert run_study(out, replace(TINY, seeds=2), minutes=0) == found


def test_two_at_once_are_refused(tmp_path, monkeypatch):
    run_study(tmp_path, TINY, minutes=0)
    other = cells.FileLock(tmp_path / ".lock")
    assert other.acquire()
    with pytest.raises(UserError, match="another study is being played"):
        run_study(tmp_path, TINY, minutes=0)
    other.release()


def test_a_number_that_is_not_finite_is_null_in_a_line_and_nan_again(tmp_path):
    nothing = Score(math.nan, 0.0, 0.5)
    cell = Cell("tiny", 0, nothing, nothing, "SPIN", 1.0, 2, math.inf)
    cells._append(tmp_path / "cells.jsonl", cell)
    line = json.loads((tmp_path / "cells.jsonl").read_text())
    assert line["test"] == {"kl": None, "valid": 0.0, "greedy": 0.5}
    (again,) = read_cells(tmp_path)
    assert math.isnan(again.test.kl)
    assert math.isnan(again.displacement)


def test_every_arm_has_the_same_settings_and_the_control_is_there():
    assert STUDY.lines == 5 * (8 * 2 * 2 + 1) * 5
    assert QUICK.lines == 2 * (8 + 1) * 2
    assert len({arm.name for arm in ARMS}) == 8
    for base in STUDY.bases:  # whole batches, so that steps are what they say
        assert base.prompts * base.responses % 32 == 0
