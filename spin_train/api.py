"""A run from Python: the same as the command line."""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spin_train.config.files import load_config, override, parse_config
from spin_train.config.schema import Config
from spin_train.data.from_python import write_rows
from spin_train.display import watching
from spin_train.driver import selfplay
from spin_train.run.run import Run

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Run", "open_run", "run"]

_ROWS = "rows.jsonl"


def open_run(directory: str | Path) -> Run:
    """Open a run without starting it.

    Parameters
    ----------
    directory : str or Path
        Directory of a run, finished or not, or of a demo.

    Returns
    -------
    Run
        Its policies, evaluations, metrics and samples, read from its files when asked.

    Raises
    ------
    UserError
        If there is no run.
    """
    return Run.open(directory)


def run(
    config: str | Path | dict[str, Any],
    overrides: Iterable[str] = (),
    *,
    rows: "Iterable[Mapping[str, Any]] | Dataset | None" = None,
    progress: bool = True,
) -> Run:
    """Start a run or resume it, like ``spin-train run``.

    Interrupting the notebook cell saves and stops, as Ctrl-C does on the command line; the same
    call resumes.

    Parameters
    ----------
    config : str, Path or dict
        YAML file, name of a preset, or the keys themselves.
    overrides : iterable of str, optional
        Such as ``beta=0.5``; a single one may be a plain string.
    rows : iterable of dict or datasets.Dataset, optional
        SFT rows in place of `data.path`, in any format that `data.shape` names. They are written
        to ``rows.jsonl`` in `output_dir`; the run resumes only with the same rows.
    progress : bool, default True
        Show progress bars.

    Returns
    -------
    Run
        The finished run.

    Raises
    ------
    UserError
        If the run cannot start or continue because of something that you can fix.
    StoppedError
        If it was interrupted.
    """
    overrides = [overrides] if isinstance(overrides, str) else list(overrides)
    if rows is None:
        started = Run.of(_resolved(config, overrides))
    else:
        started = _with_rows(_resolved(config, [*overrides, f"data.path={_ROWS}"]), rows)
    if progress:
        with watching() as watch:
            selfplay.play(started, watch=watch)
    else:
        selfplay.play(started)
    return started


def _resolved(config: str | Path | dict[str, Any], overrides: Iterable[str]) -> Config:
    if not isinstance(config, dict):
        return load_config(config, overrides)
    content = copy.deepcopy(config)
    override(content, overrides)
    return parse_config(content)


def _with_rows(config: Config, rows: Iterable[Mapping[str, Any]]) -> Run:
    """Write the rows into the run's directory, and use them as its data."""
    run = Run.of(config)
    path = run.root / _ROWS
    write_rows(rows, path, replace=not run.manifest().content["stages"])
    data = config.data.model_copy(update={"path": str(path)})
    return Run(config.model_copy(update={"data": data}), run.directory)
