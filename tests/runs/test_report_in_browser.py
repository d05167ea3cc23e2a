"""The report in a real browser: what it shows, who can use it, where it fits.

``make test-browser`` says what it needs, and leaves pictures of the page in build/report/.
"""

import json
import shutil
from pathlib import Path

import pytest

from spin_train.report.comparison import compare
from spin_train.report.comparison_page import write_comparison
from spin_train.report.page import write_report
from tests.train.finished import HOSTILE, finish

pytestmark = [pytest.mark.browser, pytest.mark.process]

ROOT = Path(__file__).parents[2]
AXE = ROOT / "build" / "node_modules" / "axe-core" / "axe.min.js"
PICTURES = ROOT / "build" / "report"
SIZES = {"wide": (1280, 900), "phone": (360, 740)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("finished") / "run", prompts=60)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    installed = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(run):
    return write_report(run).as_uri()


@pytest.fixture(scope="module")
def comparison(run, tmp_path_factory):
    """A page about runs that differ in model and in held-out rows."""
    folder = tmp_path_factory.mktemp("others")
    other = finish(folder / "run", prompts=50, model="org/larger", beta=1.0)
    unfinished = finish(folder / "unfinished", prompts=60, upto="p_1")
    found = compare([run, other, unfinished])
    return write_comparison(found, folder / "compare.html").as_uri()


@pytest.fixture
def page(browser, address):
    """The page as a user has it, with its own policy on what may run; errors fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
    page.on(
        "request", lambda request: None if request.url == address else wrong.append(request.url)
    )
    page.goto(address)
    yield page
    context.close()
    assert not wrong


def shown(page):
    """Numbers of the prompts that are visible, in their order."""
    headings = page.locator("article:visible h3").all_inner_texts()
    return [int(heading.split()[1]) for heading in headings]


def margins(run, name):
    import pandas

    (policy,) = (policy for policy in run.listed if policy.name == name)
    frame = pandas.read_parquet(policy.evaluation_by_example)
    return dict(zip(frame["prompt_id"], frame["margin"], strict=True))


def test_nothing_of_the_samples_has_run_and_their_text_is_there(page):
    assert page.evaluate("[window.owned, document.title]")[0] is None
    assert "owned" not in page.title()
    assert HOSTILE in page.locator("article").first.inner_text()


def test_prompts_come_in_parts_and_in_the_order_of_margins(page, run):
    assert shown(page) == list(range(10, 30))
    page.get_by_role("button", name="Show more").click()
    assert shown(page) == list(range(10, 50))
    for name in ("p_2", "control 1"):
        of = margins(run, name)
        page.get_by_label("Margin of").select_option(name)
        page.get_by_label("Order").select_option("worst")
        assert shown(page) == sorted(of, key=of.get)[:20]
        page.get_by_label("Order").select_option("best")
        assert shown(page) == sorted(of, key=of.get, reverse=True)[:20]
    page.get_by_label("Order").select_option("")
    assert shown(page) == list(range(10, 30))


def test_search_finds_in_every_response(page):
    page.get_by_label("Search").fill("Greedy of CONTROL 2 for 37")
    assert shown(page) == [47]
    assert page.get_by_role("status").inner_text() == "1 of 1 prompts found"
    page.get_by_label("Search").fill("no such words")
    assert shown(page) == []


def test_the_keyboard_reaches_everything(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the summary"
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"search", "order", "judge", "more", "SUMMARY"} <= reached
    page.locator("#more").focus()
    page.keyboard.press("Enter")
    # What comes next is where the new prompts begin.
    assert page.evaluate("document.activeElement.querySelector('h3').textContent").startswith(
        "Prompt 30"
    )


def test_without_scripts_every_prompt_is_there(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert len(shown(page)) == 60
    assert not page.get_by_label("Search").is_visible()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["report", "comparison"])
def test_it_fits_and_axe_finds_nothing(browser, address, comparison, kind, size, scheme):
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        bypass_csp=True,  # for axe, which is not of the page
    )
    page = context.new_page()
    page.goto({"report": address, "comparison": comparison}[kind])
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{kind}-{size}-{scheme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")
    assert len(found["passes"]) > 20
    wrong = [(rule["id"], rule["impact"], rule["nodes"][0]["html"]) for rule in found["violations"]]
    assert not wrong, json.dumps(wrong, indent=1)
    context.close()


def test_it_prints_on_pages_as_wide_as_paper(browser, address):
    context = browser.new_context(viewport={"width": 718, "height": 1000}, color_scheme="dark")
    page = context.new_page()  # 718 px: A4 with the usual margins
    page.goto(address)
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    assert not page.get_by_role("navigation").is_visible()
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert ink == "rgb(0, 0, 0)"
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.pdf(path=PICTURES / "page.pdf", format="A4")
    context.close()
