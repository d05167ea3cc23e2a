"""Which stages are complete, and what each left on disk."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spin_train.errors import DamagedFileError, UserError
from spin_train.run.directory import RunDirectory
from spin_train.system.files import read_object, sha256_of_file, write_json

__all__ = ["Manifest"]


class Manifest:
    """Which stages are complete, and what they left on disk; only rank 0 writes it."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self.content: dict[str, Any] = {"stages": {}}
        if run.manifest_file.is_file():
            self.content = read_object(run.manifest_file)
            if not isinstance(self.content.get("stages"), dict):
                raise DamagedFileError(run.manifest_file, "it lists no stages")

    def is_complete(self, stage: str) -> bool:
        """Say whether a stage is done and the files that it left are still there.

        Where a file is gone, the stage is done again. A file of another size than recorded is a
        `UserError`.
        """
        record = self.content["stages"].get(stage)
        if record is None:
            return False
        for name, file in record["files"].items():
            path = self._run.root / name
            if not path.is_file():
                return False
            size, recorded = path.stat().st_size, file["bytes"]
            if size != recorded:
                raise UserError(
                    f"{path} has {size} bytes, but {recorded} when {stage} wrote it; "
                    "restore it, or delete it to run the stage again"
                )
        return True

    def sizes(self, stage: str) -> dict[Path, int]:
        """Size of each file that a complete stage left, in bytes."""
        files = self.content["stages"][stage]["files"]
        return {self._run.root / name: file["bytes"] for name, file in files.items()}

    def complete(
        self,
        stage: str,
        files: Iterable[Path],
        *,
        seconds: float,
        speed: dict[str, Any] | None = None,
    ) -> None:
        """Record a stage as complete, with the files it left, and how long and fast it was."""
        left = {
            str(path.relative_to(self._run.root)): {
                "bytes": path.stat().st_size,
                "sha256": sha256_of_file(path),
            }
            for path in sorted(files)
        }
        self.content["stages"][stage] = {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seconds": round(seconds, 3),
            **({"speed": speed} if speed else {}),
            "files": left,
        }
        self.save()

    def save(self) -> None:
        """Write the manifest."""
        write_json(self._run.manifest_file, self.content)
