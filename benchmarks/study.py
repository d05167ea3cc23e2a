"""Where SPIN pays: the table and the figure of docs/when-spin-helps.md.

``python -m benchmarks.study --write`` shows what ``spin-train study`` has played in a folder, and
puts its table and its figure into the documentation. It plays nothing.
"""

import argparse
from pathlib import Path

from benchmarks.pages import DOCS, write_between
from spin_theory.claims.rows import as_markdown
from spin_train.display import show_table
from spin_train.lab.study.cells import STUDY, read_cells
from spin_train.lab.study.figure import page_cells, save_figure, tables
from spin_train.lab.study.verdicts import results


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="default: runs/study")
    parser.add_argument("--write", action="store_true", help="put table and figure into docs/")
    options = parser.parse_args()
    found = results(read_cells(options.out), STUDY)
    for table in tables(found):
        show_table(table)
    if options.write:
        write_between(DOCS / "when-spin-helps.md", "study", as_markdown(page_cells(found)))
        save_figure(found, DOCS / "images" / "when_spin_helps.png", dpi=90)


if __name__ == "__main__":
    main()
