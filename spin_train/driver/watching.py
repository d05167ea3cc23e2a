"""What a driver passes on while its workers work: progress, and what was left out of the data."""

import logging
from collections.abc import Callable

from spin_train.run.directory import RunDirectory
from spin_train.run.graph import PREPARE
from spin_train.run.manifest import Manifest
from spin_train.system.files import read_object

__all__ = ["Watcher", "Window"]

_LOG = logging.getLogger(__name__)

Watcher = Callable[[str, int, int, str], None]


class Window:
    """Looks into the directory of a run at work, as often as its driver asks."""

    def __init__(self, directory: RunDirectory, watch: Watcher | None) -> None:
        self._directory = directory
        self._watch = watch
        self._shown: set[str] = set()
        self._told = False

    def look(self) -> None:
        """Pass on the progress that rank 0 has written, and once what was left out of the data."""
        if self._watch is not None:
            self._show(self._watch)
        if not self._told and Manifest(self._directory).is_complete(PREPARE):
            for note in read_object(self._directory.data_summary).get("notes", []):
                _LOG.warning("data: %s", note)
            self._told = True

    def _show(self, watch: Watcher) -> None:
        try:
            report = read_object(self._directory.progress)
        except FileNotFoundError:
            return
        *over, current = report["stages"]
        for stage in over:
            if stage not in self._shown:
                watch(stage, 1, 1, "")
        self._shown.update(over)
        watch(current, report["done"], report["total"], report["note"])
