"""Modules of the user's that stand in the place of installed ones: why an import may fail.

A folder in PYTHONPATH comes before everything that is installed, so a file `datasets.py` there
replaces the package, for us and for the packages that we use. Some put a checkout of a package
there on purpose. So nothing is refused beforehand; where something has failed, this names the file.
"""

import os
import sys
import traceback
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

__all__ = ["shadow_of"]


def shadow_of(error: BaseException) -> str:
    """Say in a line which module of PYTHONPATH may have led to an error; empty if none did.

    It has the name of an installed module or one of Python's, and it is something else: a file
    instead of a package, or a package without most of its modules.
    """
    entries = {os.path.abspath(e) for e in os.environ.get("PYTHONPATH", "").split(os.pathsep) if e}
    others = [place for place in sys.path if os.path.abspath(place) not in entries]
    seen = set()
    for file in (Path(os.path.abspath(name)) for name in _files(error)):
        for entry in map(Path, entries):
            if not file.is_relative_to(entry):
                continue
            name = file.relative_to(entry).parts[0].removesuffix(".py")
            if name in seen or not name.isidentifier():
                continue
            seen.add(name)
            own = PathFinder.find_spec(name, [str(entry)])
            installed = PathFinder.find_spec(name, others)
            if not (own and own.origin and installed and installed.origin):
                continue
            if _is_another(Path(own.origin), Path(installed.origin)):
                return (
                    f"{own.origin} is imported in place of {installed.origin}, because "
                    f"PYTHONPATH names {entry}: rename it, or unset PYTHONPATH"
                )
    return ""


def _files(error: BaseException | None) -> Iterator[str]:
    """Files in which an error and its causes came about, then those of all modules."""
    while error is not None:
        yield from (frame.filename for frame in traceback.extract_tb(error.__traceback__))
        error = error.__cause__ or error.__context__
    yield from (
        file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))
    )


def _is_another(own: Path, installed: Path) -> bool:
    """Say whether one module is no other version of another one."""
    if own.name != "__init__.py" or installed.name != "__init__.py":
        return True
    theirs = {path.name for path in installed.parent.glob("*.py")}
    ours = {path.name for path in own.parent.glob("*.py")}
    return 2 * len(theirs & ours) < len(theirs)
