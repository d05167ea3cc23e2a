"""What others install holds both packages whole, and runs away from the checkout."""

import subprocess
import sys

import pytest

from tests.wheel import (
    ROOT,
    bare_environment,
    build,
    copy_sources,
    files_of_source,
    files_of_wheel,
    unpack,
)

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel that is made from it."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    sources.mkdir()
    sdist = build("build_sdist", copy_sources(sources), folder / "sdist")
    unpacked = unpack(sdist, folder / "unpacked")
    return sdist, build("build_wheel", unpacked, folder / "wheel")


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """A folder that holds the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(folder), str(built[1])], check=True)
    return folder


def test_a_wheel_made_of_the_sdist_holds_both_packages_and_nothing_else(built):
    source = files_of_source()
    assert len(source) > 80
    assert {"spin_theory/py.typed", "spin_train/py.typed"} <= source
    assert any(name.endswith(".yaml") for name in source)
    assert any(name.endswith(".jinja") for name in source)
    assert files_of_wheel(built[1]) == source


def run_installed(installed, folder, *arguments):
    """Run Python in an empty folder, the wheel in front of all other packages."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=bare_environment() | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_installed_packages_are_those_that_run(installed, tmp_path):
    program = "import spin_theory, spin_train; print(spin_theory.__file__, spin_train.__file__)"
    result = run_installed(installed, tmp_path, "-c", program)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(str(installed)) == 2
    assert str(ROOT) not in result.stdout


def test_the_installed_theory_verifies_its_claims(installed, tmp_path):
    result = run_installed(installed, tmp_path, "-m", "spin_theory", "verify", "--instances", "5")
    assert result.returncode == 0, result.stderr
    assert "holds" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["run", "--help"], "run [OPTIONS] {config}"), (["presets"], "spin-paper-zephyr-7b")],
)
def test_the_installed_trainer_has_its_commands_and_presets(
    arguments, expected, installed, tmp_path
):
    result = run_installed(installed, tmp_path, "-m", "spin_train", *arguments)
    assert result.returncode == 0, result.stderr
    assert expected in " ".join(result.stdout.split())
