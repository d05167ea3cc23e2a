import json
from dataclasses import replace

import pytest

from spin_theory.__main__ import main
from spin_theory.claims.instances import Instance
from spin_theory.claims.rows import (
    as_markdown,
    as_text,
    statement_rows,
    statements,
    verdict_rows,
)
from spin_theory.claims.table import CASES, CLAIMS
from spin_theory.claims.verification import Verdict

HELD = Verdict(
    name="a, logistic",
    instances=200,
    failures=0,
    worst_residual=1.26e-15,
    tolerance=1e-12,
    hardest=Instance(seed=7, responses=256, beta=0.12345, smallest=1.04e-13),
)


def test_a_verdict_is_a_row_of_numbers_and_the_instance_to_repeat():
    assert verdict_rows([HELD])[1] == (
        "a, logistic",
        "200",
        "1.3e-15",
        "1e-12",
        "holds",
        "seed 7, Y 256, beta 0.123, smallest p 1.0e-13",
    )


def test_a_claim_that_fails_says_in_how_many_instances():
    assert verdict_rows([replace(HELD, failures=3)])[1][4] == "FAILS in 3"


def test_text_is_in_columns_and_markdown_in_cells():
    rows = [("claim", "TV"), ("longer", "1")]
    assert as_text(rows).splitlines() == ["claim   TV", "----------", "longer  1"]
    assert as_markdown(rows).splitlines() == ["| claim | TV |", "|---|---|", "| longer | 1 |"]


def test_a_bar_in_a_cell_does_not_end_the_cell():
    assert as_markdown([("a|b",)]).splitlines()[0] == "| a\\|b |"


def test_statements_are_one_paragraph_per_claim_without_markdown():
    text = statements(CLAIMS)
    paragraphs = text.split("\n\n")
    assert len(paragraphs) == len(CLAIMS)
    assert "`" not in text
    assert max(map(len, text.splitlines())) <= 100
    for claim, paragraph in zip(CLAIMS, paragraphs, strict=True):
        assert claim.function.__name__ in paragraph
        assert f"{claim.tolerance:.0e}" in paragraph


@pytest.mark.parametrize("flags", [["--list"], ["--list", "--markdown"], ["--list", "--json"]])
def test_verify_lists_the_claims_and_checks_none(flags, capsys, monkeypatch):
    monkeypatch.delattr("spin_theory.__main__.verify")
    assert main(["verify", *flags]) == 0
    printed = capsys.readouterr().out
    if "--json" in flags:
        assert [row["statement"] for row in json.loads(printed)] == [c.statement for c in CLAIMS]
    elif "--markdown" in flags:
        assert printed == as_markdown(statement_rows(CLAIMS)) + "\n"
    else:
        assert printed == statements(CLAIMS) + "\n"


def test_verify_prints_markdown(capsys):
    assert main(["verify", "--instances", "1", "--markdown", "--claims", "5.*"]) == 0
    titles, line, *rows = capsys.readouterr().out.splitlines()
    assert titles.startswith("| claim | instances | worst residual | tolerance | verdict |")
    assert line == "|---|---|---|---|---|---|"
    assert [row.split(" | ")[0] for row in rows] == [
        f"| {name}" for name in CASES if name.startswith("5.")
    ]


def test_json_and_markdown_together_are_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["verify", "--json", "--markdown"])
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
