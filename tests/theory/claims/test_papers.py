"""Every statement of a paper has a verdict that rests on something."""

import re
from dataclasses import replace

import pytest

from spin_theory.claims.papers import PAPER_CLAIMS
from spin_theory.claims.rows import paper_rows
from spin_theory.claims.table import CLAIMS, named


@pytest.mark.parametrize("paper", PAPER_CLAIMS, ids=lambda paper: paper.statement[:40])
def test_a_verdict_says_whether_it_holds_and_what_shows_it(paper):
    assert re.match(r"(holds$|holds[:;, ]|holds under: |does not hold\b)", paper.verdict)
    assert paper.statement.endswith(".")
    assert not paper.verdict.endswith(".")
    assert "|" not in paper.statement + paper.verdict
    assert paper.shown_by


def test_every_claim_that_a_paper_makes_has_a_verdict():
    patterns = [name for paper in PAPER_CLAIMS for name in paper.shown_by]
    shown = named([pattern for pattern in patterns if not pattern.startswith("python")])
    theorems = [
        claim
        for claim in CLAIMS
        if re.search(r"Theorem|Proposition|Lemma|Remark|Alami|SPACE|GSIL", claim.source)
        if claim.name != "opponents"
    ]
    assert len(theorems) >= 8
    for claim in theorems:
        assert set(claim.cases) & set(shown), claim.name


def test_a_verdict_that_rests_on_nothing_is_refused():
    paper = replace(PAPER_CLAIMS[0], shown_by=("no such claim",))
    with pytest.raises(ValueError, match="no claim is named 'no such claim'"):
        paper_rows([paper])
