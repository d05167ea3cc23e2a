"""Which folders are ours: a manifest says so. In all others nothing is written or deleted."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from spin_train.errors import UserError
from spin_train.system.files import PARTIAL, read_json

__all__ = ["DEMO_HEAD", "MANIFEST", "claim", "files_outside_runs", "is_demo", "is_run"]

MANIFEST = "manifest.json"
DEMO_HEAD = "# Written by `spin-train demo`.\n"
"""How the file of a demo begins."""

_LOCKS = {".lock", ".owner.json", ".workers.lock"}
_PACKAGE = "spin-toolkit"
_SHOWN = 3


def is_run(folder: Path) -> bool:
    """Say whether a folder is a run's: its manifest lists stages and names the package.

    Other programs have a manifest.json with stages too. A start that got no further has an empty
    list of stages, and nothing else.
    """
    try:
        content = read_json(folder / MANIFEST)
    except (OSError, ValueError):
        return False
    if not isinstance(content, dict) or not isinstance(content.get("stages"), dict):
        return False
    versions = content.get("versions")
    return content == {"stages": {}} or (isinstance(versions, dict) and _PACKAGE in versions)


def is_demo(folder: Path) -> bool:
    """Say whether a folder is a demo's: its run lies there, or demo.yaml says so."""
    try:
        text = (folder / "demo.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return text.startswith(DEMO_HEAD) or is_run(folder / "run")


def claim(
    folder: Path, *, key: str = "output_dir", is_ours: Callable[[Path], bool] = is_run
) -> None:
    """Create a folder, or check that it is ours or empty; else `UserError`, and nothing changes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with os.scandir(folder) as entries:
            foreign = sorted(entry.name for entry in entries if not _is_harmless(entry))
    except OSError as error:
        raise UserError(f"cannot create {key} {folder}: {error}") from None
    if foreign and not is_ours(folder):
        more = f" and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
        raise UserError(
            f"{key} {folder} holds files that are not of a run ({', '.join(foreign[:_SHOWN])}"
            f"{more}), and nothing of yours is overwritten: choose a new or empty directory, such "
            f"as {folder / 'run'}"
        )


def _is_harmless(entry: "os.DirEntry[str]") -> bool:
    """Say whether a start that got no further left it, or a file system, which any disk has."""
    if entry.name in _LOCKS:
        return entry.is_file()
    return entry.name == "lost+found" or entry.name.endswith(PARTIAL)


def files_outside_runs(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder, at any depth and in order, but those of runs."""
    for root, folders, files in os.walk(folder):
        here = Path(root)
        if is_run(here) or is_demo(here):
            folders.clear()
            continue
        folders.sort()
        of_a_grid = "grid.json" in files and any(map(is_run, here.glob("seed*/*")))
        yield from (
            here / name for name in sorted(files) if not (of_a_grid and name == "grid.json")
        )
