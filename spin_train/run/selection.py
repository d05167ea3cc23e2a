"""Which policy of a run is the best by a held-out number, and when to stop for want of a better."""

import math
from dataclasses import dataclass
from pathlib import Path

from spin_train.config.schema import Config
from spin_train.errors import UserError
from spin_train.run.directory import RunDirectory
from spin_train.run.policies import evaluations, policy_folders
from spin_train.system.files import write_json

__all__ = ["Judged", "best_policy", "iterations_wanted", "judged_policies", "write_best"]

ROUNDING = 1e-6
"""Relative: float32 rounds at 6e-8, so sums of log-probs in another order differ by a few 1e-7."""


@dataclass(frozen=True)
class Judged:
    """A policy with the number it is judged by."""

    name: str
    """p_0, p_1, ..."""
    policy: str
    """Where it is."""
    value: float
    """Its `selection.metric`."""


def judged_policies(config: Config) -> list[Judged]:
    """Policies evaluated so far, in the order they were made.

    Parameters
    ----------
    config : Config
        The run's.

    Returns
    -------
    list of Judged
        Without p_0 where the metric takes an opponent.

    Raises
    ------
    UserError
        If a self-play evaluation knows no such number.
    """
    start = RunDirectory(config.output_dir).sft / "policy" if config.sft else config.model
    folders = dict(policy_folders(config))
    judged = []
    for name, numbers in evaluations(config):
        if name.startswith("control"):
            continue
        value = numbers.get(config.selection.metric)
        if name == "p_0" and config.selection.metric == "loss":
            continue  # of SFT: no number to compare with self-play's
        if isinstance(value, int | float):
            policy = start if name == "p_0" else folders[name] / "policy"
            judged.append(Judged(name, str(policy), value))
        elif name != "p_0":
            raise UserError(
                f"selection.metric: no number {config.selection.metric!r} in {folders[name]}/"
                f"evaluation.json; there are {', '.join(sorted(numbers))}"
            )
    return judged


def best_policy(config: Config) -> Judged | None:
    """Best policy so far; of policies that differ by rounding alone, the earliest.

    Parameters
    ----------
    config : Config
        The run's.

    Returns
    -------
    Judged or None
        None before the first evaluation.
    """
    best = None
    for policy in judged_policies(config):
        if best is None or _is_better(config, policy.value, best.value):
            best = policy
    return best


def iterations_wanted(config: Config) -> int:
    """How many iterations to play, by what is evaluated so far.

    Parameters
    ----------
    config : Config
        The run's.

    Returns
    -------
    int
        `iterations`, or fewer where `selection.patience` iterations in a row brought no better
        policy.
    """
    patience = config.selection.patience
    if patience is None:
        return config.iterations
    best, since = math.nan, 0
    for judged in judged_policies(config):
        better = _is_better(config, judged.value, best)
        best, since = (judged.value, 0) if better else (best, since + 1)
        if since >= patience and judged.name != "p_0":
            return int(judged.name.removeprefix("p_"))
    return config.iterations


def write_best(config: Config) -> Path | None:
    """Write `best.json`: the best policy so far, and all values.

    Parameters
    ----------
    config : Config
        The run's.

    Returns
    -------
    Path or None
        The file; None before the first evaluation.
    """
    best = best_policy(config)
    if best is None:
        return None
    path = RunDirectory(config.output_dir).root / "best.json"
    content = {
        "metric": config.selection.metric,
        "goal": config.selection.better,
        "best": vars(best),
        "values": {judged.name: judged.value for judged in judged_policies(config)},
        "stopped_early": iterations_wanted(config) < config.iterations,
    }
    write_json(path, content)
    return path


def _is_better(config: Config, value: float, best: float) -> bool:
    """Whether a value is better by more than rounding; nan is never, and worse than any."""
    if math.isnan(value) or math.isnan(best):
        return not math.isnan(value)
    differs = not math.isclose(value, best, rel_tol=ROUNDING)
    return differs and (value < best) == (config.selection.better == "min")
