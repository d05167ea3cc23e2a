"""The command line: `spin-train run`, `status`, `results`, `samples`, `report`, ..."""

import importlib.metadata
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import (
    Annotated,
    Any,
    NoReturn,
    TypeVar,
)

import typer

from spin_train.config.files import allowed_values, known_keys, load_config, presets, section_of
from spin_train.config.paths import expanded
from spin_train.config.schema import Config
from spin_train.errors import StoppedError, UserError, WorkerError, disk_full
from spin_train.system.processes import cpu_only
from spin_train.system.world import world_of

__all__ = ["app", "main"]

_Number = TypeVar("_Number", int, float)

_WIDE = typer.Option("--wide", help="Show all held-out numbers; takes 140 columns.")


def _path(text: str | Path) -> Path:
    """Path of the command line; shells leave `~` alone after an equals sign or in quotes."""
    try:
        return Path(expanded(str(text)))
    except ValueError as error:
        raise UserError(f"{text}: {error}") from None


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
    wide: Annotated[bool, _WIDE] = False,
) -> None:
    """Start a run or resume it; the same command does both."""
    _run(
        lambda: load_config(config, overrides or []),
        restart_iteration=restart_iteration,
        until=until,
        wide=wide,
    )


@app.command()
def branch(
    run: Annotated[Path, typer.Argument(parser=_path, help="Directory of the run to branch from.")],
    new: Annotated[Path, typer.Argument(parser=_path, help="Directory of the new run.")],
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
    config: Annotated[Path, typer.Argument(parser=_path, help="YAML file of the run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key=value; with several values, a key to vary: beta=0.1,1"),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="Seeds, such as 0,1,2; default: the seed of the configuration."),
    ] = None,
    out: Annotated[
        Path, typer.Option(parser=_path, help="Directory for the runs; existing ones are resumed.")
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


@app.command()
def status(
    run_dir: Annotated[
        Path, typer.Argument(parser=_path, help="Directory of a run (its output_dir).")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how far a run is: stages, progress, time left, last loss, last error."""
    from spin_train.run.status import read_status

    found = read_status(run_dir)
    if as_json:
        print(json.dumps(asdict(found), indent=2))
        return
    from spin_train.display import show_table, status_table
    from spin_train.run.tables import duration

    show_table(status_table(found))
    finished = all(stage.state == "done" for stage in found.stages)
    print("a process is working on it" if found.working else "no process is working on it")
    if not finished:
        print(f"time left: {duration(found.eta_seconds) or 'not known yet'}")
    if found.loss_in_words is not None:
        print(f"last logged: {found.loss_in_words} ({found.loss_at})")
    if found.error:
        print(f"last error: {found.error}")
    if found.log:
        print(f"log: {found.log}")


@app.command()
def results(
    runs: Annotated[
        list[Path], typer.Argument(parser=_path, help="Directories of runs (their output_dir).")
    ],
    wide: Annotated[bool, _WIDE] = False,
) -> None:
    """Show the held-out numbers of runs, finished or not, and the best policy of each."""
    from spin_train.display import show_results
    from spin_train.run.run import Run

    for root in runs:
        show_results(Run.open(root), wide=wide)


@app.command()
def samples(
    run_dir: Annotated[
        Path, typer.Argument(parser=_path, help="Directory of a run (its output_dir).")
    ],
    split: Annotated[str, typer.Option(help="held_out or train.")] = "held_out",
    prompts: Annotated[int, typer.Option(min=1, help="Prompts to show.")] = 5,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON lines of all prompts.")
    ] = False,
) -> None:
    """Show prompts with the human response and what each policy answered."""
    from spin_train.run.frames import prompts_with_samples
    from spin_train.run.run import Run

    run = Run.open(run_dir)
    found = prompts_with_samples(run.config, run.directory, split=split)
    if as_json:
        for answer in found:
            print(json.dumps(answer, ensure_ascii=False))
        return
    from spin_train.display import show_answers

    show_answers(found[:prompts])
    if len(found) > prompts:
        print(f"{len(found) - prompts} more prompts: --prompts {len(found)}, or --json")


@app.command()
def report(
    run_dir: Annotated[
        Path, typer.Argument(parser=_path, help="Directory of a run (its output_dir).")
    ],
    out: Annotated[
        Path | None,
        typer.Option(parser=_path, help="File to write; default: report.html in the run."),
    ] = None,
    prompts: Annotated[int, typer.Option(min=0, help="Held-out prompts to show.")] = 500,
) -> None:
    """Write one page about a run: what was done, what came out, what the policies answer."""
    from spin_train.report.page import write_report
    from spin_train.run.run import Run

    print(f"open {write_report(Run.open(run_dir), out, prompts=prompts)}")


@app.command()
def keys(
    beginning: Annotated[
        str, typer.Argument(help="Show only keys that begin with this, such as training.")
    ] = "",
) -> None:
    """List every configuration key with its default, allowed values and meaning."""
    found = {key: field for key, field in known_keys().items() if key.startswith(beginning)}
    if not found:
        raise UserError(f"no key begins with {beginning!r}; `spin-train keys` lists all keys")
    for key, field in found.items():
        if section_of(field) is None:
            default = "required" if field.is_required() else repr(field.default)
            print(f"{key} [{default}]{allowed_values(field.annotation)}: {field.description}")
        elif field.description:
            print(f"{key}: {field.description}")


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(parser=_path, help="GGUF file.")],
    out: Annotated[Path, typer.Argument(parser=_path, help="Directory to write; a new one.")],
) -> None:
    """Make a model directory of a GGUF file, as `model` takes it; needs the extra `gguf`."""
    from spin_train.model.gguf_files import convert as write

    print(f"give it to a run: model={write(file, out)}")


@app.command("presets")
def show_presets(
    name: Annotated[str | None, typer.Argument(help="Preset to print.")] = None,
) -> None:
    """List the presets, or print one; `run` accepts a preset name in place of a YAML file."""
    files = presets()
    if name is None:
        for preset, path in files.items():
            first, *_ = path.read_text(encoding="utf-8").splitlines()
            print(f"{preset}: {first.removeprefix('# ')}")
    elif name in files:
        print(files[name].read_text(encoding="utf-8"), end="")
    else:
        raise UserError(f"no preset {name!r}; choose from {', '.join(files)}")


@app.command()
def demo(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, such as beta=1; needs a new --out")
    ] = None,
    out: Annotated[
        Path, typer.Option(parser=_path, help="Directory for the demo; an existing one is resumed.")
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
        Path, typer.Option(parser=_path, help="Directory for networks and runs; kept ones count.")
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
