"""A run from Python: the same as the command line."""

import copy
from collections.abc import Iterable, Mapping
from functools import partial
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
    return Run.open(Path(directory).expanduser())


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
    given = [] if rows is None else [f"data.path={_ROWS}"]
    started = Run.of(_resolved(config, [*overrides, *given]))
    before = None
    if rows is not None:
        started = _with_own_rows(started)
        before = partial(_keep_rows, rows, started)
    if progress:
        with watching() as watch:
            selfplay.play(started, watch=watch, before=before)
    else:
        selfplay.play(started, before=before)
    return started


def _resolved(config: str | Path | dict[str, Any], overrides: Iterable[str]) -> Config:
    if not isinstance(config, dict):
        return load_config(config, overrides)
    content = copy.deepcopy(config)
    override(content, overrides)
    return parse_config(content)


def _with_own_rows(run: Run) -> Run:
    """Take the rows in the run's directory as its data, by the name they were saved under."""
    path = str(run.root / _ROWS)
    if run.directory.config_file.is_file():
        saved = load_config(run.directory.config_file).data.path
        if Path(saved).name == _ROWS:  # the directory may have moved since
            path = saved
    data = run.config.data.model_copy(update={"path": path})
    return Run(run.config.model_copy(update={"data": data}), run.directory)


def _keep_rows(rows: Iterable[Mapping[str, Any]], run: Run) -> None:
    write_rows(rows, run.root / _ROWS, replace=not run.manifest().content["stages"])
