"""When SPIN helps: the tables and the figure of docs/when-spin-helps.md.

``python -m benchmarks.study --write`` shows what ``spin-train study`` has played in a folder, and
puts its tables and its figure into the documentation. It plays nothing.
"""

import argparse
import math
import statistics
from pathlib import Path

import transformers

from benchmarks.pages import DOCS, write_between
from spin_theory.claims.rows import as_markdown
from spin_train.display import show_table
from spin_train.lab.study.cells import STUDY, folder_of, read_cells
from spin_train.lab.study.figure import (
    equal_cells,
    largest_cells,
    page_cells,
    save_figure,
    tables,
    verdict_cells,
)
from spin_train.lab.study.measuring import real_logps
from spin_train.lab.study.verdicts import Result, results
from spin_train.lab.study.world import World
from spin_train.model.loading import load_model

_BASES = (
    "base",
    "trained on",
    "steps",
    "layers x width",
    "noise",
    "p(row)",
    "KL",
    "valid mass",
    "greedy",
)


def bases_cells(out: Path, found: list[Result]) -> list[tuple[str, ...]]:
    """Cells of a table of the bases: how each was made, and the numbers that show what it is."""
    rows = []
    starts = {result.base: result for result in found if result.arm is None}
    for base in STUDY.bases:
        if base.name not in starts:
            continue
        start, logps = starts[base.name], []
        for seed in range(start.seeds):
            model = load_model(folder_of(out, base, seed), dtype="float32").eval()
            of_base = base.rows(World(seed, STUDY.validation, STUDY.test))
            logps.append(real_logps(model, of_base[: STUDY.scored]))
        rows.append(
            (
                base.name,
                f"{base.prompts * base.responses:,} rows of {base.prompts:,} prompts",
                f"{base.steps:,}",
                f"{base.layers} x {base.width}",
                f"{base.noise:.0%}",
                f"{math.exp(statistics.fmean(logps)):.2f}",
                f"{start.kl.value:.2f}",
                f"{start.valid.value:.2f}",
                f"{start.greedy.value:.2f}",
            )
        )
    return [_BASES, *rows]


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="default: runs/study")
    parser.add_argument("--write", action="store_true", help="put tables and figure into docs/")
    options = parser.parse_args()
    cells = read_cells(options.out)
    found = results(cells, STUDY)
    for table in tables(cells, STUDY):
        show_table(table)
    transformers.logging.disable_progress_bar()
    bases = bases_cells(options.out, found)
    print(as_markdown(bases))
    if options.write:
        page = DOCS / "when-spin-helps.md"
        write_between(page, "bases", as_markdown(bases))
        write_between(page, "study", as_markdown(page_cells(found)))
        write_between(page, "largest", as_markdown(largest_cells(cells, STUDY)))
        equal = equal_cells(cells, STUDY, "SPIN, beta 5")
        write_between(page, "equal", as_markdown(equal))
        write_between(page, "verdicts", as_markdown(verdict_cells(cells, STUDY)))
        save_figure(found, DOCS / "images" / "when_spin_helps.png", dpi=90)


if __name__ == "__main__":
    main()
