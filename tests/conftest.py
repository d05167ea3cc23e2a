"""Hypothesis profiles, the data folder, and no silent skips in CI."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("dev", deadline=None, max_examples=50)
settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True)
settings.register_profile("quick", deadline=None, max_examples=10, derandomize=True)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
)

ROOT = Path(__file__).parents[1]
_unexpected_skips: list[str] = []


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real model and data; docs/recipes.md says where to get them and what SPIN_DATA names."""
    folder = Path(os.environ.get("SPIN_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "stories260K").is_dir():
        pytest.skip(f"no data at {folder}; set SPIN_DATA")
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and "gpu" not in item.keywords and not hasattr(report, "wasxfail"):
        _unexpected_skips.append(f"{item.nodeid}: {report.longrepr}")
    return report


def pytest_sessionfinish(session, exitstatus):
    if os.environ.get("CI") and _unexpected_skips and exitstatus == 0:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter):
    if os.environ.get("CI") and _unexpected_skips:
        terminalreporter.section("unexpected skips fail this run")
        for line in _unexpected_skips:
            terminalreporter.write_line(line)
