import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from paper_figures.__main__ import FIGURES

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Where two processes drew all figures."""
    both = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "paper_figures", "--out", str(folder)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        for folder in both
    ]
    assert [process.wait() for process in running] == [0, 0]
    return both


@pytest.mark.process
@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_the_same_bytes_on_every_run(name, folders):
    for ending in ("pdf", "png"):
        first, second = ((folder / f"{name}.{ending}").read_bytes() for folder in folders)
        assert first == second


@pytest.mark.process
@pytest.mark.parametrize("name", FIGURES)
def test_fonts_are_embedded_as_text(name, folders):
    pdf = (folders[0] / f"{name}.pdf").read_bytes()
    assert b"/FontFile2" in pdf
    assert b"/Subtype /Type3" not in pdf  # outlines that no reader can search


def test_every_module_that_draws_is_in_the_table():
    others = {"__init__", "__main__", "style"}
    modules = {path.stem for path in (ROOT / "paper_figures").glob("*.py")}
    assert modules - others == set(FIGURES)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no_such"], "no figure no_such"),
        (["--image", "a.png"], "give one NAME"),
        (["published_averages", "--run", "no_such"], "no run at no_such"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["paper_figures", *arguments])
    with pytest.raises(SystemExit) as stopped:
        import_module("paper_figures.__main__").main()
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
