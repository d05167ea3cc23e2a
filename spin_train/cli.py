"""The command line `spin-train`: what plays. `looking` and `sharing` have the other commands."""

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import (
    Annotated,
    Any,
    NoReturn,
    TypeVar,
)

import typer

from spin_train.config.files import load_config
from spin_train.config.schema import Config
from spin_train.errors import StoppedError, UserError, WorkerError, disk_full
from spin_train.looking import WIDE, add_commands, path_of
from spin_train.sharing import add_commands as add_sharing
from spin_train.system.processes import cpu_only
from spin_train.system.world import world_of

__all__ = ["app", "main"]

_Number = TypeVar("_Number", int, float)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Self-play fine-tuning (SPIN, T-SPIN) of causal language models.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"spin-train {importlib.metadata.version('spin-toolkit')}")
        raise typer.Exit


@app.callback()
def _spin_train(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Keep `run` a subcommand of its own."""


@app.command()
def run(
    config: Annotated[
        Path,
        typer.Argument(help="YAML file or name of a preset; `spin-train keys` lists the keys."),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, such as training.batch_size=8")
    ] = None,
    restart_iteration: Annotated[
        bool,
        typer.Option(
            "--restart-iteration",
            help="Train the unfinished iteration again from its opponent, not from a checkpoint.",
        ),
    ] = False,
    until: Annotated[
        str | None,
        typer.Option(
            help="End after this stage, such as iter0/generate; `spin-train status` names them."
        ),
    ] = None,
    wide: Annotated[bool, WIDE] = False,
) -> None:
    """Start a run or resume it; the same command does both."""
    _run(
        lambda: load_config(config, overrides or []),
        restart_iteration=restart_iteration,
        until=until,
        wide=wide,
    )


@app.command()
def fetch(
    config: Annotated[Path, typer.Argument(help="YAML file or name of a preset.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, as for run; the same as for run")
    ] = None,
) -> None:
    """Bring all that a run needs from the network, so that it can do without.

    For clusters whose compute nodes have no network: model, benchmarks and rows
    come on a login node. The model lies in the hub's cache (HF_HOME, which the
    nodes must share), and the rows are prepared in output_dir.
    """
    from spin_train.display import watching
    from spin_train.driver.fetching import fetch as bring

    with watching() as watch:
        found = bring(load_config(config, overrides or []), watch=watch)
    if found.model is not None:
        print(f"model: {found.bytes / 1e6:,.1f} MB in {found.model}")
    if found.tasks:
        print(f"benchmarks: {', '.join(found.tasks)}")
    print(f"rows: prepared in {found.run.directory.train_rows.parent}")
    print(f"without a network: HF_HUB_OFFLINE=1 spin-train run {found.run.directory.config_file}")


@app.command()
def branch(
    run: Annotated[
        Path, typer.Argument(parser=path_of, help="Directory of the run to branch from.")
    ],
    new: Annotated[Path, typer.Argument(parser=path_of, help="Directory of the new run.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value to change in the new run")
    ] = None,
    at: Annotated[int, typer.Option(min=0, help="Iterations to keep.")] = 0,
) -> None:
    """Start a new run from the first iterations of another; `run NEW/config.yaml` continues it."""
    from spin_train.run.branching import branch as begin

    begin(run, new, at=at, overrides=overrides or [])
    print(f"continue with: spin-train run {new}/config.yaml")


@app.command()
def grid(
    config: Annotated[Path, typer.Argument(parser=path_of, help="YAML file of the run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key=value; with several values, a key to vary: beta=0.1,1"),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="Seeds, such as 0,1,2; default: the seed of the configuration."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(parser=path_of, help="Directory for the runs; existing ones are resumed."),
    ] = Path("runs/grid"),
    learning_rates: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Run self-play and its control (continued SFT) on one grid, with best and spread."""
    if learning_rates:
        raise UserError(f"write learning_rate={learning_rates} instead of --learning-rates")
    from spin_train.display import show_table, watching
    from spin_train.grid import grid_table, play_grid, split_axes

    axes, fixed = split_axes(overrides or [])
    if "seed" in axes:
        raise UserError("seed: give --seeds " + ",".join(axes["seed"]))
    if not axes:
        raise UserError("a grid needs a key with several values, such as learning_rate=1e-6,3e-6")
    resolved = load_config(config, [*fixed, f"output_dir={out}"])
    with watching() as watch:
        cells, failures = play_grid(
            config,
            out,
            axes=axes,
            seeds=[resolved.seed] if seeds is None else _numbers(seeds, int),
            overrides=fixed,
            watch=watch,
        )
    selection = resolved.selection
    show_table(grid_table(cells, metric=selection.metric, goal=selection.better))
    for failure in failures:
        print(f"seed {failure.seed}, {failure.setting}: {failure.error}")
    print(f"numbers: {out}/grid.json")


add_commands(app)
add_sharing(app)


