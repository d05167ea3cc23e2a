"""The documentation site: its menu, its links, what it loads, and the pages that are generated."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs.site import generated, pages, strict
from spin_theory.claims.papers import PAPER_CLAIMS
from spin_train.config.files import known_keys, section_of

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path):
    """The pages of this checkout without the rest of it."""
    for name in ("docs", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_every_page_is_in_the_menu():
    assert strict.navigation_problems(ROOT) == []


def test_a_page_that_is_missing_from_the_menu_is_named_with_what_to_do(checkout):
    (checkout / "docs" / "new-page.md").write_text("# New\n")
    (problem,) = strict.navigation_problems(checkout)
    assert problem == (
        'docs/new-page.md is in no section of the menu: add "new-page" where it belongs in '
        "docs/site/navigation.toml"
    )


def test_a_page_of_the_menu_that_is_gone_is_named(checkout):
    (checkout / "docs" / "gpu.md").unlink()
    (problem,) = strict.navigation_problems(checkout)
    assert problem == (
        'docs/site/navigation.toml lists "gpu", and there is no such page: remove it'
    )


@pytest.mark.parametrize(
    ("path", "text", "becomes"),
    [
        ("docs/metrics.md", "[a](theory.md#x)", "[a](theory.md#x)"),
        ("docs/metrics.md", "[a](../README.md#x)", "[a](readme.md#x)"),
        ("README.md", "[a](docs/metrics.md)", "[a](metrics.md)"),
        ("README.md", "![a](docs/images/kl_by_iteration.png)", "![a](images/kl_by_iteration.png)"),
        ("README.md", "[`losses/`](spin_theory/losses) b", "`losses/` b"),
        ("README.md", "[a](https://arxiv.org/abs/1)", "[a](https://arxiv.org/abs/1)"),
        ("README.md", "[a](docs/nowhere.md)", "[a](docs/nowhere.md)"),
        ("notebooks/03_theorem_5_4.ipynb", "[a](../docs/theory.md)", "[a](../theory.md)"),
    ],
)
def test_links_between_files_become_links_between_pages(path, text, becomes):
    assert pages.relinked(text, path, ROOT, pages.places(ROOT)) == becomes


@pytest.mark.parametrize(
    ("markup", "loaded"),
    [
        ('<script src="https://cdn.example/a.js"></script>', "https://cdn.example/a.js"),
        ('<link rel="stylesheet" href="//fonts.example/a.css">', "//fonts.example/a.css"),
        ("<style>@import url('https://fonts.example/b');</style>", "https://fonts.example/b"),
        ('<img alt="a" src="http://example/a.png">', "http://example/a.png"),
    ],
)
def test_what_a_page_loads_from_elsewhere_is_named(tmp_path, markup, loaded):
    (tmp_path / "a.html").write_text(markup)
    assert strict.loads_from_elsewhere(tmp_path) == [f"a.html loads {loaded}"]


def test_fonts_that_a_style_sheet_loads_from_elsewhere_are_named(tmp_path):
    (tmp_path / "a.css").write_text("@font-face {src: url(https://fonts.example/c.woff2)}")
    assert strict.loads_from_elsewhere(tmp_path) == ["a.css loads https://fonts.example/c.woff2"]


def test_plain_links_and_own_files_are_no_loads(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="https://arxiv.org/abs/1">a</a><script src="_static/a.js"></script>'
        '<link rel="stylesheet" href="_static/a.css"><img src="images/a.png">'
    )
    assert strict.loads_from_elsewhere(tmp_path) == []


def test_every_key_of_a_run_has_an_entry_in_the_configuration_reference():
    page = generated.configuration()
    for key, field in known_keys().items():
        level = "##" if section_of(field) else "###"
        assert page.count(f"\n{level} `{key}`\n") == 1, key


def test_the_entry_of_a_key_says_default_values_and_when_it_may_change():
    entry = generated.configuration().partition("### `loss_type`\n")[2].partition("\n##")[0]
    assert "default `logistic`" in entry
    assert "`hinge`" in entry
    assert "First read by: the loss of self-play." in entry


def test_the_index_of_papers_has_every_statement_with_keys_that_exist():
    page = generated.papers()
    for claim in PAPER_CLAIMS:
        assert claim.statement.replace("|", "\\|") in page
        assert claim.verdict in page
    known = known_keys()
    for text in generated.KEYS.values():
        for code in re.findall(r"`([^`]+)`", text):
            key = code.partition(":")[0]
            assert key in known or code.startswith(("spin-theory", "tspin_ref")), code


def test_an_entry_of_keys_that_belongs_to_no_statement_is_found():
    said = {(claim.paper, claim.where) for claim in PAPER_CLAIMS}
    papers = {paper for paper, _ in said}
    for paper, where in generated.KEYS:
        assert (paper, where) in said or (where == "*" and paper in papers), (paper, where)


def test_every_paper_of_the_index_has_its_formula():
    from docutils.utils.math import latex2mathml

    assert list(generated.FORMULAS) == list(dict.fromkeys(claim.paper for claim in PAPER_CLAIMS))
    page = generated.papers()
    for formula in generated.FORMULAS.values():
        assert f"$${formula}$$" in page
        latex2mathml.tex2mathml(formula, as_block=True)


def test_a_statement_that_has_a_page_of_its_own_leads_there():
    said = {(claim.paper, claim.where) for claim in PAPER_CLAIMS}
    listed = {name for section in pages.navigation() for name in section["pages"]}
    page = generated.papers()
    for (paper, where), lesson in generated.LESSONS.items():
        assert (paper, where) in said
        assert lesson in listed
        assert f"[{where}](../{lesson}.md)" in page


@pytest.mark.slow
@pytest.mark.process
def test_the_site_builds_without_a_warning_and_has_every_public_name(tmp_path):
    out = tmp_path / "site"
    command = [sys.executable, "-m", "docs.site", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = (out / "reference" / "names.html").read_text()
    assert all(f'title="{name}"' in names for name in generated.public_names())
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert (out / "notebooks" / f"{notebook.stem}.html").is_file()
