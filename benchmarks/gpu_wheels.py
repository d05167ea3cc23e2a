"""Wheels for a machine with a GPU and no index; ``make gpu-wheels`` calls it.

``python -m benchmarks.gpu_wheels build/wheels`` fetches, for Python 3.12 on x86-64 Linux, what
``benchmarks.gpu`` needs beyond torch, transformers, accelerate, pandas, pyarrow and what comes with
them, in the versions of constraints.txt, and this project's own wheel.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FETCHED = [
    *("annotated-types", "datasets", "dill", "gguf", "hjson", "multiprocess", "peft", "pydantic"),
    *("pydantic_core", "ruamel.yaml", "trl", "typing-inspection"),
]
BUILT = ["deepspeed"]  # its index holds no wheel
MOST_MEGABYTES = 60
PYTHON = "3.12"


def pinned(package: str) -> str:
    """Look a package up in constraints.txt.

    Parameters
    ----------
    package : str
        Its name.

    Returns
    -------
    str
        A requirement with one version.

    Raises
    ------
    SystemExit
        If it is not there.
    """
    same = re.compile(re.escape(package).replace("_", "[-_]").replace(r"\-", "[-_]") + "==", re.I)
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if same.match(line):
            return line
    raise SystemExit(f"constraints.txt has no {package}")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="where the wheels go")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    pip = [sys.executable, "-m", "pip"]
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in (17, 27, 28)]
    platforms += ["--platform=manylinux2014_x86_64", "--only-binary=:all:"]
    fetch = ["download", "--quiet", "--no-deps", f"--python-version={PYTHON}", *platforms]
    subprocess.run([*pip, *fetch, "--dest", str(folder), *map(pinned, FETCHED)], check=True)
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    with tempfile.TemporaryDirectory() as name:
        sources = Path(name, "sources")  # a build leaves files that the next one would take along
        for package in ("spin_theory", "spin_train"):
            shutil.copytree(ROOT / package, sources / package)
        for file in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy2(ROOT / file, sources / file)
        subprocess.run([*pip, *build, *map(pinned, BUILT), str(sources)], check=True)
    megabytes = sum(wheel.stat().st_size for wheel in folder.glob("*.whl")) / 1e6
    print(f"{len(list(folder.glob('*.whl')))} wheels, {megabytes:.1f} MB in {folder}")
    if megabytes > MOST_MEGABYTES:
        raise SystemExit(f"more than {MOST_MEGABYTES} MB")


if __name__ == "__main__":
    main()