@app.command()
def demo(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, such as beta=1; needs a new --out")
    ] = None,
    out: Annotated[
        Path,
        typer.Option(parser=path_of, help="Directory for the demo; an existing one is resumed."),
    ] = Path("runs/demo"),
    ranks: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
) -> None:
    """Run SPIN on a small language with known p_data; no download, a few minutes on two cores."""
    # Before torch is loaded: a thread that spins while it waits takes a core from a worker.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if cpu_only():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from spin_train.demo import demo_table, run_demo
    from spin_train.display import show_table, watching

    with watching() as watch:
        run, measurements = run_demo(out, ranks=ranks, overrides=overrides or [], watch=watch)
    show_table(demo_table(measurements))
    print(f"numbers: {out}/demo.json; policies: {run.root}/iterK/policy")
    print(f"the same run by hand: spin-train run {out}/demo.yaml")


@app.command()
def bridge(
    out: Annotated[
        Path, typer.Option(parser=path_of, help="Directory for networks and runs; kept ones count.")
    ] = Path("runs/bridge"),
    everything: Annotated[
        bool, typer.Option("--all", help="Also whole games, more sample sizes, more steps.")
    ] = False,
) -> None:
    """Train small networks with the real trainer, against the exact theory.

    The world is small enough to write down: 4 prompts, 8 responses to each.
    p_data and p_0 are Llamas. Every pair (y, y') is a record that weighs
    p_data(y) p_t(y'), so the loss of a run is the expectation, and theory
    says where it ends: SPIN at p_t (p_data / p_t)^(1 / beta).

    A row has to end within a total variation of 1e-3 of its closed form, and
    further from wrong ones; where one does not, the exit code is 1. Each is a
    run of its own in the directory, as `status` and `results` take them. The
    same command goes on where it was stopped. See docs/bridge.md.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if cpu_only():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from spin_train.display import show_table, watching
    from spin_train.lab.bridge import build_bridge
    from spin_train.lab.figure import save_figure, tables

    with watching() as watch:
        found = build_bridge(out, everything=everything, watch=watch)
    for table in tables(found):
        show_table(table)
    print(f"numbers: {out}/bridge.json")
    if importlib.util.find_spec("matplotlib"):
        save_figure(found, out / "bridge.png")
        print(f"figure: {out}/bridge.png")
    else:
        print("no figure: pip install 'spin-toolkit[plots]'")
    if not found.holds:
        raise typer.Exit(1)


@app.command()
def study(
    out: Annotated[
        Path, typer.Option(parser=path_of, help="Directory for bases and cells; kept ones count.")
    ] = Path("runs/study"),
    quick: Annotated[bool, typer.Option(help="Two bases, two seeds, one setting.")] = False,
    minutes: Annotated[
        float, typer.Option(min=0, help="Begin no cell after so long; the same command goes on.")
    ] = 150,
) -> None:
    """Compare self-play with continued SFT, from five kinds of base, on a known language.

    KL to the data, valid mass and greedy accuracy are exact. Each arm's learning
    rate and steps are chosen on prompts of their own. See docs/when-spin-helps.md.
    """
    from spin_train.display import show_table, watching
    from spin_train.lab.study.cells import QUICK, STUDY, run_study
    from spin_train.lab.study.figure import save_figure, tables
    from spin_train.lab.study.verdicts import results

    grid = QUICK if quick else STUDY
    with watching() as watch:
        cells = run_study(out, grid, minutes=minutes, watch=watch)
    found = results(cells, grid)
    for table in tables(cells, grid):
        show_table(table)
    print(f"{len(cells)} of {grid.lines} cells: {out}/cells.jsonl")
    if found and importlib.util.find_spec("matplotlib"):
        save_figure(found, out / "study.png")
        print(f"figure: {out}/study.png")
    if len(cells) < grid.lines:
        print("run the same command again to go on")


def _numbers(text: str, kind: Callable[[str], _Number]) -> list[_Number]:
    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"{text!r} is not a list of numbers separated by commas") from None


def _run(
    load: Callable[[], Config], *, restart_iteration: bool, until: str | None, wide: bool
) -> None:
    world = world_of(os.environ)
    config = load() if world is None else None
    if cpu_only():  # lm-eval and transformers import DeepSpeed, which would warn
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from spin_train.display import show_results, watching
    from spin_train.driver import selfplay
    from spin_train.run.run import Run

    options: dict[str, Any] = {"restart_iteration": restart_iteration, "until": until}
    with watching() as watch:
        if config is None:
            assert world is not None
            from spin_train.driver.cluster import play_together

            run = play_together(world, load, watch=watch, **options)
        else:
            run = Run.of(config)
            selfplay.play(run, watch=watch, **options)
    show_results(run, wide=wide)
    print(f"numbers: {run.directory.results}")
    played = run.iterations_wanted
    if played < run.config.iterations:
        print(
            f"stopped after p_{played}: no better policy in {run.config.selection.patience} "
            "iterations; raise selection.patience to continue"
        )


def main() -> None:
    """Run the command line; exit 0, 2 (fix it), 1 (our fault) or 128 + signal."""
    try:
        app()
    except UserError as error:
        _leave(2, str(error))
    except WorkerError as error:
        _leave(1, str(error))
    except PermissionError as error:
        _leave(2, f"{error}: make it writable, or choose another output_dir")
    except OSError as error:
        if not disk_full(error):
            raise
        _leave(2, f"the disk is full ({error}): free some space, then run the same command again")
    except StoppedError as error:
        _leave(128 + int(error.args[0]), "stopped; run the same command again to resume")


def _leave(code: int, line: str) -> NoReturn:
    with suppress(BrokenPipeError):
        print(f"spin-train: {line}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
