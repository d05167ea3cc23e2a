import json
import re
from base64 import b64decode
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST_OUTPUTS = 200_000  # bytes of a committed notebook
PALETTE = 3  # the colour type of such a PNG
SMALL = {"11_reading_a_run": {"ROWS": 120, "HELD_OUT": 40, "ITERATIONS": 1}}
"""Sizes for `make test` of those that take more than 15 s; `make test-slow` runs them whole."""


def texts(notebook):
    """What the code cells printed, cell by cell."""
    return [
        "".join(output.get("text", "") for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def ran(path, **sizes):
    """Run a notebook where Jupyter would, with other values of the constants named in `sizes`."""
    import nbformat  # takes seconds to import
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    for name, value in sizes.items():
        lines = [cell for cell in notebook.cells if re.search(rf"^{name} = ", cell.source, re.M)]
        assert len(lines) == 1, f"{path.name} must set {name} on one line"
        source = re.sub(rf"^{name} = .*$", f"{name} = {value}", lines[0].source, flags=re.M)
        lines[0].source = source
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": path.parent}}).execute()
    return notebook


@pytest.mark.process
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_where_jupyter_would_run_it(path):
    assert any(texts(ran(path, **SMALL.get(path.stem, {}))))


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("stem", SMALL)
def test_notebook_runs_at_the_size_that_is_committed(stem):
    assert any(texts(ran(ROOT / "notebooks" / f"{stem}.ipynb")))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_executed_in_order_and_small(path):
    cells = json.loads(path.read_text())["cells"]
    cells = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert path.stat().st_size < LARGEST_OUTPUTS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_picture_is_drawn_in_the_style_of_the_house(path):
    outputs = [o for cell in json.loads(path.read_text())["cells"] for o in cell.get("outputs", ())]
    pictures = [o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    assert pictures
    for picture in pictures:
        header = b64decode("".join(picture)[:48])
        assert header[25] == PALETTE  # what a ShownFigure has, and matplotlib's own have not


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_sliders_are_committed_which_would_be_dead(path):
    # Jupyter shows the picture of such an output once "...widget-view+json" is taken out of it.
    assert "widget-view+json" not in path.read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_names_no_path_of_a_machine(path):
    text = path.read_text()
    assert str(Path.home()) + "/" not in text
    assert not any(name in text for name in ("/home/", "/Users/", "/tmp/", "site-packages"))


def test_lessons_are_numbered_without_a_gap_and_the_title_has_the_number():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{n:02d}" for n in range(1, 12)]
    for path in NOTEBOOKS:
        title = "".join(json.loads(path.read_text())["cells"][0]["source"]).splitlines()[0]
        assert title.startswith(f"# {path.name[:2]} · "), path


def test_every_lesson_is_in_the_list_of_the_theory_page():
    page = (ROOT / "docs" / "theory.md").read_text()
    assert all(f"(../notebooks/{path.name})" in page for path in NOTEBOOKS)


@pytest.mark.parametrize("path", [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *NOTEBOOKS])
def test_a_notebook_is_named_by_the_number_it_has(path):
    text = path.read_text()
    there = {notebook.name[:2] for notebook in NOTEBOOKS}
    assert {*re.findall(r"otebooks? (\d\d)\b", text)} <= there
    links = re.findall(r"otebook (\d\d)\]\([^)]*?(\d\d)_\w+\.ipynb\)", text)
    assert all(said == linked for said, linked in links)
