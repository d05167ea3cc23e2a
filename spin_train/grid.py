"""SPIN and its control on one grid of settings and seeds, with best and spread."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from spin_train.config.changes import refused_on_branching
from spin_train.config.files import load_config
from spin_train.driver import selfplay
from spin_train.driver.watching import Watcher
from spin_train.errors import DivergedError, UserError
from spin_train.run.branching import branch
from spin_train.run.run import Run
from spin_train.system.files import or_null, write_json
from spin_train.system.ownership import is_run

__all__ = ["Cell", "Failure", "best_cells", "cells", "grid_table", "play_grid", "split_axes"]


@dataclass(frozen=True)
class Cell:
    """One policy at one setting, over the seeds."""

    policy: str
    """``p_1``, ``control 1``, ...; a p_0 that is the same at all settings stands there once."""
    setting: str | None
    """Values of the grid's keys, such as ``0.001`` or ``beta=0.1, epochs=2``; None for p_0."""
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
    setting: str
    """Values of the grid's keys."""
    error: str
    """What went wrong, in one line."""


def split_axes(overrides: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Tell what a grid varies from what it keeps.

    Parameters
    ----------
    overrides : sequence of str
        ``key=value``. A value with a comma outside brackets and quotes is several values.

    Returns
    -------
    axes : dict of str to list of str
        The values of each key that has several.
    fixed : list of str
        The other overrides.

    Examples
    --------
    >>> split_axes(["beta=0.1,1", "epochs=[1,2]", "seed=3"])
    ({'beta': ['0.1', '1']}, ['epochs=[1,2]', 'seed=3'])
    """
    axes: dict[str, list[str]] = {}
    fixed = []
    for override in overrides:
        key, _, value = override.partition("=")
        values = [part.strip() for part in value.split(",")]
        if len(values) == 1 or value.lstrip()[:1] in tuple("[{\"'"):
            fixed.append(override)
        elif not all(values):
            raise UserError(f"{override}: a value of the grid is empty")
        else:
            axes[key] = values
    return axes, fixed


def play_grid(
    config: Path,
    out: Path,
    *,
    axes: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    watch: Watcher | None = None,
) -> tuple[list[Cell], list[Failure]]:
    """Run every setting with every seed, each with its control, and write `grid.json`.

    Parameters
    ----------
    config : Path
        YAML of a run; `control` is set, `seed` and `output_dir` are replaced.
    out : Path
        Directory of the runs; the same call resumes those that exist.
    axes : mapping of str to sequence of str
        Keys that vary, each with its values as on the command line.
    seeds : sequence of int
        Each makes its own data split, SFT, samples and order.
    overrides : sequence of str, optional
        Further ``key=value``.
    watch : callable, optional
        As for `selfplay.play`.

    Returns
    -------
    cells : list of Cell
        Every policy at every setting that diverged with no seed.
    failures : list of Failure
        Runs that diverged; the others are run all the same.

    Raises
    ------
    UserError
        If the grid is empty, two settings look alike, or a run stops for another reason.

    Notes
    -----
    The first run of a seed that ends well lends the others what does not depend on their settings:
    data, SFT and the evaluation of p_0, and samples and scores of iteration 0 where they are the
    same.
    """
    settings = _settings(axes)
    seeds = list(dict.fromkeys(seeds))
    if not settings or not seeds:
        raise UserError("a grid needs at least one value of each key and one seed")
    if (out / "grid.json").exists() and not any(map(is_run, out.glob("seed*/*"))):
        raise UserError(f"{out / 'grid.json'} is not of a grid of runs; choose another --out")
    played: dict[str, list[Run]] = {setting: [] for setting in settings}
    failures: list[Failure] = []
    for seed in seeds:
        first: Run | None = None
        for setting, own in settings.items():
            folder = out / f"seed{seed}" / setting.replace(", ", ",").replace("/", "_")
            # All iterations, so that every setting has every policy.
            given = [*overrides, *own, "selection.patience=null"]
            given += [f"seed={seed}", "control=true", f"output_dir={folder}"]
            run = Run.of(load_config(config, given))
            shares = first and not refused_on_branching(first.config, run.config, at=0)
            if first is not None and first.has_removed(first.policy(0)):
                shares = False  # by `keep`: SFT is done again
            if first is not None and shares and not folder.exists():
                branch(first.root, folder, at=0, overrides=own)
            try:
                selfplay.play(run, watch=_naming(f"seed {seed}, {setting}", watch))
                first = first or run
            except DivergedError as error:  # a rate too large is what a grid is there to find
                failures.append(Failure(seed, setting, str(error)))
            played[setting].append(run)
    found = cells(played)
    selection = next(iter(played.values()))[0].config.selection
    content = or_null(
        {
            "metric": selection.metric,
            "goal": selection.better,
            "axes": {key: list(values) for key, values in axes.items()},
            "failed": [vars(failure) for failure in failures],
            "cells": [{**vars(cell), "mean": cell.mean, "spread": cell.spread} for cell in found],
        }
    )
    write_json(out / "grid.json", content)
    return found, failures


def _settings(axes: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Name each point of the grid, and give its overrides."""
    settings: dict[str, list[str]] = {}
    distinct = {key: list(dict.fromkeys(values)) for key, values in axes.items()}
    for values in itertools.product(*distinct.values()) if distinct else ():
        shown = [_short(value) for value in values]
        names = shown if len(axes) == 1 else map("=".join, zip(distinct, shown, strict=True))
        setting = ", ".join(names)
        if setting in settings:
            raise UserError(f"{setting}: two values of the grid look alike to six digits")
        settings[setting] = [f"{key}={value}" for key, value in zip(distinct, values, strict=True)]
    return settings


def _short(value: str) -> str:
    try:
        return f"{float(value):g}"
    except ValueError:
        return value


def cells(played: dict[str, list[Run]]) -> list[Cell]:
    """Collect the metric of finished runs, given by setting with one run per seed.

    The cells come in the order of settings, then policies. A p_0 that is the same everywhere comes
    once, without a setting.
    """
    found = []
    starts: list[Cell] = []
    for setting, runs in played.items():
        metric = runs[0].config.selection.metric
        numbers = [run.evaluations for run in runs]
        for policy in dict.fromkeys(name for of_run in numbers for name in of_run):
            if not all(metric in of_run.get(policy, {}) for of_run in numbers):
                continue
            values = tuple(of_run[policy][metric] for of_run in numbers)
            if policy != "p_0":
                found.append(Cell(policy, setting, values))
            elif metric != "loss":  # of SFT: no number to compare with self-play's
                starts.append(Cell(policy, setting, values))
    if len({start.values for start in starts}) == 1:
        starts = [Cell("p_0", None, starts[0].values)]
    return [*starts, *found]


def best_cells(found: Sequence[Cell], *, goal: str) -> list[Cell]:
    """Pick each policy's best setting by the mean over seeds."""
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
    """Show mean ± standard deviation over seeds, the best setting of each policy marked.

    One row per policy, one column per setting.
    """
    settings = list(dict.fromkeys(cell.setting for cell in found if cell.setting is not None))
    seeds = max((len(cell.values) for cell in found), default=0)
    over = f" ± standard deviation over {seeds} seeds" if seeds > 1 else " of one seed"
    best = set(best_cells(found, goal=goal))
    table = Table("policy", *settings, title=f"{metric} by setting, mean{over}; * best")
    for name in dict.fromkeys(cell.policy for cell in found):
        row = {cell.setting: cell for cell in found if cell.policy == name}
        if None in row:
            table.add_row(name, _shown(row[None], best=False))
            continue
        shown = [
            _shown(row[setting], best=row[setting] in best) if setting in row else ""
            for setting in settings
        ]
        table.add_row(name, *shown)
    return table


def _shown(cell: Cell, *, best: bool) -> str:
    spread = "" if cell.spread is None else f" ± {cell.spread:.4f}"
    return f"{cell.mean:.4f}{spread}{' *' if best else ''}"


def _naming(run: str, watch: Watcher | None) -> Watcher | None:
    if watch is None:
        return None
    return lambda stage, done, total, note: watch(f"{run}: {stage}", done, total, note)
