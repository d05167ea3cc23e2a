"""What a study says: chosen on validation prompts, told on test prompts, paired by seed."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from spin_train.lab.study.arms import ARMS
from spin_train.lab.study.bases import BASES
from spin_train.lab.study.cells import Cell, Study
from spin_train.lab.study.figure import (
    draw,
    equal_cells,
    largest_cells,
    page_cells,
    result_cells,
    save_figure,
    tables,
    verdict_cells,
)
from spin_train.lab.study.measuring import Score
from spin_train.lab.study.verdicts import Mean, mean_of, results

STUDY = Study(bases=BASES[:1], arms=(ARMS[0], ARMS[2]), seeds=3, rates=(0.1, 0.2), steps=(8,))
CONTROL, SPIN = (arm.name for arm in STUDY.arms)
BASE = BASES[0].name


def cell(seed, arm, rate, validation, test):
    return Cell(
        BASE,
        seed,
        Score(validation, 0.5, 0.5),
        Score(test, 0.25, 0.75),
        arm,
        rate,
        8 if arm else 0,
        -test if arm else 0.0,
    )


def grid(spin, *, seeds=3):
    """SPIN's KL on test is as given, by seed, at rate 0.1, which validation prefers."""
    found = []
    for seed in range(seeds):
        found += [
            cell(seed, None, 0.0, 1.0, 1.0),
            cell(seed, CONTROL, 0.1, 0.9, 0.5 + seed),  # worse by validation, best by test
            cell(seed, CONTROL, 0.2, 0.8, 0.6 + seed),
            cell(seed, SPIN, 0.1, 0.7, spin[seed]),
            cell(seed, SPIN, 0.2, 0.9, 0.0),
        ]
    return found


def test_settings_are_chosen_on_validation_prompts_and_told_on_others():
    base, control, spin = results(grid([0.5, 1.5, 2.5]), STUDY)
    assert (control.setting, spin.setting, base.setting) == ("0.2, 8", "0.1, 8", "as it is")
    assert control.kl.value == pytest.approx(1.6)
    assert spin.kl.value == pytest.approx(1.5)
    assert spin.displacement.value == pytest.approx(-1.5)
    assert base.arm is None


def test_verdicts_are_of_differences_seed_by_seed():
    """KL differs by 1 between seeds and by 0.1 between arms: only pairs show that."""
    _, control, better = results(grid([0.5, 1.5, 2.5]), STUDY)
    assert better.from_control.value == pytest.approx(-0.1)
    assert better.against_control == "better"
    assert better.kl.half > 1
    assert control.from_control == Mean(0.0, 0.0)
    assert results(grid([0.7, 1.7, 2.7]), STUDY)[2].against_control == "worse"
    assert results(grid([0.5, 1.5, 2.9]), STUDY)[2].against_control == "no difference"
    assert results(grid([0.5], seeds=1), STUDY)[2].against_control == "too few seeds"
    assert results(grid([0.5, 1.5], seeds=2), STUDY)[2].against_control == "too few seeds"


def test_the_base_is_compared_too():
    _, control, spin = results(grid([0.5, 0.6, 0.4]), STUDY)
    assert spin.against_base == "better"
    assert control.against_base == "no difference"  # 0.6, 1.6, 2.6 against 1


def test_only_seeds_whose_cells_are_all_there_count():
    found = grid([0.5, 1.5, 2.5])
    assert {result.seeds for result in results(found[:-1], STUDY)} == {2}
    assert results(found[:3], STUDY) == []


def test_a_setting_that_diverged_is_never_chosen():
    found = [
        cell(c.seed, c.arm, c.learning_rate, math.nan, math.nan)
        if c.arm == SPIN and c.learning_rate == 0.1
        else c
        for c in grid([0.5, 1.5, 2.5])
    ]
    assert results(found, STUDY)[2].setting == "0.2, 8"


def test_the_largest_setting_is_told_without_a_choice():
    head, base, control, spin = largest_cells(grid([0.5, 1.5, 2.5]), STUDY)
    assert head == ("arm", "under-trained, 3 seeds")
    assert base == ("the base", "1.00")
    assert control == (CONTROL, "1.60, -1.60")  # at rate 0.2
    assert spin == (SPIN, "0.00, +0.00")


def test_equal_settings_are_compared_seed_by_seed():
    head, first, second = equal_cells(grid([0.5, 1.5, 2.5]), STUDY, SPIN)
    assert head == ("rate, steps", "under-trained, 3 seeds")
    assert first[0] == "0.1, 8"
    assert first[1].endswith("then +0.000 ± 0.000")  # 0.5 + seed against 0.5 + seed
    assert second[1] == "+0.600 ± 2.484, then -1.600 ± 2.484"


def test_each_measure_chooses_its_own_settings_and_has_its_own_sign():
    """By valid mass the other rate is better; more of it is good, while less KL is."""
    found = [
        Cell(
            BASE,
            seed,
            Score(1.0, valid, 0.5),
            Score(1.0 - valid, valid, 0.5),
            arm,
            rate,
            8 if arm else 0,
        )
        for seed in range(3)
        for arm, rate, valid in (
            (None, 0.0, 0.1),
            (CONTROL, 0.1, 0.2),
            (CONTROL, 0.2, 0.3),
            (SPIN, 0.1, 0.2),
            (SPIN, 0.2, 0.4 + 0.01 * seed),
        )
    ]
    _, control, spin = results(found, STUDY, by="valid")
    assert (control.setting, spin.setting) == ("0.2, 8", "0.2, 8")
    assert spin.from_control.value == pytest.approx(0.11)
    assert (spin.against_control, spin.against_base) == ("better", "better")
    head, kl, valid, greedy = verdict_cells(found, STUDY)
    assert len(head) == len(kl)
    assert kl[1:] == ("none", "1", "0", "0", f"{SPIN} ({BASE})")  # the rates tie: the first of each
    assert valid[1:] == (f"{SPIN} ({BASE})", "0", "0", "0", f"{SPIN} ({BASE})")
    assert greedy[1:] == ("none", "1", "0", "0", "none")


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8).filter(lambda v: len(set(v)) > 1))
def test_an_interval_is_students(values):
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    found = mean_of(values)
    assert found.value - found.half == pytest.approx(low, abs=1e-6)
    assert found.value + found.half == pytest.approx(high, abs=1e-6)


def test_the_table_and_the_figure_show_every_arm(tmp_path):
    found = results(grid([0.5, 1.5, 2.5]), STUDY)
    head, base, control, spin = result_cells(found)
    assert len(head) == len(spin)
    assert base[:4] == ("the base", "as it is", "1.000 ± 0.000", "-0.600 ± 2.484")
    assert control[3] == control[-1] == ""
    assert spin[0] == SPIN
    assert spin[3] == "-0.100 ± 0.000"
    assert spin[-1] == "better"
    assert [row[0] for row in page_cells(found)] == ["base", "under-trained, 3 seeds", "", ""]
    assert [table.row_count for table in tables(grid([0.5, 1.5, 2.5]), STUDY)] == [3, 3]
    assert len(draw(found).axes) == 1
    for name in ("one.png", "other.png"):
        save_figure(found, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()
