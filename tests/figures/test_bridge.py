"""The figure of the bridge draws the numbers of a run that is committed."""

import math

import pytest

from benchmarks.bridge import NUMBERS
from benchmarks.pages import DOCS, between
from paper_figures import bridge
from spin_theory.claims.rows import as_markdown
from spin_train.lab.figure import ends_cells, findings_cells
from spin_train.lab.problems import TOLERANCE


@pytest.fixture(scope="module")
def numbers():
    return bridge.compute()


def test_the_numbers_are_those_of_a_run_that_has_every_row(numbers):
    assert bridge.NUMBERS == NUMBERS
    assert bridge.command() == "spin-train bridge --all"
    assert len(numbers.ends) == 7
    assert {curve.panel for curve in numbers.curves} == {"gap", "samples", "modes", "cosine"}


def test_the_page_has_the_tables_of_the_same_run(numbers):
    page = DOCS / "bridge.md"
    assert between(page, "ends") == as_markdown(ends_cells(numbers.ends)).strip()
    assert between(page, "findings") == as_markdown(findings_cells(numbers.findings)).strip()


def test_right_forms_are_left_of_the_tolerance_and_wrong_ones_right_of_it(numbers):
    axes = bridge.draw(numbers).axes[0]
    right, wrong = (line for line in axes.lines if len(line.get_xdata()) == len(numbers.ends))
    assert list(right.get_xdata()) == [end.tv for end in numbers.ends]
    assert list(wrong.get_xdata()) == [end.nearest_tv for end in numbers.ends]
    assert max(right.get_xdata()) < TOLERANCE < min(wrong.get_xdata())
    places = dict(
        zip(axes.get_yticks(), (t.get_text() for t in axes.get_yticklabels()), strict=True)
    )
    assert [places[y] for y in right.get_ydata()] == [end.problem for end in numbers.ends]


def test_everything_is_within_the_axes(numbers):
    figure = bridge.draw(numbers)
    figure.draw_without_rendering()
    for axes in figure.axes:
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        for line in axes.lines[:2]:
            assert all(left <= x <= right for x in line.get_xdata())
            assert all(bottom <= y <= top for y in line.get_ydata())


def test_the_law_of_samples_falls_as_the_root(numbers):
    law, trained = bridge.draw(numbers).axes[1].lines
    x, y = law.get_xdata(), law.get_ydata()
    assert math.log(y[0] / y[-1]) == pytest.approx(math.log(x[-1] / x[0]) / 2)
    assert list(trained.get_xdata()) == list(x)


def test_each_kind_of_few_steps_has_its_marks_and_its_law(numbers):
    curves = [curve for curve in numbers.curves if curve.panel == "modes"]
    lines = bridge.draw(numbers).axes[2].lines[: len(curves)]
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in lines]
    in_turns = [pair for m, law in zip(curves[::2], curves[1::2], strict=True) for pair in (law, m)]
    assert drawn == [(list(curve.x), list(curve.y)) for curve in in_turns]
