"""Pages that teach a claim: their code prints what they say, and what they name is there."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from docs.site import pages
from paper_figures.__main__ import FIGURES
from spin_theory.claims.table import CLAIMS, named

ROOT = Path(__file__).parents[1]
PARTS = ["The claim", "Why it holds", "The picture", "The check", "How to break it"]
LESSONS = [
    path
    for path in sorted((ROOT / "docs").glob("*.md"))
    if f"\n## {PARTS[-1]}\n" in path.read_text()
]

each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


def blocks(text, kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_every_lesson_is_in_the_list_of_the_theory():
    theory = (ROOT / "docs" / "theory.md").read_text()
    assert len(LESSONS) == 8
    for path in LESSONS:
        assert f"]({path.name}) |" in theory
    (section,) = (one for one in pages.navigation() if one["title"] == "Theory")
    assert {path.stem for path in LESSONS} < {*section["pages"]}


@each_lesson
def test_a_lesson_has_all_its_parts(path):
    assert re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE) == PARTS


@each_lesson
def test_the_code_that_breaks_a_claim_prints_what_the_page_says(path):
    (code,), (said,) = (blocks(path.read_text(), kind) for kind in ("python", "text"))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, path.name, "exec"), {})
    assert printed.getvalue() == said


@each_lesson
def test_the_command_checks_claims_of_the_checks_that_are_named(path):
    text = path.read_text().partition("## The check\n")[2].partition("\n## ")[0]
    (command,) = (line for block in blocks(text, "console") for line in block.splitlines())
    names = named(shlex.split(command.removeprefix("$ spin-theory verify --claims ")))
    checks = {claim.function.__name__ for claim in CLAIMS if {*claim.cases} & {*names}}
    for check in re.findall(r"`(check_\w+)`", text):
        assert check in checks, check


@each_lesson
def test_a_picture_is_drawn_by_the_command_below_it(path):
    pictures = re.findall(r"!\[[^]]+\]\(images/(\w+)\.png\)", path.read_text())
    drawn = re.findall(
        r"`python -m paper_figures (\w+) --image docs/images/(\w+)\.png`", path.read_text()
    )
    assert [(name, name) for name in pictures] == drawn
    assert {*pictures} <= {*FIGURES}
