"""What may differ between a run and its resumption or branch."""

from collections.abc import Iterable
from typing import Any

from spin_train.config.schema import Config

__all__ = ["changed_keys", "flatten", "is_of_training"]


# What may differ between a run and its resumption without changing its result.
_FREE_KEYS = {
    "evaluation.lm_eval.batch_size",
    "iterations",
    "output_dir",  # it was found there
    "selection.metric",
    "selection.goal",
    "selection.patience",
    "ranks",
    "zero_stage",
    "generation.parity",
    "generation.vllm_memory",
    "training.micro_batch_size",
    "training.micro_batch_tokens",
    "training.save_steps",
    "training.logging_steps",
    "training.report_to",
}


def flatten(config: Config) -> dict[str, Any]:
    """Dotted keys and values of a configuration, defaults included.

    Parameters
    ----------
    config : Config
        A configuration.

    Returns
    -------
    dict
        Such as ``{"training.batch_size": 64}``.
    """

    def walk(prefix: str, value: Any) -> Iterable[tuple[str, Any]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            yield prefix, value

    return dict(walk("", config.model_dump()))


def is_of_training(key: str) -> bool:
    """Say whether a key matters to training stages only: nothing before the first rests on it.

    Parameters
    ----------
    key : str
        Dotted.

    Returns
    -------
    bool
        False for what models are loaded with, such as `training.dtype`.
    """
    own = ("beta", "history_weight", "learning_rate", "epochs", "loss_type")
    start, _, rest = key.partition(".")
    if start == "sft":
        return rest in ("epochs", "learning_rate")
    return key in own or (
        start in ("training", "adapter") and rest not in ("dtype", "quantised", "")
    )


def changed_keys(old: Config, new: Config) -> list[str]:
    """Name the keys whose change would change what a run has already done.

    Parameters
    ----------
    old, new : Config
        The configuration of the run so far, and the one to go on with.

    Returns
    -------
    list of str
        One ``key: old -> new`` a key. More iterations, longer schedules with the same beginning,
        logging, checkpoint spacing, ranks and ZeRO stage may change, and benchmarks may be
        added or left out; the rest may not.
    """
    before, after = flatten(old), flatten(new)
    added = None in (old.evaluation.lm_eval, new.evaluation.lm_eval)
    changes = []
    for key in sorted(before.keys() | after.keys()):
        if key in _FREE_KEYS or before.get(key) == after.get(key):
            continue
        if added and key.startswith("evaluation.lm_eval"):  # benchmarks come in, or are left out
            continue
        if key in ("beta", "history_weight", "learning_rate", "epochs") and all(
            old.at(key, k) == new.at(key, k) for k in range(min(old.iterations, new.iterations))
        ):
            continue
        changes.append(f"{key}: {before.get(key)!r} -> {after.get(key)!r}")
    if new.iterations < old.iterations:
        changes.append(f"iterations: {old.iterations} -> {new.iterations} (more are allowed)")
    return changes


# What the first K iterations do not know of.
_LATER_KEYS = ("iterations", "control", "output_dir")
