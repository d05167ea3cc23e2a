"""Which folders are ours: a manifest says so. In all others nothing is written or deleted."""

import os
from collections.abc import Iterator
from pathlib import Path

from spin_train.errors import UserError
from spin_train.system.files import PARTIAL, read_json

__all__ = ["MANIFEST", "claim", "files_outside_runs", "is_run"]

MANIFEST = "manifest.json"
_HARMLESS = {".lock", ".workers.lock", "lost+found"}
"""Locks of a start that got no further, and what a file system puts into every disk."""
_SHOWN = 3


def is_run(folder: Path) -> bool:
    """Say whether a folder is a run's: whether its manifest lists stages."""
    try:
        content = read_json(folder / MANIFEST)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and isinstance(content.get("stages"), dict)


def claim(folder: Path, *, key: str = "output_dir", mark: str | None = None) -> None:
    """Create a folder, or check that it is ours or empty; else `UserError`, and nothing changes.

    Ours is a run's folder or, where a `mark` is given, one that holds a file of that name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = sorted(
            name
            for name in os.listdir(folder)
            if name not in _HARMLESS and not name.endswith(PARTIAL)
        )
    except OSError as error:
        raise UserError(f"cannot create {key} {folder}: {error}") from None
    ours = (folder / mark).is_file() if mark else is_run(folder)
    if foreign and not ours:
        more = f" and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
        raise UserError(
            f"{key} {folder} holds files that are not of a run ({', '.join(foreign[:_SHOWN])}"
            f"{more}), and nothing of yours is overwritten: choose a new or empty directory, such "
            f"as {folder / 'run'}"
        )


def files_outside_runs(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder, at any depth and in order, but those of runs."""
    for root, folders, files in os.walk(folder):
        here = Path(root)
        if is_run(here) or (is_run(here / "run") and (here / "demo.yaml").is_file()):
            folders.clear()
            continue
        folders.sort()
        of_a_grid = "grid.json" in files and any(map(is_run, here.glob("seed*/*")))
        yield from (
            here / name for name in sorted(files) if not (of_a_grid and name == "grid.json")
        )
