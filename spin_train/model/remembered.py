"""Ways that were exact on one model of a kind, remembered for the next one of that kind.

All policies of a run share one architecture, and a worker loads one for nearly every stage. Which
way is exact depends on the architecture, so the long trial runs once per worker. What the weights
can change shows in short rows too: values that are not finite, and rounding. So a remembered way
is confirmed on short rows, and all ways are tried again where that fails.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from spin_train.errors import UserError
from spin_train.model.exactness import is_sharded
from spin_train.model.trials import length_to_try

__all__ = ["exact_way", "forget_ways"]

# Settings of a model that change with where it was saved, and no number of a forward pass.
_NOT_OF_THE_KIND = frozenset(
    ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")
)
_names: dict[tuple[str, str, int], str] = {}
_log = logging.getLogger(__name__)
Way = TypeVar("Way")


def exact_way(
    purpose: str,
    module: Any,
    ways: Mapping[str, Way],
    length: int,
    search: Callable[[Mapping[str, Way], int], Way],
) -> Way:
    """Give the first of `ways` that is exact on rows of up to `length` tokens.

    `search` tries the ways that it is given on rows as long as it is told, and returns the first
    that is exact; UserError without one. `purpose` keeps the ways of scoring and sampling apart.
    """
    key = (purpose, _kind(module), length)
    name = _names.get(key, "")
    if name in ways:
        short = min(length, length_to_try(module.config.get_text_config(), 1))
        try:
            return search({name: ways[name]}, short)
        except UserError as error:
            _log.warning("%s: every way is tried again: %s", type(module).__name__, error)
    found = search(ways, length)
    _names[key] = next(name for name, way in ways.items() if way is found)
    return found


def forget_ways() -> None:
    """Let the next model of any kind be tried at full length."""
    _names.clear()


def _kind(module: Any) -> str:
    """Digest of all that decides which code a forward pass runs, but for the values of weights.

    Ranks that share one model try together. They remember alike, because only trials with shared
    weights count for it, and all ranks ran those.
    """
    config = module.config.to_dict()
    parameters = [(name, str(value.dtype)) for name, value in module.named_parameters()]
    described = [
        [type(module).__module__, type(module).__qualname__, is_sharded(module)],
        {name: value for name, value in config.items() if name not in _NOT_OF_THE_KIND},
        [module.config._attn_implementation, str(next(module.parameters()).device)],
        parameters,
    ]
    text = json.dumps(described, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
