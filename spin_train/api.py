"""A run from Python: the same as the command line."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from spin_train.config.files import load_config, override, parse_config
from spin_train.config.schema import Config
from spin_train.display import results_table, watching
from spin_train.driver import selfplay
from spin_train.run.directory import RunDirectory
from spin_train.run.policies import evaluations
from spin_train.run.selection import Judged, best_policy

__all__ = ["Run", "run"]


@dataclass(frozen=True)
class Run:
    """A run, and what it left."""

    config: Config
    """Resolved."""

    @property
    def policies(self) -> dict[str, Path]:
        """Directory of each policy that self-play has made, by its name: ``p_1``, ``p_2``, ..."""
        directory = RunDirectory(self.config.output_dir)
        paths = {
            f"p_{k + 1}": directory.iteration(k) / "policy" for k in range(self.config.iterations)
        }
        return {name: path for name, path in paths.items() if path.is_dir()}

    @property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """Held-out numbers of each policy and control, by its name."""
        return dict(evaluations(self.config))

    @property
    def best(self) -> Judged | None:
        """Best policy by `selection.metric`."""
        return best_policy(self.config)

    def table(self) -> Table:
        """Held-out numbers as a table.

        Returns
        -------
        rich.table.Table
            A row a policy; shows itself in a notebook.
        """
        return results_table(self.config)


def run(
    config: str | Path | dict[str, Any], overrides: Iterable[str] = (), *, progress: bool = True
) -> Run:
    """Start a run, or go on with it: ``spin-train run``.

    Parameters
    ----------
    config : str, Path or dict
        YAML file, name of a preset, or the keys themselves.
    overrides : iterable of str, optional
        Such as ``beta=0.5``; one may stand alone.
    progress : bool, default True
        Show bars.

    Returns
    -------
    Run
        What it left.

    Raises
    ------
    UserError
        If something you can mend stands in the way.
    """
    overrides = [overrides] if isinstance(overrides, str) else overrides
    if isinstance(config, dict):
        content = copy.deepcopy(config)
        override(content, overrides)
        resolved = parse_config(content)
    else:
        resolved = load_config(config, overrides)
    if progress:
        with watching() as watch:
            selfplay.run(resolved, watch=watch)
    else:
        selfplay.run(resolved)
    return Run(resolved)
