"""The grid of the study: one line per cell on disk, resumed where it stopped."""

import itertools
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import transformers

from spin_train.driver.watching import Watcher
from spin_train.errors import UserError
from spin_train.lab.study.arms import ARMS, Arm
from spin_train.lab.study.bases import BASES, Base, make_base
from spin_train.lab.study.measuring import Score, measure, real_logps
from spin_train.lab.study.training import Course, play
from spin_train.lab.study.world import Row, World
from spin_train.model.loading import load_model
from spin_train.seeds import seed_of
from spin_train.system.files import or_null, read_json, write_directory, write_json
from spin_train.system.locks import FileLock
from spin_train.system.ownership import claim

__all__ = ["QUICK", "STUDY", "Cell", "Study", "folder_of", "read_cells", "run_study"]

_LINES, _STUDY, _NETWORKS = "cells.jsonl", "study.json", "bases"


@dataclass(frozen=True)
class Study:
    """A grid: every arm from every base, with every rate, number of steps and seed."""

    bases: tuple[Base, ...] = BASES
    arms: tuple[Arm, ...] = ARMS
    seeds: int = 5
    rates: tuple[float, ...] = (5e-5, 5e-4)
    steps: tuple[int, ...] = (8, 32)
    """Of the optimiser in each iteration."""
    iterations: int = 2
    validation: int = 80
    test: int = 160
    scored: int = 256
    """Rows whose real responses are followed."""

    @property
    def lines(self) -> int:
        """How many cells there are, the bases themselves among them."""
        settings = len(self.rates) * len(self.steps)
        return len(self.bases) * (len(self.arms) * settings + 1) * self.seeds


STUDY = Study()
QUICK = Study(bases=BASES[:1] + BASES[2:3], seeds=2, rates=(5e-4,), steps=(8,))
"""Two bases, two seeds, one setting: nothing is chosen."""


@dataclass(frozen=True)
class Cell:
    """An arm's end in one setting, or a base as games find it: `arm` is then None."""

    base: str
    seed: int
    validation: Score
    test: Score
    arm: str | None = None
    learning_rate: float = 0.0
    steps: int = 0
    displacement: float = 0.0
    """Mean log-prob of the real responses of rows that it trains on, minus the base's, nats."""

    @property
    def key(self) -> tuple[str, int, str | None, float, int]:
        """What tells it from other cells."""
        return self.base, self.seed, self.arm, self.learning_rate, self.steps

    @classmethod
    def read(cls, content: dict[str, Any]) -> "Cell":
        """Read a line; null stands for a number that was not finite."""
        scores = {
            name: Score(**{key: math.nan if v is None else v for key, v in content[name].items()})
            for name in ("validation", "test")
        }
        moved = content["displacement"]
        return cls(**{**content, **scores, "displacement": math.nan if moved is None else moved})


def read_cells(out: Path) -> list[Cell]:
    """Read the cells of a folder, a line that was cut short by a kill left out."""
    path = out / _LINES
    if not path.is_file():
        return []
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    return [Cell.read(json.loads(line)) for line in lines]


def folder_of(out: Path, base: Base, seed: int) -> Path:
    """Where a trained base is kept."""
    return out / _NETWORKS / f"{base.name.replace(' ', '_')}-seed{seed}"


def run_study(
    out: Path, study: Study, *, minutes: float, watch: Watcher | None = None
) -> list[Cell]:
    """Play the cells that a folder lacks, for so many minutes at most, and return all it has.

    Seeds are the outermost order: a study that stops early has fewer seeds, and whole ones. The
    time is looked at before each cell and each base. `UserError` if the folder holds another grid
    or other files.
    """
    end = time.monotonic() + 60 * minutes
    transformers.logging.disable_progress_bar()
    claim(out, key="--out", is_ours=lambda folder: (folder / _STUDY).is_file())
    lock = FileLock(out / ".lock")
    if not lock.acquire():
        raise UserError(f"another study is being played in {out}: wait for it, or stop it first")
    try:
        _open(out, study)
        return _played(out, study, end, watch)
    finally:
        lock.release()


def _played(out: Path, study: Study, end: float, watch: Watcher | None) -> list[Cell]:
    """Play what is missing until the time is up."""
    found = {cell.key: cell for cell in read_cells(out)}
    for seed, base in itertools.product(range(study.seeds), study.bases):
        todo = [key for key in _keys(study, base, seed) if (base.name, seed, *key) not in found]
        if not todo:
            continue
        if time.monotonic() >= end:
            break
        if watch is not None:
            watch("study", len(found), study.lines, f"seed {seed}, {base.name}")
        player = _Player.of(out, study, base, seed)
        for arm, rate, steps in todo:
            if time.monotonic() >= end:
                break
            cell = player.cell(arm, rate, steps)
            _append(out / _LINES, cell)
            found[cell.key] = cell
            if watch is not None:
                watch(
                    "study", len(found), study.lines, f"seed {seed}, {base.name}, {arm or 'base'}"
                )
    return list(found.values())


def _keys(study: Study, base: Base, seed: int) -> Iterator[tuple[str | None, float, int]]:
    """Arm, rate and steps of each cell of a base, and the base itself first."""
    yield None, 0.0, 0
    for rate, steps, arm in itertools.product(study.rates, study.steps, study.arms):
        yield arm.name, rate, steps


def _open(out: Path, study: Study) -> None:
    """Note the grid, or see that it is this one; cut a line that a kill left half-written."""
    # Through JSON, where tuples are lists.
    grid = json.loads(json.dumps({key: v for key, v in asdict(study).items() if key != "seeds"}))
    if not (out / _STUDY).is_file():
        write_json(out / _STUDY, grid)
    elif read_json(out / _STUDY) != grid:
        raise UserError(f"--out {out} holds a study on another grid: choose another --out")
    path = out / _LINES
    if path.is_file():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(path, len(whole))


def _append(path: Path, cell: Cell) -> None:
    """Add a line in one write, so that a kill leaves it whole, or without its end."""
    line = json.dumps(or_null(asdict(cell))) + "\n"
    with path.open("ab", buffering=0) as file:
        file.write(line.encode())


@dataclass(frozen=True)
class _Player:
    """A base with all that its cells share."""

    study: Study
    base: Base
    world: World
    rows: list[Row]
    model: Any
    """Loaded once: what is found out about a network holds for all of its weights."""
    weights: dict[str, Any]
    logps: float
    """Of the real responses that are followed."""

    @classmethod
    def of(cls, out: Path, study: Study, base: Base, seed: int) -> "_Player":
        """Train the base, or load it."""
        world = World(seed, study.validation, study.test)
        folder = folder_of(out, base, seed)
        if not folder.is_dir():
            with write_directory(folder) as partial:
                make_base(base, world).save_pretrained(partial)
        model = load_model(folder, dtype="float32").eval()
        rows = base.rows(world)
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        return cls(
            study, base, world, rows, model, weights, real_logps(model, rows[: study.scored])
        )

    def cell(self, arm: str | None, rate: float, steps: int) -> Cell:
        """Play one cell."""
        self.model.load_state_dict(self.weights)
        if arm is not None:
            play(
                self.model,
                self.rows,
                next(one for one in self.study.arms if one.name == arm),
                Course(steps, rate),
                iterations=self.study.iterations,
                seed=seed_of(self.world.seed, "study", self.base.name),
            )
        validation, test = measure(self.model, self.world)
        moved = real_logps(self.model, self.rows[: self.study.scored]) - self.logps
        return Cell(self.base.name, self.world.seed, validation, test, arm, rate, steps, moved)
