"""The guard of conftest.py: a test that starts a process says so."""

import multiprocessing
import os
import subprocess
import sys

import pytest

TRUE = [sys.executable, "-c", ""]


@pytest.mark.parametrize(
    "begin",
    [
        lambda: subprocess.run(TRUE, check=True),
        lambda: os.posix_spawn(sys.executable, TRUE, os.environ),
        lambda: os.system("true"),
        lambda: os.fork() or os._exit(0),
        *(multiprocessing.get_context(name).Process().start for name in ("spawn", "fork")),
    ],
    ids=["subprocess", "posix_spawn", "system", "fork", "spawned", "forked"],
)
def test_a_process_of_a_test_without_the_mark_is_refused(begin):
    with pytest.raises(pytest.fail.Exception, match="is marked with"):
        begin()


@pytest.mark.process
def test_a_test_with_the_mark_may_start_one():
    subprocess.run(TRUE, check=True)


@pytest.fixture(scope="module")
def started():
    return subprocess.run(TRUE, check=True)


def test_a_fixture_may_not_start_one_for_it_either(request):
    with pytest.raises(pytest.fail.Exception, match="is marked with"):
        request.getfixturevalue("started")
