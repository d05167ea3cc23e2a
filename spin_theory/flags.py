"""The flags of `spin-theory`, how they are read, and what `--help` says."""

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from spin_theory.games.solvers import OPTIMISERS
from spin_theory.losses import PENALTIES

__all__ = ["BAD_FLAGS", "build_parser"]

BAD_FLAGS = 2
"""Exit code."""

LARGEST_SEED = 2**62
RULES = {
    "last": "SPIN: the last iterate",
    "mixed": "samples of the last iterate and of --earlier iterates before it",
    "geometric": "geometric mixture with p_0 at weight --base-weight",
    "average": "fictitious play: the average of all iterates",
    "moving": "moving average of log-probs that keeps --decay of itself",
}


class _ShowVersion(argparse.Action):
    """Looks the version up only when asked, because a checkout need not be installed."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        sys.stdout.write(f"spin-theory {importlib.metadata.version('spin-toolkit')}\n")
        parser.exit()


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default once and as it is typed, and none where there is no default."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_FLAGS, f"{self.prog}: {message}\n")


def build_parser(
    commands: Mapping[str, Callable[[argparse.Namespace], int]],
) -> argparse.ArgumentParser:
    """Make the parser of `spin-theory`.

    Parameters
    ----------
    commands : mapping of str to callable
        The functions behind `verify`, `play` and `phase`. Each takes the flags and returns the
        exit code.

    Returns
    -------
    argparse.ArgumentParser
        Its namespaces hold the command's name as `command` and its function as `run`.
    """
    parser = _Parser(prog="spin-theory", description="Self-play fine-tuning on tables, exactly.")
    parser.add_argument(
        "--version", action=_ShowVersion, nargs=0, help="print the version and exit"
    )
    subparsers = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    for name, (summary, add_flags) in _COMMANDS.items():
        command = subparsers.add_parser(
            name, help=summary, formatter_class=partial(_Help, width=100)
        )
        add_flags(command)
        command.set_defaults(run=commands[name])
    return parser


def _add_verify_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--instances", type=_positive, default=200, help="number of random instances"
    )
    parser.add_argument("--seed", type=_seed, default=0, help="seed of the first instance")
    parser.add_argument(
        "--jobs", type=_positive, default=os.cpu_count() or 1, help="worker processes"
    )
    parser.add_argument("--list", action="store_true", help="list the claims without checking them")
    parser.add_argument(
        "--claims",
        nargs="+",
        metavar="PATTERN",
        help="check only claims whose names match, such as '5.2 *' or '*, hinge'",
    )
    layout = parser.add_mutually_exclusive_group()
    layout.add_argument("--json", action="store_true", help="print JSON instead of a table")
    layout.add_argument("--markdown", action="store_true", help="print the table as Markdown")


def _add_play_flags(parser: argparse.ArgumentParser) -> None:
    _add_game_flags(parser)
    parser.add_argument("--prompts", type=_positive, default=1, help="number of prompts")
    parser.add_argument(
        "--beta",
        type=float,
        nargs="+",
        default=[1.0],
        help="one value for all iterations, or one per iteration",
    )
    parser.add_argument(
        "--solver",
        choices=("exact", "minimiser", *OPTIMISERS),
        default="exact",
        help="closed form, certified search, or an optimiser's steps",
    )
    parser.add_argument(
        "--inner-steps", type=_positive, default=10, help="optimiser steps per iteration"
    )
    parser.add_argument(
        "--pairs", type=_positive, help="samples per prompt and iteration (default: all pairs)"
    )


def _add_phase_flags(parser: argparse.ArgumentParser) -> None:
    _add_game_flags(parser)
    parser.add_argument(
        "--betas",
        type=float,
        nargs="+",
        default=[0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 5.0],
        help="one row per value",
    )
    parser.add_argument(
        "--inner-steps",
        type=_steps,
        nargs="+",
        default=[1, 3, 10, 30, 100, 300, "exact"],
        help="optimiser steps per iteration, one column per value; exact is the closed form",
    )
    parser.add_argument(
        "--optimiser", choices=tuple(OPTIMISERS), default="gd", help="optimiser of the inner steps"
    )
    parser.add_argument("--games", type=_positive, default=64, help="random games per cell")


def _add_game_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--algorithm", choices=("spin", "tspin"), default="spin", help="T-SPIN has no reference"
    )
    parser.add_argument(
        "--loss-type", choices=tuple(PENALTIES), default="logistic", help="penalty of the loss"
    )
    parser.add_argument(
        "--opponent",
        choices=tuple(RULES),
        default="last",
        help="; ".join(f"{name}: {rule}" for name, rule in RULES.items()),
    )
    parser.add_argument(
        "--earlier", type=_positive, default=1, help="earlier iterates, with --opponent mixed"
    )
    parser.add_argument(
        "--base-weight", type=float, default=0.5, help="weight of p_0, with --opponent geometric"
    )
    parser.add_argument(
        "--decay", type=float, default=0.9, help="of the average, with --opponent moving"
    )
    parser.add_argument(
        "--history-weight", type=float, default=0.0, help="weight of T-SPIN's history term, >= 0"
    )
    parser.add_argument(
        "--sft-weight", type=float, default=0.0, help="weight of an SFT term, >= 0, per nat"
    )
    parser.add_argument("--responses", type=_positive, default=8, help="number of responses")
    parser.add_argument("--iterations", type=_positive, default=10, help="iterations of self-play")
    parser.add_argument(
        "--learning-rate", type=float, default=1.0, help="learning rate of the optimiser"
    )
    parser.add_argument(
        "--momentum", type=float, default=0.9, help="factor on the last step, for momentum"
    )
    parser.add_argument(
        "--smallest", type=float, default=1e-3, help="smallest probability in a random table"
    )
    parser.add_argument("--seed", type=_seed, default=0, help="seed of the tables and samples")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also save a figure to FILE")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


_COMMANDS = {
    "verify": ("check all claims on random tables", _add_verify_flags),
    "play": ("play one game and print how far each iterate is from the data", _add_play_flags),
    "phase": ("show where games converge, by beta and inner steps", _add_phase_flags),
}


def _positive(text: str) -> int:
    return _integer(text, low=1)


def _seed(text: str) -> int:
    return _integer(text, low=0)


def _steps(text: str) -> int | str:
    return text if text == "exact" else _integer(text, low=0, other=" or exact")


def _integer(text: str, *, low: int, other: str = "") -> int:
    """Read an integer flag from `low` up to what a generator takes as a seed."""
    if not (text.isdecimal() and int(text) >= low):
        raise argparse.ArgumentTypeError(f"must be an integer >= {low}{other}, got {text!r}")
    if int(text) > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"must be at most 2^62, got {text}")
    return int(text)
