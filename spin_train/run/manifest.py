"""Which stages are complete, and what each left on disk."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spin_train.errors import DamagedFileError, UserError
from spin_train.run.directory import RunDirectory
from spin_train.system.files import read_object, sha256_of_files, write_json

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

        Where a file is gone, the stage is done again, unless `keep` has removed it. A file of
        another size than recorded is a `UserError`.
        """
        record = self.content["stages"].get(stage)
        if record is None:
            return False
        removed = set(record.get("removed", []))
        for name, file in record["files"].items():
            path = self._run.root / name
            if not path.is_file():
                if name in removed:
                    continue
                return False
            size, recorded = path.stat().st_size, file["bytes"]
            if size != recorded:
                raise UserError(
                    f"{path} has {size} bytes, but {recorded} when {stage} wrote it; "
                    "restore it, or delete it to run the stage again"
                )
        return True

    def sizes(self, stage: str) -> dict[Path, int]:
        """Size of each file that a complete stage left, in bytes, without those removed since."""
        files = self.content["stages"][stage]["files"]
        return {self._run.root / name: files[name]["bytes"] for name in self.left(stage)}

    def left(self, stage: str) -> list[str]:
        """Names of the files that a complete stage left, without those removed since."""
        record = self.content["stages"][stage]
        removed = set(record.get("removed", []))
        return [
            name
            for name in record["files"]
            if name not in removed or (self._run.root / name).is_file()
        ]

    def is_gone(self, stage: str) -> bool:
        """Say whether `keep` has removed files of a stage, and nobody has put them back."""
        record = self.content["stages"].get(stage)
        return record is not None and len(self.left(stage)) < len(record["files"])

    @property
    def removing(self) -> list[str]:
        """Stages of which files are being removed; a kill may have cut that short."""
        found: list[str] = self.content.get("removing", [])
        return found

    def begin_removal(self, files: Mapping[str, list[str]]) -> None:
        """Record, before the first of them goes, which files of which stages will be removed."""
        for stage, names in files.items():
            self.content["stages"][stage]["removed"] = names
        self.content["removing"] = list(files)
        self.save()

    def end_removal(self) -> None:
        """Record that what was to be removed is gone."""
        if self.content.pop("removing", None) is not None:
            self.save()

    def complete(
        self,
        stage: str,
        files: Iterable[Path],
        *,
        seconds: float,
        speed: dict[str, Any] | None = None,
    ) -> None:
        """Record a stage as complete, with the files it left, and how long and fast it was."""
        paths = sorted(files)
        left = {
            str(path.relative_to(self._run.root)): {"bytes": path.stat().st_size, "sha256": sha256}
            for path, sha256 in zip(paths, sha256_of_files(paths), strict=True)
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
