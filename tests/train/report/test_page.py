"""The page says what the files say, loads nothing, and shows hostile text as text."""

import json
import re
from xml.etree import ElementTree

import pytest
from lxml import html

from spin_train.cli import app
from spin_train.errors import UserError
from spin_train.report.figures import Drawing
from spin_train.report.page import render, write_report
from spin_train.report.wording import MINUS
from tests.train.finished import HOSTILE, TRICKS, finish


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture(scope="module")
def text(run):
    return render(run)


@pytest.fixture(scope="module")
def page(text):
    return html.fromstring(text)


@pytest.fixture
def one_drawing(monkeypatch):
    """Drawings take most of a page's time. Where none is looked at, one stands for all."""
    drawing = Drawing("a title", "a caption", "<svg></svg>")
    monkeypatch.setattr("spin_train.report.pictures.draw", lambda *_, **__: drawing)


def cells(page, region):
    """Text of a table's cells, row by row, the headings first."""
    (table,) = page.xpath(f"//div[@aria-label='{region}']/table")
    return [
        [" ".join(cell.text_content().split()) for cell in row.xpath("./th|./td")]
        for row in table.iter("tr")
    ]


def test_the_page_loads_nothing(page, text):
    addresses = page.xpath("//@src|//@srcset|//@data|//@action|//@*[name()='href']")
    assert addresses
    assert all(address.startswith("#") for address in addresses)
    assert not page.xpath("//link|//iframe|//object|//embed|//img|//base")
    assert "@import" not in text
    assert not re.findall(r"url\((?!#)", text)
    (policy,) = page.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    assert policy.startswith("default-src 'none'; ")


def test_the_numbers_are_those_of_the_evaluations(run, page):
    heading, *rows = cells(page, "Held-out numbers of every policy, with intervals")
    assert [row[0] for row in rows] == [policy.name for policy in run.listed]
    for row, policy in zip(rows, run.listed, strict=True):
        numbers, shown = policy.numbers, dict(zip(heading, row, strict=True))
        assert shown["NLL per token"].split(" (")[0] == f"{numbers['real_nll_per_token']:.4f}"
        if policy.iteration:
            margin = f"{numbers['margin']:.3f} ± {numbers['margin_standard_error']:.3f}"
            assert shown["margin, nats"] == margin
        assert shown["right answers, %"] == "25.0 (12.5 to 40.0)"
    heading, *rows = cells(page, "All held-out numbers")
    assert heading[1:] == [policy.name for policy in run.listed]
    by_name = {name: row for name, *row in rows}
    kls = [policy.numbers.get("opponent_kl") for policy in run.listed]
    for shown, kl in zip(by_name["opponent_kl"], kls, strict=True):
        assert shown.split(" ± ")[0] == ("" if kl is None else f"{kl:.5g}".replace("-", MINUS))


def test_hashes_are_those_of_the_manifest(run, page):
    rows = cells(page, "Weights")[1:]
    files = [record["files"] for record in run.manifest().content["stages"].values()]
    recorded = {name: file["sha256"] for of_stage in files for name, file in of_stage.items()}
    assert [row[0] for row in rows] == ["p_1", "control 1", "p_2", "control 2"]
    assert all(recorded[name] == sha256 for _, name, sha256 in rows)


def test_every_policys_response_stands_next_to_the_human_one(page):
    articles = page.xpath("//article")
    assert len(articles) == 40
    said = {
        " ".join(entry.xpath("./dt")[0].text_content().split()): entry.xpath("./dd")[0]
        for entry in articles[7].xpath("./dl/div")
    }
    texts = {name: " ".join(found.text_content().split()) for name, found in said.items()}
    assert texts == {
        "human": "human 7",
        "p_0": "sample of p_0 for 7",
        "p_1": "sample of p_1 for 7",
        "p_2": "sample of p_2 for 7",
        **{
            f"{name}, greedy": f"greedy of {name} for 7"
            for name in ("p_0", "p_1", "control 1", "p_2", "control 2")
        },
    }
    assert "cut at max_new_tokens" in articles[1].text_content()
    assert "cut at max_new_tokens" not in articles[7].text_content()


def test_margins_are_those_of_the_examples(page):
    # linspace(-2, 3, 40) plus the policy's effect, of prompt 3 of 40: -2 + 5 * 3 / 39.
    margins = json.loads(page.xpath("//article")[3].get("data-margins"))
    place = -2 + 5 * 3 / 39
    expected = {"p_1": 0.1, "control 1": 0.4, "p_2": 0.2, "control 2": 0.6}
    assert margins == {name: pytest.approx(place + rise) for name, rise in expected.items()}


def test_hostile_text_stays_text(page):
    scripts = page.xpath("//script")
    assert len(scripts) == 1
    assert not page.xpath("//*[@onerror]")
    prompt = page.xpath("//article")[0].xpath("./div")[0].text_content()
    assert HOSTILE in prompt
    human = page.xpath("//article")[0].xpath(".//dd")[0]
    assert "\\x07, null \\x00, turned \\u202eabc" in human.text_content()
    assert [code.text for code in human.iter("code")] == ["\\x07", "\\x00", "\\u202e"]
    assert all(sign in TRICKS for sign in "\x07\x00\u202e")


def test_no_character_that_is_hidden_is_left(text):
    assert not set(text) & set("\x00\x07\u202e\u200f\ufeff")


def test_drawings_are_valid_and_name_nothing_twice(page, text):
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 9
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.get("aria-label")
        assert "#0100" not in drawing
    names = page.xpath("//@id")
    assert len(names) == len(set(names))


def test_two_pages_of_one_run_differ_in_nothing_but_the_time(run, text):
    def without_time(page):
        return re.sub(r"Written [\d: -]+", "", page)

    assert without_time(render(run)) == without_time(text)


def test_fewer_prompts_are_said_to_be_fewer(run, one_drawing):
    page = html.fromstring(render(run, prompts=5))
    assert len(page.xpath("//article")) == 5
    assert "shows 5 of 40 prompts" in " ".join(page.text_content().split())


def test_a_run_that_is_only_configured_has_a_page(tmp_path):
    run = finish(tmp_path / "run", upto="p_0", answers=False)
    run.policy(0).evaluation.unlink()
    page = " ".join(html.fromstring(render(run)).text_content().split())
    assert "Nothing is evaluated yet." in page
    assert "nothing is sampled in" in page


def test_a_run_that_is_not_finished_says_so(tmp_path, one_drawing):
    run = finish(tmp_path / "run", upto="control 1")
    text = " ".join(html.fromstring(render(run)).text_content().split())
    assert "1 of 2 iterations are evaluated" in text


def test_the_command_writes_the_page_into_the_run_or_where_it_is_told(
    run, tmp_path, capsys, one_drawing
):
    app(["report", str(run.root)], standalone_mode=False)
    assert capsys.readouterr().out == f"open {run.root}/report.html\n"
    out = tmp_path / "a" / "b.html"
    app(["report", str(run.root), "--out", str(out), "--prompts", "1"], standalone_mode=False)
    assert len(html.fromstring(out.read_text("utf-8")).xpath("//article")) == 1
    with pytest.raises(UserError, match="is a directory; name a file"):
        write_report(run, tmp_path)
