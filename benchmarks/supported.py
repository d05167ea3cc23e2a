"""What a run takes, refuses or leaves out, read from the program: docs/supported.md.

``python -m benchmarks.supported --write`` writes the tables of the page; without it they are
printed. A test compares the page with the program.
"""

import argparse
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import transformers
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from benchmarks.pages import DOCS, write_between
from spin_train.config.arguments import MANAGED_ARGUMENTS, PASSED_ON, WITHOUT_EFFECT
from spin_train.data import fields, formats, opening
from spin_train.data.folders import SUFFIXES
from spin_train.data.formats import FORMATS, RowError, SftRow, row_of
from spin_train.model import checkpoint
from spin_train.system import surroundings, world

__all__ = ["PAGE", "tables"]

PAGE = DOCS / "supported.md"
_BARE = {"prompt": "p", "response": "r"}
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
# A value for every key that the program knows, and two that it does not.
_NEXT_TO_A_ROW: dict[str, Any] = {
    **dict.fromkeys(formats._SYSTEM, "s"),
    "history": [["p", "r"]],
    "tools": [_TOOL],
    "functions": [_TOOL],
    **dict.fromkeys(formats._LABELS, False),
    **dict.fromkeys((*formats._ROW_WEIGHTS, *formats._MARKS), 0),
    **dict.fromkeys(fields._MEDIA, "f.png"),
    **dict.fromkeys(("id", "source"), "x"),
}


def _markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(head)
    lines = [titles, ["---"] * len(titles), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _files() -> str:
    packed = ", ".join(sorted(opening._PACKED.values()))
    rows = [
        ("read", _code(SUFFIXES)),
        ("read, compressed by", ", ".join(sorted(opening._MAGIC.values()))),
        ("refused: unpack it first", packed),
    ]
    return _markdown(("files", "which"), rows)


def _formats() -> str:
    rows = [(f"`{name}`", _code(keys)) for name, (keys, _) in FORMATS.items()]
    return _markdown(("`data.shape`", "keys"), rows)


def _what_becomes_of(key: str, value: Any) -> str:
    """Read a row that has the key, and say what has changed."""
    bare = row_of(_BARE, "row")
    try:
        row = row_of({**_BARE, key: value}, "row")
    except RowError as error:
        return "refused: " + str(error).removeprefix("row: ").partition(": ")[2].partition(";")[0]
    if row.unused:
        return "counted and named"
    return f"used: {_difference(bare, row)}"


def _difference(bare: SftRow, row: SftRow) -> str:
    if row == replace(bare, weight=row.weight, label=row.label):
        return "weight of the row" if row.weight != bare.weight else "whether it is wanted"
    return "schemas of tools" if row.tools else "turns before the prompt"


def _fields() -> str:
    found: dict[str, list[str]] = {}
    for key, value in _NEXT_TO_A_ROW.items():
        found.setdefault(_what_becomes_of(key, value), []).append(key)
    rows = [(what, _code(keys)) for what, keys in found.items()]
    return _markdown(("what happens", "keys"), rows)


def _weights() -> str:
    rows = [
        ("taken", f"safetensors of {_code(sorted(checkpoint._TRAINED_TYPES))}"),
        ("refused", f"a configuration with {_code(checkpoint.QUANTISED)}; weights of other types"),
        ("refused, with the command to run first", "GGUF files; adapters without their base"),
    ]
    return _markdown(("weights", "which"), rows)


def _arguments() -> str:
    refused: dict[str, list[str]] = {}
    for name, reason in {**MANAGED_ARGUMENTS, **WITHOUT_EFFECT}.items():
        refused.setdefault(reason, []).append(name)
    rows = [("passed on", _code(sorted(PASSED_ON)))]
    rows += [(f"refused: {reason}", _code(sorted(names))) for reason, names in refused.items()]
    return _markdown(("what happens", "keys under `training`"), rows)


def _names() -> str:
    kinds: dict[str, Any] = {
        "training.optim": OptimizerNames,
        "training.lr_scheduler_type": SchedulerType,
    }
    rows = [(f"`{key}`", _code(item.value for item in kind)) for key, kind in kinds.items()]
    return f"With transformers {transformers.__version__}:\n\n" + _markdown(("key", "names"), rows)


def _launchers() -> str:
    started = "all of them together: this is one of several processes of a launcher"
    rows = [
        (started, _code(world._OF_TORCH)),
        (started, _code(world._OF_SLURM)),
        ("refused where it is more than 1", _code(surroundings._SIZES)),
        ("left out for the workers", _code(surroundings._RANKS)),
        ("left out for the workers", _code(f"{prefix}*" for prefix in surroundings._PREFIXES)),
        ("left out if this machine lacks the interface", _code(surroundings.INTERFACES)),
        ("left out if it is not a number of threads", _code(surroundings.THREADS)),
    ]
    return _markdown(("what happens", "variables"), rows)


def tables() -> dict[str, str]:
    """Give the tables of the page, by the name of their markers."""
    return {
        "files": _files(),
        "formats": _formats(),
        "fields": _fields(),
        "weights": _weights(),
        "arguments": _arguments(),
        "names": _names(),
        "launchers": _launchers(),
    }


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write the tables into {PAGE.name}")
    arguments = parser.parse_args()
    for name, text in tables().items():
        print(f"{text}\n")
        if arguments.write:
            write_between(PAGE, name, text)


if __name__ == "__main__":
    main()
