"""Commands that look at runs, keys and presets; `convert` writes a model, `report` a page."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from spin_train.config.files import allowed_values, known_keys, load_config, presets, section_of
from spin_train.config.paths import expanded
from spin_train.errors import UserError

__all__ = ["WIDE", "add_commands", "path_of"]

WIDE = typer.Option("--wide", help="Show all held-out numbers; takes 140 columns.")


def path_of(text: str | Path) -> Path:
    """Path of the command line; shells leave `~` alone after an equals sign or in quotes."""
    try:
        return Path(expanded(str(text)))
    except ValueError as error:
        raise UserError(f"{text}: {error}") from None


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the command line, in this order."""
    for command in (plan, status, results, samples, report, compare, keys, convert):
        app.command()(command)
    app.command("presets")(show_presets)


def plan(
    config: Annotated[
        Path, typer.Argument(help="YAML file or name of a preset, as `run` takes it.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, such as training.batch_size=8")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, H100-80GB, A100-40GB, ... or memory such as 24GiB; default: what is here."
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(min=2, help="Assume so many rows, as long as the keys allow; read none."),
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Also estimate time: run steps of a small part of it."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; sizes in bytes.")] = False,
) -> None:
    """Say what a run will need, before anything is loaded; nothing is written.

    Of the model only config.json is read, and the rows are counted with its
    tokenizer. The trainer's own passes run on tensors without memory, and
    what they would hold is added up: weights, gradients, optimiser states,
    activations, logits, caches. Then come steps, tokens, samples and disk.
    With --calibrate a few steps of a model with few layers give the time.

    The exit code is 0 if it fits, and 2 if something does not: then lines
    say which keys make it fit, each tried. Numbers are predictions, and
    docs/plan.md says how good they are.

    spin-train plan config.yaml --device H100-80GB ranks=8 zero_stage=3
    spin-train plan config.yaml --device 24GiB --rows 50000
    """
    from spin_train.plan.devices import device_here, device_named
    from spin_train.plan.plan import make_plan
    from spin_train.plan.shown import as_text

    resolved = load_config(config, overrides or [])
    chosen = device_here() if device is None else device_named(device)
    here = device is None or chosen.kind == "cpu"
    if calibrate and not here:
        raise UserError(f"--calibrate measures this machine's device: leave out --device {device}")
    found = make_plan(resolved, chosen, rows=rows, here=here, calibrate=calibrate)
    print(json.dumps(found.as_json(), indent=2) if as_json else as_text(found))
    if not found.fits:
        raise UserError(found.problems[0].line)


def status(
    run_dir: Annotated[
        Path, typer.Argument(parser=path_of, help="Directory of a run (its output_dir).")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how far a run is: stages, time left, speed, memory, last loss, last error."""
    from spin_train.run.status import read_status

    found = read_status(run_dir)
    if as_json:
        print(json.dumps(asdict(found), indent=2))
        return
    from spin_train.display import show_table, speed_table, status_table
    from spin_train.run.tables import duration

    show_table(status_table(found))
    if (speeds := speed_table(found)) is not None:
        show_table(speeds)
    finished = all(stage.state == "done" for stage in found.stages)
    print("a process is working on it" if found.working else "no process is working on it")
    if not finished:
        print(f"time left: {duration(found.eta_seconds) or 'not known yet'}")
    if found.loss_in_words is not None:
        print(f"last logged: {found.loss_in_words} ({found.loss_at})")
    if found.removed:
        print(f"removed by keep: {found.removed}")
    if found.error:
        print(f"last error: {found.error}")
    if found.log:
        print(f"log: {found.log}")


def results(
    runs: Annotated[
        list[Path], typer.Argument(parser=path_of, help="Directories of runs (their output_dir).")
    ],
    wide: Annotated[bool, WIDE] = False,
) -> None:
    """Show the held-out numbers of runs, finished or not, and the best policy of each."""
    from spin_train.display import show_results
    from spin_train.run.run import Run

    for root in runs:
        show_results(Run.open(root), wide=wide)


def samples(
    run_dir: Annotated[
        Path, typer.Argument(parser=path_of, help="Directory of a run (its output_dir).")
    ],
    split: Annotated[str, typer.Option(help="held_out or train.")] = "held_out",
    prompts: Annotated[int, typer.Option(min=1, help="Prompts to show.")] = 5,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON lines of all prompts.")
    ] = False,
) -> None:
    """Show prompts with the human response and what each policy answered."""
    from spin_train.run.frames import prompts_with_samples
    from spin_train.run.keeping import removed_in_words
    from spin_train.run.run import Run

    run = Run.open(run_dir)
    found = prompts_with_samples(run.config, run.directory, split=split)
    if as_json:
        for answer in found:
            print(json.dumps(answer, ensure_ascii=False))
        return
    from spin_train.display import show_answers

    show_answers(found[:prompts])
    if split == "train" and (removed := removed_in_words(run)):
        print(f"removed by keep: {removed}; --split held_out has the samples of every policy")
    if len(found) > prompts:
        print(f"{len(found) - prompts} more prompts: --prompts {len(found)}, or --json")


def report(
    run_dir: Annotated[
        Path, typer.Argument(parser=path_of, help="Directory of a run (its output_dir).")
    ],
    out: Annotated[
        Path | None,
        typer.Option(parser=path_of, help="File to write; default: report.html in the run."),
    ] = None,
    prompts: Annotated[int, typer.Option(min=0, help="Held-out prompts to show.")] = 500,
) -> None:
    """Write one page about a run: what was done, what came out, what the policies answer."""
    from spin_train.report.page import write_report
    from spin_train.run.run import Run

    print(f"open {write_report(Run.open(run_dir), out, prompts=prompts)}")


def compare(
    runs: Annotated[list[Path], typer.Argument(parser=path_of, help="Directories of 2 to 8 runs.")],
    html: Annotated[
        Path | None,
        typer.Option(parser=path_of, help="Also write a page with figures to this file."),
    ] = None,
    wide: Annotated[
        bool, typer.Option("--wide", help="Show all numbers in one table; takes 140 columns.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show runs side by side: what differs, what each policy reached, what may be compared.

    The first run, A, is what the others are held against. Differences between
    runs are taken on the held-out rows that both keep out of training, token
    for token. Where models, data or held-out rows differ, it says so first.
    """
    from spin_train.report.comparison import compare as put_together
    from spin_train.report.comparison_page import write_comparison
    from spin_train.run.run import Run

    found = put_together([Run.open(root) for root in runs])
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        from spin_train.display import show_comparison

        show_comparison(found, wide=wide)
    if html is not None:
        written = write_comparison(found, html)
        if not as_json:
            print(f"open {written}")


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


def convert(
    file: Annotated[Path, typer.Argument(parser=path_of, help="GGUF file.")],
    out: Annotated[Path, typer.Argument(parser=path_of, help="Directory to write; a new one.")],
) -> None:
    """Make a model directory of a GGUF file, as `model` takes it; needs the extra `gguf`."""
    from spin_train.model.gguf_files import convert as write

    print(f"give it to a run: model={write(file, out)}")


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
