"""Build the wheel and the sdist, and try them where nothing else of the project is.

``python -m tests.wheel [FOLDER]`` installs the wheel with all it needs in an empty virtual
environment in FOLDER (`.venv-wheel`), and runs `spin-theory verify` and `spin-train demo` there.
`twine` then checks both archives as an index would.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from tests.lowest import pinned

ROOT = Path(__file__).parents[1]
PACKAGES = ("spin_theory", "spin_train")
ENDINGS = (".py", ".yaml", ".jinja", ".css", ".js", "py.typed")
"""What belongs to a package."""


def copy_sources(folder):
    """Copy what a build reads, so that it leaves nothing in the checkout."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, folder / name)
    return folder


def build(hook, sources, out):
    """Call a hook of setuptools, `build_wheel` or `build_sdist`; the archive comes back.

    It takes setuptools from this environment: pip would download it.
    """
    out.mkdir(parents=True, exist_ok=True)
    program = f"import sys; from setuptools.build_meta import {hook} as build; build(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", program, str(out)],
        cwd=sources,
        check=True,
        capture_output=True,
        text=True,
    )
    (archive,) = out.iterdir()
    return archive


def unpack(sdist, folder):
    """Unpack an sdist; the folder in it comes back."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (inside,) = folder.iterdir()
    return inside


def files_of_source():
    """Every file that belongs to a package, by its path in the checkout."""
    return {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.name.endswith(ENDINGS)
    }


def files_of_wheel(wheel):
    """Every file in a wheel but its own metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def bare_environment():
    """This process's environment without what would lead to the checkout."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHONPATH", "PYTEST"))}


def main():
    """Install the wheel in an empty environment and run both programs."""
    parser = argparse.ArgumentParser(prog="python -m tests.wheel")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / ".venv-wheel")
    folder = parser.parse_args().folder.absolute()
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    with tempfile.TemporaryDirectory() as name:
        sources = Path(name, "sources")
        sources.mkdir()
        copy_sources(sources)
        sdist = build("build_sdist", sources, Path(name, "sdist"))
        wheel = build("build_wheel", unpack(sdist, Path(name, "unpacked")), Path(name, "wheel"))
        empty = Path(name, "empty")
        empty.mkdir()
        pins = ["--constraint", str(ROOT / "constraints.txt")]
        commands = [
            ["python", "-m", "pip", "install", "--quiet", "--upgrade", "pip"],
            ["pip", "install", "--quiet", *pins, f"torch=={pinned('torch')}"],
            ["pip", "install", "--quiet", *pins, str(wheel)],
            ["spin-theory", "verify", "--instances", "5"],
            ["pip", "install", "--quiet", *pins, f"{wheel}[train]"],
            ["spin-train", "demo", "--out", "demo"],
            ["pip", "install", "--quiet", "twine"],
            ["twine", "check", "--strict", str(sdist), str(wheel)],
        ]
        for program, *arguments in commands:
            print("$", program, *arguments, flush=True)
            command = [folder / "bin" / program, *arguments]
            subprocess.run(command, cwd=empty, env=bare_environment(), check=True)


if __name__ == "__main__":
    main()
