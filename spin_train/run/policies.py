"""The numbers of all policies of a run, gathered from its stages."""

import math
from pathlib import Path
from typing import Any

from spin_train.config.schema import Config
from spin_train.run.directory import RunDirectory
from spin_train.system.files import read_json, write_json

__all__ = ["benchmarks", "evaluations", "or_null", "policy_folders", "write_results"]


def policy_folders(config: Config) -> list[tuple[str, Path]]:
    """Where the numbers of each policy lie.

    Parameters
    ----------
    config : Config
        The run's.

    Returns
    -------
    list of tuple
        Name of the policy and its directory: p_0, then policy and control by iteration.
    """
    directory = RunDirectory(config.output_dir)
    folders = [("p_0", directory.initial)]
    for k in range(config.iterations):
        folders.append((f"p_{k + 1}", directory.iteration(k)))
        if config.control:
            folders.append((f"control {k + 1}", directory.control(k)))
    return folders


def evaluations(config: Config) -> list[tuple[str, dict[str, Any]]]:
    """Read the evaluations of a run.

    Parameters
    ----------
    config : Config
        The run's.

    Returns
    -------
    list of tuple
        Name of the policy and its held-out numbers, in the order of `policy_folders`; those not
        evaluated yet are left out.
    """
    return [
        (name, _read(folder / "evaluation.json"))
        for name, folder in policy_folders(config)
        if (folder / "evaluation.json").is_file()
    ]


def benchmarks(folder: Path) -> dict[str, dict[str, Any]]:
    """Read the benchmarks of one policy.

    Parameters
    ----------
    folder : Path
        From `policy_folders`.

    Returns
    -------
    dict
        Task to what lm-eval found; empty without any.
    """
    return {path.stem: _read(path) for path in sorted((folder / "benchmark").glob("*.json"))}


def write_results(config: Config) -> Path:
    """Write the numbers of all policies into one file.

    Parameters
    ----------
    config : Config
        The run's.

    Returns
    -------
    Path
        ``results.json``: a list with an object a policy: its name, its directory, the numbers of
        its evaluation.json, and under ``benchmarks`` those of lm-eval. What is no number is null.
    """
    directory = RunDirectory(config.output_dir)
    numbers = dict(evaluations(config))
    rows = [
        {
            "policy": name,
            "folder": str(folder.relative_to(directory.root)),
            **numbers[name],
            "benchmarks": benchmarks(folder),
        }
        for name, folder in policy_folders(config)
        if name in numbers
    ]
    write_json(directory.results, or_null(rows))
    return directory.results


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_json(path)
    return content


def or_null(content: Any) -> Any:
    """Take null for what JSON has no number for.

    Parameters
    ----------
    content : object
        Lists, dictionaries, numbers, nested.

    Returns
    -------
    object
        The same, None in place of nan and infinities.
    """
    if isinstance(content, dict):
        return {key: or_null(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [or_null(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
