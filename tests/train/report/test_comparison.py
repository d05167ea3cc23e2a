"""What may be compared is compared on the same texts; what may not is said in words."""

import json
import re
from dataclasses import replace

import pandas
import pytest
from lxml import html
from rich.console import Console
from scipy.stats import ttest_rel

from spin_train.cli import app
from spin_train.data.records import read_records, write_records
from spin_train.errors import UserError
from spin_train.report.comparison import MOST_RUNS, compare
from spin_train.report.comparison_page import render_comparison
from spin_train.report.comparison_tables import (
    as_text,
    differing_table,
    number_tables,
    run_table,
)
from spin_train.report.wording import signed
from tests.train.finished import HOSTILE, finish

BETTER = {"p_0": 0.0, "p_1": 0.3, "control 1": 0.4, "p_2": 0.6, "control 2": 0.6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(folder):
    return finish(folder / "one", model="org/model")


@pytest.fixture(scope="module")
def other(folder):
    return finish(folder / "two", model="org/model", beta=1.0, effect=BETTER)


@pytest.fixture(scope="module")
def smaller(folder):
    return finish(folder / "less", model="org/model", prompts=30, upto="p_1")


@pytest.fixture(scope="module")
def both(run, other):
    return compare([run, other])


def held_out(policy):
    return pandas.read_parquet(policy.evaluation_by_example)


def renumber(run, *, by):
    """Give every held-out row another number, as a run on the same rows in another order has."""
    path = run.directory.held_out_rows
    records = list(read_records(path))
    write_records(path, [replace(one, prompt_id=one.prompt_id + by) for one in records])
    for policy in run.listed:
        frame = held_out(policy)
        frame["prompt_id"] += by
        frame.iloc[::-1].to_parquet(policy.evaluation_by_example)


def test_a_difference_is_the_paired_t_interval_on_the_same_responses(run, other, both):
    (row,) = (r for r in both.rows if (r.letter, r.policy.name) == ("B", "p_2"))
    ours, theirs = (-held_out(one.policy(2))["real_logps"] / 10 for one in (other, run))
    expected = ttest_rel(ours, theirs).confidence_interval(0.95)
    assert row.against_first.value == pytest.approx((ours - theirs).mean())
    found = (row.against_first.low, row.against_first.high)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert both.same_rows
    assert both.doubts == []
    assert both.verdicts == ["B's p_2 is better than A's p_2 on 40 held-out rows."]


def test_rows_are_the_same_by_their_tokens_and_not_by_their_numbers(tmp_path, run, both):
    moved = finish(tmp_path / "moved", model="org/model", beta=1.0, effect=BETTER)
    renumber(moved, by=1000)
    found = compare([run, moved])
    assert found.same_rows
    for row, twin in zip(found.rows, both.rows, strict=True):
        assert row.against_first == twin.against_first


def test_the_same_number_in_other_data_is_another_row(tmp_path, run):
    stranger = finish(tmp_path / "other", model="org/model")
    path = stranger.directory.held_out_rows
    rows = [replace(one, prompt_ids=[7, *one.prompt_ids]) for one in list(read_records(path))]
    write_records(path, rows)
    found = compare([run, stranger])
    assert not found.same_rows
    assert "no held-out row in common, token for token" in " ".join(found.doubts)
    assert all(row.against_first is None for row in found.rows)
    assert found.verdicts == []
    assert "Self-play: held-out NLL<" not in render_comparison(found)


def test_rows_that_only_one_run_holds_out_count_in_no_difference(run, smaller):
    found = compare([run, smaller])
    assert "share 30 held-out rows, of 40 and 30" in " ".join(found.doubts)
    (row,) = (r for r in found.rows if (r.letter, r.policy.name) == ("B", "p_1"))
    ours, theirs = held_out(smaller.policy(1)), held_out(run.policy(1))
    joined = ours.merge(theirs, on="prompt_id")
    assert len(joined) == 30
    difference = (joined["real_logps_y"] - joined["real_logps_x"]).mean() / 10
    assert row.against_first.value == pytest.approx(difference)
    assert "B is not finished: 1 of 2" in " ".join(found.doubts)


def test_a_run_that_has_played_nothing_gets_no_verdict(tmp_path, run):
    begun = finish(tmp_path / "run", model="org/model", upto="p_0")
    found = compare([run, begun])
    assert found.verdicts == []
    assert "B is not finished: 0 of 2" in " ".join(found.doubts)


def test_other_models_and_other_data_are_said(tmp_path, run):
    other = finish(tmp_path / "run", model="org/larger")
    summary = json.loads(other.directory.data_summary.read_text())
    summary["source"]["sha256"] = "cd" * 32
    other.directory.data_summary.write_text(json.dumps(summary))
    manifest = json.loads(other.directory.manifest_file.read_text())
    manifest["versions"]["torch"] = "2.12.0"
    other.directory.manifest_file.write_text(json.dumps(manifest))
    models, data, programs = compare([run, other]).doubts
    assert models.startswith("The models differ (A: org/model; B: org/larger)")
    assert data.startswith("The data differ (A: rows.jsonl with SHA-256 abababab...; B: ")
    assert programs.startswith("The programs differ (A: torch 2.13.0; B: torch 2.12.0)")


def test_the_same_file_at_another_place_is_the_same_data(both):
    assert "data.path" in both.differs
    assert not any("data differ" in doubt for doubt in both.doubts)


def test_keys_that_differ_are_those_and_no_others(both):
    assert set(both.differs) == {"beta", "data.path"}
    assert both.differs["beta"] == {"A": 0.1, "B": 1.0}


def test_every_table_fits_80_columns(run, other, smaller):
    found = compare([run, other, smaller])
    console = Console(width=140, force_terminal=False)
    tables = {
        "runs": run_table(found),
        "keys": differing_table(found),
        **number_tables(found),
    }
    assert len(tables) == 5
    for title, table in tables.items():
        with console.capture() as captured:
            console.print(as_text(table, title))
        lines = captured.get().splitlines()
        assert max(map(len, lines)) <= 80, title
        assert "\N{HORIZONTAL ELLIPSIS}" not in captured.get()


def test_the_page_shows_what_the_comparison_says_and_loads_nothing(both):
    text = render_comparison(both)
    page = html.fromstring(text)
    assert page.xpath("//h1")[0].text_content() == both.verdicts[0]
    addresses = page.xpath("//@src|//@srcset|//@data|//@action|//@*[name()='href']")
    assert addresses
    assert all(address.startswith("#") for address in addresses)
    assert not page.xpath("//script|//link|//iframe|//img")
    cells = " ".join(page.text_content().split())
    for row in both.rows:
        if row.against_first is not None:
            assert signed(row.against_first).split(" (")[0] in cells
    titles = [heading.text_content() for heading in page.xpath("//figure/h3")]
    assert len(titles) == 4
    assert not re.findall(r"url\((?!#)", text)
    names = page.xpath("//@id")
    assert len(names) == len(set(names))


def test_hostile_names_stay_text(tmp_path, run):
    other = finish(tmp_path / "run", model=HOSTILE)
    page = render_comparison(compare([run, other]))
    assert "<script" not in page
    assert "onerror=" not in re.sub(r"&[^;]+;", "", page).split("<body>")[0]
    assert HOSTILE in html.fromstring(page).text_content()


def test_the_command_prints_writes_and_gives_json(run, other, tmp_path, capsys):
    out = tmp_path / "page.html"
    app(["compare", str(run.root), str(other.root), "--html", str(out)], standalone_mode=False)
    printed = capsys.readouterr().out
    assert f"open {out}" in printed
    assert "B's p_2 is better than A's p_2" in printed
    assert out.is_file()
    app(["compare", str(run.root), str(other.root), "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert found["differs"]["beta"] == {"A": 0.1, "B": 1.0}
    assert found["rows_in_common_with_first"] == {"A": 40, "B": 40}
    (row,) = (p for p in found["policies"] if (p["run"], p["policy"]) == ("B", "p_2"))
    assert row["against_first"]["value"] == pytest.approx(-0.04)


def test_one_run_too_many_runs_and_a_run_given_twice_are_refused(run, other):
    with pytest.raises(UserError, match="2 to 8 runs, got 1"):
        compare([run])
    with pytest.raises(UserError, match=f"2 to {MOST_RUNS} runs, got 9"):
        compare([run] * 9)
    with pytest.raises(UserError, match="one is given 2 times"):
        compare([run, other, run])
