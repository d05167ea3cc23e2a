"""Hypothesis profiles, the data folder, no silent skips in CI, and no unmarked process."""

import gc
import multiprocessing.process
import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("quick", deadline=None, max_examples=3, derandomize=True)
settings.register_profile("dev", deadline=None, max_examples=50)
settings.register_profile("ci", deadline=None, max_examples=25, derandomize=True)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
)

ROOT = Path(__file__).parents[1]
collect_ignore = ["train/fakes"]  # doctests are looked for in every file: vLLM would be imported
_unexpected_skips: list[str] = []
_PROCESS_EVENTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
_now: dict[str, pytest.Item] = {}  # the test that is being set up, run or torn down


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real model and data; docs/recipes.md says where to get them and what SPIN_DATA names."""
    folder = Path(os.environ.get("SPIN_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "stories260K").is_dir():
        pytest.skip(f"no data at {folder}; set SPIN_DATA")
    return folder


@pytest.fixture(autouse=True)
def _every_model_is_tried_anew():
    """Forget which ways were exact: a test that breaks a model must see its trial."""
    yield
    if remembered := sys.modules.get("spin_train.model.remembered"):
        remembered.forget_ways()


def _refuse_unmarked_process(what: str) -> None:
    """Fail a test, or the fixture it waits for, that starts a process and is not marked so."""
    item = _now.get("item")
    if item is None or item.get_closest_marker("process") is not None:
        return
    frame = sys._getframe()
    while frame := frame.f_back:  # a module that asks a command for something as it is imported
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return
    pytest.fail(f"{what}: a test that starts a process is marked with pytest.mark.process")


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event in _PROCESS_EVENTS:
        _refuse_unmarked_process(f"{event} {arguments[:2]}")


def pytest_configure(config):
    gc.disable()  # imports and collection of tests leave nothing to collect
    # Hooks of the interpreter cannot be removed; this one does nothing between tests.
    sys.addaudithook(_watch)
    begin = multiprocessing.process.BaseProcess.start

    def start(process):  # `spawn` and `forkserver` tell no hook
        _refuse_unmarked_process(f"multiprocessing {process!r}")
        begin(process)

    multiprocessing.process.BaseProcess.start = start


def pytest_collection_finish(session):
    # Modules and tests live as long as the process. Training collects garbage at every start, and
    # took longer to go through these than to train.
    gc.collect()
    gc.freeze()
    # Tests make many small objects and few cycles; looking for those took a tenth of the theory's.
    gc.set_threshold(100_000, 10, 100)
    gc.enable()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    _now["item"] = item
    try:
        return (yield)
    finally:
        _now.clear()


def pytest_runtest_logreport(report):
    if report.skipped and "gpu" not in report.keywords and not hasattr(report, "wasxfail"):
        _unexpected_skips.append(f"{report.nodeid}: {report.longrepr}")


def pytest_sessionfinish(session, exitstatus):
    if os.environ.get("CI") and _unexpected_skips and exitstatus == 0:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter):
    if os.environ.get("CI") and _unexpected_skips:
        terminalreporter.section("unexpected skips fail this run")
        for line in _unexpected_skips:
            terminalreporter.write_line(line)
