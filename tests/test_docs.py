"""What the documentation names is there, and what it says of the program is so."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from benchmarks import claims, supported
from benchmarks.pages import between, write_between
from spin_theory.claims.papers import PAPER_CLAIMS
from spin_theory.claims.rows import as_markdown, paper_rows, statement_rows, verdict_rows
from spin_theory.claims.table import CLAIMS
from spin_theory.claims.verification import verify
from spin_theory.tolerances import EXACT, FEW_TERMS, PROGRAMME

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TOP = [README, *(ROOT / name for name in ("AGENTS.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
DOCS = [*TOP, *sorted((ROOT / "docs").glob("**/*.md"))]
FOLDERS = "tests|spin_train|spin_theory|benchmarks|docs|notebooks|paper_figures"

each_page = pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)


def code_in(text):
    """Code blocks and inline code of a page, joined."""
    blocks = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`([^`]+)`", prose)])


def sources_of(name):
    """Sources of the test files of this name, in whatever folder: wings may share names."""
    found = [path.read_text() for path in (ROOT / "tests").rglob(name)]
    assert found, f"no {name} under tests/"
    return found


def anchors_of(page):
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_defect_of_peers_has_a_test_that_exists():
    text = (ROOT / "docs" / "questions.md").read_text()
    rows = re.findall(r"^\| (\d+) \|.*?\| `(test_\w+\.py)::(test_\w+)` \|$", text, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, 18))
    for _, file, test in rows:
        places = sum(f"def {test}(" in source for source in sources_of(file))
        assert places == 1, f"{file}::{test} is in {places} files"


@each_page
def test_links_lead_somewhere(path):
    for target, _, anchor in re.findall(r"\]\(([^)#]*)(#([^)]*))?\)", path.read_text()):
        if "://" not in target:
            page = path.parent / target if target else path
            assert page.exists(), target
            assert not anchor or anchor in anchors_of(page), f"{target}#{anchor}"


@each_page
def test_files_and_folders_that_are_named_exist(path):
    text = path.read_text()
    for target in re.findall(rf"`((?:{FOLDERS})/[\w/]+(?:\.\w+|/))`", text):
        assert (ROOT / target).exists(), target
    for name in re.findall(r"`(test_\w+\.py)`", text):
        sources_of(name)


@each_page
def test_commands_that_are_named_exist(path):
    code = code_in(path.read_text())
    for folder, name in re.findall(r"python -m (benchmarks|paper_figures|tests)\.(\w+)", code):
        assert (ROOT / folder / f"{name}.py").is_file(), f"{folder}.{name}"
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z][\w-]*)", code)) <= targets
    known = {
        "spin-train": (
            "run plan fetch status results samples report compare export push branch grid presets "
            "keys convert demo bridge study"
        ),
        "spin-theory": "",
    }
    known["spin-theory"] = "verify play phase"
    for program, name in re.findall(r"(?:^|[\n$] ?|\$ )(spin-\w+) (\w+)", code):
        assert name in known[program].split(), f"{program} {name}"


@each_page
def test_configuration_keys_that_are_named_exist(path):
    from transformers import TrainingArguments

    from spin_train.config.files import known_keys

    known = known_keys()
    sections = {key.partition(".")[0] for key in known if "." in key}
    passed_on = {f"training.{name}" for name in TrainingArguments.__dataclass_fields__}
    for key in re.findall(
        rf"\b(?:{'|'.join(sections)})\.[a-z_]+\b(?!\(|/)", code_in(path.read_text())
    ):
        is_file = key.endswith((".py", ".md", ".json", ".jsonl", ".parquet", ".yaml"))
        assert is_file or key in known or key in passed_on, key


def test_readme_is_short():
    assert len(README.read_text().splitlines()) <= 150


def test_the_theory_of_readme_runs(capsys):
    (code,) = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    residual, *games = capsys.readouterr().out.splitlines()
    assert float(residual) < 1e-15
    assert len(games) == 4


def test_pictures_are_small():
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture.stat().st_size < 100_000, picture


def test_verification_lists_the_claims_that_the_program_checks():
    table = claims.PAGE.read_text().partition("<!-- claims: begin -->\n")[2]
    written = [row.split(" | ") for row in table.splitlines() if row.startswith("| ")][1:]
    checked = as_markdown(verdict_rows(verify(seeds=[3]))).splitlines()[2:]
    name, tolerance = 0, 3
    columns = [[row.split(" | ")[i] for i in (name, tolerance)] for row in checked]
    assert [[row[i] for i in (name, tolerance)] for row in written] == columns
    assert f"checks {len(checked)} claims" in README.read_text()


def test_a_tolerance_is_ten_times_the_worst_of_10_000_instances():
    table = claims.PAGE.read_text().partition("<!-- claims: begin -->\n")[2]
    rows = [row.removeprefix("| ").split(" | ") for row in table.splitlines() if " | " in row][1:]
    seen = {row[0]: (int(row[1]), float(row[2])) for row in rows}
    ruled = [
        claim
        for claim in CLAIMS
        if all(seen[name][0] >= 10_000 for name in claim.cases)
        and claim.tolerance not in (EXACT, PROGRAMME)
    ]
    assert len(ruled) > 20
    for claim in ruled:
        worst = max(seen[name][1] for name in claim.cases)
        least = claim.tolerance == FEW_TERMS  # no claim has less
        assert 10 * worst <= claim.tolerance * (1 + 1e-9), claim.name
        assert least or 10 * worst > claim.tolerance / 10 * (1 + 1e-9), claim.name


def test_theory_lists_the_claims_as_the_program_does():
    page = claims.STATEMENTS.read_text()
    table = page.partition("<!-- claims: begin -->\n")[2].partition("\n<!-- claims: end -->")[0]
    assert table == as_markdown(statement_rows(CLAIMS))


def test_theory_has_the_verdict_on_every_claim_of_the_papers():
    page = claims.STATEMENTS.read_text()
    table = page.partition("<!-- papers: begin -->\n")[2].partition("\n<!-- papers: end -->")[0]
    assert table == as_markdown(paper_rows(PAPER_CLAIMS))


def test_what_is_supported_is_what_the_program_says():
    for name, table in supported.tables().items():
        if name == "names" and table.splitlines()[0] not in supported.PAGE.read_text():
            continue  # made with another version of transformers
        assert between(supported.PAGE, name) == table, "python -m benchmarks.supported --write"


def test_the_citation_names_both_papers_and_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert str(citation["version"]) == project["version"]
    urls = [paper["url"] for paper in citation["references"]]
    assert urls == ["https://arxiv.org/abs/2401.01335", "https://arxiv.org/abs/2601.08198"]
    assert all(url in README.read_text() for url in urls)


def test_a_table_is_written_between_its_markers_and_nowhere_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- t: begin -->\nold\n<!-- t: end -->\nb\n")
    write_between(page, "t", "new")
    assert page.read_text() == "a\n<!-- t: begin -->\nnew\n<!-- t: end -->\nb\n"
    with pytest.raises(SystemExit, match="has no place for u"):
        write_between(page, "u", "new")
