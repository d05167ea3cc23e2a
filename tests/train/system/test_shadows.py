"""Where something has failed, a module of the user's in place of an installed one is named."""

import importlib
import sys

import pytest

from spin_train.system.shadows import shadow_of


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A folder in PYTHONPATH, and one of installed packages with `wares` and `single`."""
    own, installed = tmp_path / "own", tmp_path / "site"
    (installed / "wares").mkdir(parents=True)
    own.mkdir()
    for name in ("__init__", "a", "b", "c"):
        (installed / "wares" / f"{name}.py").touch()
    (installed / "single.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(own))
    monkeypatch.setattr(sys, "path", [str(own), str(installed), *sys.path])
    yield own
    for name in ("wares", "single", "mine"):
        sys.modules.pop(name, None)


def failure(name):
    importlib.invalidate_caches()
    with pytest.raises((ImportError, AttributeError)) as caught:
        getattr(importlib.import_module(name), "nothing")  # noqa: B009
    return caught.value


@pytest.mark.parametrize("text", ["x = 1", "raise ImportError('mine')"])
def test_a_file_in_place_of_a_package_is_named(folders, text):
    (folders / "wares.py").write_text(text)
    line = shadow_of(failure("wares"))
    assert line.startswith(f"{folders}/wares.py is imported in place of ")
    assert "site/wares/__init__.py" in line
    assert f"PYTHONPATH names {folders}" in line


def test_a_package_that_lacks_most_modules_is_named_and_another_version_is_not(folders):
    (folders / "wares").mkdir()
    (folders / "wares" / "__init__.py").touch()
    error = failure("wares")
    assert "own/wares/__init__.py is imported" in shadow_of(error)
    for name in ("a", "c", "d"):
        (folders / "wares" / f"{name}.py").touch()
    assert shadow_of(error) == ""


def test_modules_of_no_other_name_are_not_to_blame(folders, monkeypatch):
    (folders / "mine.py").touch()
    error = failure("mine")
    assert shadow_of(error) == ""
    (folders / "single.py").touch()
    error.__context__ = failure("single")
    assert "own/single.py" in shadow_of(error)
    monkeypatch.delenv("PYTHONPATH")
    assert shadow_of(error) == ""
