"""Command line: `spin-theory verify` checks the theorems, `spin-theory play` plays the game."""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from spin_theory.dynamics import Game, play
from spin_theory.policies import TabularPolicy
from spin_theory.verification import Claim, verify

FAILED, BAD_FLAGS = 1, 2
LARGEST_INTEGER = 2**62


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0, 1 if a claim fails, 2 for flags to mend."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except (ValueError, OSError) as error:
        print(f"spin-theory {options.command}: {error}", file=sys.stderr)
        return BAD_FLAGS
    return code


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> "None":  # type: ignore[override]  # exits, as the base does
        self.exit(BAD_FLAGS, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="spin-theory", description="Self-play fine-tuning on tables, exactly.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)

    check = commands.add_parser("verify", help="check Theorems 5.2 and 5.4 on random tables")
    check.add_argument("--instances", type=_positive, default=200, help="how many (default 200)")
    check.add_argument("--seed", type=_seed, default=0, help="seed of the first (default 0)")
    check.add_argument("--json", action="store_true", help="print JSON instead of a table")
    check.set_defaults(run=_verify)

    game = commands.add_parser("play", help="print KL and TV to the data by iteration")
    game.add_argument("--prompts", type=_positive, default=1)
    game.add_argument("--responses", type=_positive, default=8)
    game.add_argument(
        "--beta",
        type=float,
        nargs="+",
        default=[1.0],
        help="one for all iterations or one for each (default 1.0)",
    )
    game.add_argument("--iterations", type=_positive, default=4)
    game.add_argument("--loss-type", choices=("logistic", "exponential"), default="logistic")
    game.add_argument("--smallest", type=float, default=1e-3, help="least probability drawn")
    game.add_argument("--seed", type=_seed, default=0)
    game.add_argument("--plot", type=Path, metavar="FILE", help="draw the KL to FILE as well")
    game.set_defaults(run=_play)
    return parser


def _positive(text: str) -> int:
    return _integer(text, low=1)


def _seed(text: str) -> int:
    return _integer(text, low=0)


def _integer(text: str, *, low: int) -> int:
    """Read an integer flag from `low` up to what a generator takes as a seed."""
    if not (text.isdecimal() and low <= int(text) <= LARGEST_INTEGER):
        raise argparse.ArgumentTypeError(f"must be an integer, at least {low}, got {text!r}")
    return int(text)


def _verify(options: argparse.Namespace) -> int:
    with _single_threaded(), _progress(range(options.instances)) as seeds:
        claims = verify(seeds=(options.seed + index for index in seeds))
    if options.json:
        print(json.dumps([asdict(claim) | {"holds": claim.holds} for claim in claims], indent=2))
    else:
        print(_table(claims))
    return 0 if all(claim.holds for claim in claims) else FAILED


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Most tables are small: there, a second thread costs more than it brings."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _progress(items: range) -> Iterator[Iterable[int]]:
    """Show a bar on the terminal while the items are walked through, if rich is installed."""
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        yield items
        return
    with Progress(console=Console(stderr=True), transient=True) as progress:
        yield progress.track(items, description="instances")


def _table(claims: Sequence[Claim]) -> str:
    rows = [("claim", "instances", "worst residual", "tolerance", "verdict", "hardest instance")]
    rows += [
        (
            claim.name,
            str(claim.instances),
            f"{claim.worst_residual:.1e}",
            f"{claim.tolerance:.0e}",
            "holds" if claim.holds else f"FAILS in {claim.failures}",
            f"seed {claim.hardest.seed}, Y {claim.hardest.responses}, "
            f"beta {claim.hardest.beta:.3g}, smallest p {claim.hardest.smallest:.1e}",
        )
        for claim in claims
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(max(lines, key=len)), *lines[1:]])


def _play(options: argparse.Namespace) -> int:
    if options.plot is not None:
        _require_plot(options.plot)
    start, data = (
        TabularPolicy.random(
            options.prompts, options.responses, seed=seed, smallest=options.smallest
        )
        for seed in (options.seed, options.seed + 1)
    )
    beta = options.beta[0] if len(options.beta) == 1 else options.beta
    game = play(start, data, beta=beta, iterations=options.iterations, loss_type=options.loss_type)
    print("iteration   beta  KL(data || policy)        TV")
    for iteration, (nats, distance) in enumerate(zip(game.kl, game.tv, strict=True)):
        used = f"{game.betas[iteration - 1]:6.3g}" if iteration else "     -"
        print(f"{iteration:9d} {used}  {float(nats):18.6g}  {float(distance):8.2e}")
    if options.plot is not None:
        _plot(game, options.plot)
    return 0


def _require_plot(path: Path) -> None:
    """Refuse before any work is done: no matplotlib, no folder, or a format it does not know."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        raise ValueError("--plot needs matplotlib: pip install matplotlib") from None
    formats = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix[1:] not in formats:
        raise ValueError(f"--plot FILE must end in one of {', '.join(sorted(formats))}: {path}")
    if not path.parent.is_dir():
        raise ValueError(f"--plot FILE is in a folder that does not exist: {path.parent}")


def _plot(game: Game, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(range(len(game.kl)), game.kl.numpy(), marker="o")
    axes.set(xlabel="iteration", ylabel="KL(data || policy) [nats]")
    # Zero is where self-play should end, and has no place on a logarithmic axis.
    floor = min((float(v) for v in game.kl if v > 0), default=math.nan)
    axes.set_yscale("symlog", linthresh=floor if floor < math.inf else 1.0)
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
