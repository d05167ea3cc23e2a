"""What the documentation names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_every_defect_of_peers_has_a_test_that_exists():
    text = (ROOT / "docs" / "questions.md").read_text()
    rows = re.findall(r"^\| (\d+) \|.*?\| `(test_\w+\.py)::(test_\w+)` \|$", text, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, 18))
    for _, file, test in rows:
        sources = [path.read_text() for path in (ROOT / "tests").rglob(file)]
        assert sum(f"def {test}(" in source for source in sources) == 1, f"{file}: {test}"


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_and_modules_lead_somewhere(path):
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (path.parent / target).exists(), target
    for name in re.findall(r"python -m (benchmarks|paper_figures)\.(\w+)", text):
        assert (ROOT / name[0] / f"{name[1]}.py").is_file(), name
    folders = "tests|spin_train|spin_theory|benchmarks|docs"
    for target in re.findall(rf"`((?:{folders})/[\w/]+\.\w+)`", text):
        assert (ROOT / target).is_file(), target
