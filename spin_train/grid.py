"""SPIN and its control on one grid of learning rates and seeds, with best and spread."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from spin_train.config.files import load_config
from spin_train.driver import selfplay
from spin_train.errors import DivergedError, UserError
from spin_train.run.branching import branch
from spin_train.run.run import Run
from spin_train.system.files import or_null, write_json

__all__ = ["Cell", "Failure", "best_cells", "cells", "grid_table", "play_grid"]


@dataclass(frozen=True)
class Cell:
    """One policy at one learning rate, over the seeds."""

    policy: str
    """``p_1``, ``control 1``, ...; p_0 is the same at all learning rates."""
    learning_rate: float | None
    """Peak learning rate in every iteration; None for p_0."""
    values: tuple[float, ...]
    """The metric, one value per seed."""

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None for one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Failure:
    """A run that diverged."""

    seed: int
    """Seed of the run."""
    learning_rate: float
    """Peak learning rate of the run."""
    error: str
    """What went wrong, in one line."""


def play_grid(
    config: Path,
    out: Path,
    *,
    learning_rates: Sequence[float],
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    watch: selfplay.Watcher | None = None,
) -> tuple[list[Cell], list[Failure]]:
    """Run every learning rate with every seed, each with its control, and write `grid.json`.

    Parameters
    ----------
    config : Path
        YAML of a run; `control` is set, `learning_rate`, `seed` and `output_dir` are replaced.
    out : Path
        Directory of the runs; the same call resumes those that exist.
    learning_rates : sequence of float
        The grid, for self-play and control alike.
    seeds : sequence of int
        Each makes its own data split, SFT, samples and order.
    overrides : sequence of str, optional
        Further ``key=value``.
    watch : callable, optional
        As for `selfplay.play`.

    Returns
    -------
    cells : list of Cell
        Every policy at every learning rate that diverged with no seed.
    failures : list of Failure
        Runs that diverged; the others are run all the same.

    Raises
    ------
    UserError
        If the grid is empty, or a run stops for another reason.
    """
    if not learning_rates or not seeds:
        raise UserError("a grid needs at least one learning rate and one seed")
    learning_rates, seeds = list(dict.fromkeys(learning_rates)), list(dict.fromkeys(seeds))
    played: dict[float, list[Run]] = {rate: [] for rate in learning_rates}
    failures: list[Failure] = []
    for seed in seeds:
        first: Path | None = None
        for rate in learning_rates:
            folder = out / f"seed{seed}" / f"{rate:g}"
            own = [f"learning_rate={rate!r}"]
            if first is not None and not folder.exists():
                branch(first, folder, at=0, overrides=own)  # data, SFT and p_0 are the same
            # All iterations, so that every rate has every policy.
            given = [*overrides, *own, "selection.patience=null"]
            given += [f"seed={seed}", "control=true", f"output_dir={folder}"]
            run = Run.of(load_config(config, given))
            try:
                selfplay.play(run, watch=_naming(f"seed {seed}, {rate:g}", watch))
                first = first or folder
            except DivergedError as error:  # a rate too large is what a grid is there to find
                failures.append(Failure(seed, rate, str(error)))
            played[rate].append(run)
    found = cells(played)
    selection = played[learning_rates[0]][0].config.selection
    content = or_null(
        {
            "metric": selection.metric,
            "goal": selection.better,
            "failed": [vars(failure) for failure in failures],
            "cells": [{**vars(cell), "mean": cell.mean, "spread": cell.spread} for cell in found],
        }
    )
    write_json(out / "grid.json", content)
    return found, failures


def cells(played: dict[float, list[Run]]) -> list[Cell]:
    """Collect the metric of finished runs, given by learning rate with one run per seed.

    The cells come in the order of learning rates, then policies; p_0 once, without a learning rate.
    """
    found = []
    for number, (rate, runs) in enumerate(played.items()):
        metric = runs[0].config.selection.metric
        numbers = [run.evaluations for run in runs]
        for policy in dict.fromkeys(name for of_run in numbers for name in of_run):
            if not all(metric in of_run.get(policy, {}) for of_run in numbers):
                continue
            values = tuple(of_run[policy][metric] for of_run in numbers)
            if policy == "p_0" and metric == "loss":
                continue  # of SFT: no number to compare with self-play's
            if policy != "p_0":
                found.append(Cell(policy, rate, values))
            elif number == 0:
                found.append(Cell(policy, None, values))
    return found


def best_cells(found: Sequence[Cell], *, goal: str) -> list[Cell]:
    """Pick each policy's best learning rate by the mean over seeds."""
    sign = 1 if goal == "min" else -1
    names = dict.fromkeys(cell.policy for cell in found)
    return [
        min(
            (cell for cell in found if cell.policy == name),
            key=lambda cell: (math.isnan(cell.mean), sign * cell.mean),
        )
        for name in names
    ]


def grid_table(found: Sequence[Cell], *, metric: str, goal: str) -> Table:
    """Show mean ± standard deviation over seeds, the best learning rate of each policy marked.

    One row per policy, one column per learning rate.
    """
    rates = list(dict.fromkeys(c.learning_rate for c in found if c.policy != "p_0"))
    seeds = max((len(cell.values) for cell in found), default=0)
    over = f" ± standard deviation over {seeds} seeds" if seeds > 1 else " of one seed"
    best = set(best_cells(found, goal=goal))
    table = Table(
        "policy",
        *(f"{rate:g}" for rate in rates),
        title=f"{metric} by learning rate, mean{over}; * best",
    )
    for name in dict.fromkeys(cell.policy for cell in found):
        row = {cell.learning_rate: cell for cell in found if cell.policy == name}
        if name == "p_0":
            table.add_row(name, *(_shown(cell, best=False) for cell in row.values()))
            continue
        shown = [_shown(row[rate], best=row[rate] in best) if rate in row else "" for rate in rates]
        table.add_row(name, *shown)
    return table


def _shown(cell: Cell, *, best: bool) -> str:
    spread = "" if cell.spread is None else f" ± {cell.spread:.4f}"
    return f"{cell.mean:.4f}{spread}{' *' if best else ''}"


def _naming(run: str, watch: selfplay.Watcher | None) -> selfplay.Watcher | None:
    if watch is None:
        return None
    return lambda stage, done, total, note: watch(f"{run}: {stage}", done, total, note)
