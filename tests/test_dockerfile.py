"""What the Dockerfile copies and installs is there; building it needs a builder."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "Dockerfile").read_text().splitlines()


def test_it_copies_what_the_package_is_built_from():
    copied = {name for line in LINES if line.startswith("COPY") for name in line.split()[1:-1]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {"pyproject.toml", "constraints.txt", project["project"]["readme"]}
    needed |= set(project["project"]["license-files"])
    needed |= {f.rstrip("*") for f in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert copied == needed
    assert all((ROOT / name).exists() for name in copied)


def test_it_installs_extras_that_exist_in_the_tested_versions():
    installs = [line for line in LINES if "pip install" in line]
    assert all("--constraint constraints.txt" in line for line in installs)
    (extras,) = re.findall(r"'\.\[(.+)\]'", "\n".join(LINES))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
