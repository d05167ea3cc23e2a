"""Trained networks against the exact theory: the tables of docs/bridge.md and a figure's numbers.

``python -m benchmarks.bridge --write`` does what ``spin-train bridge`` does. It puts the tables
into the documentation, and the numbers next to the figure that draws them. ``--all`` takes the rows
of ``spin-train bridge --all``. Runs that are there already are not trained again.
"""

import argparse
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.pages import DOCS, write_between
from spin_theory.claims.rows import as_markdown
from spin_train.display import show_table, watching
from spin_train.lab.bridge import build_bridge
from spin_train.lab.figure import ends_cells, findings_cells, tables
from spin_train.system.files import write_json

NUMBERS = Path(__file__).parents[1] / "paper_figures" / "bridge.json"


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bridge"), help="default: runs/bridge"
    )
    parser.add_argument("--all", action="store_true", help="the rows of spin-train bridge --all")
    parser.add_argument(
        "--write", action="store_true", help="put tables into docs/, numbers into paper_figures/"
    )
    options = parser.parse_args()
    begun = time.monotonic()
    with watching() as watch:
        bridge = build_bridge(options.out, everything=options.all, watch=watch)
    for table in tables(bridge):
        show_table(table)
    print(f"{time.monotonic() - begun:.0f} s")
    if options.write:
        page = DOCS / "bridge.md"
        write_between(page, "ends", as_markdown(ends_cells(bridge.ends)))
        write_between(page, "findings", as_markdown(findings_cells(bridge.findings)))
        command = "spin-train bridge --all" if options.all else "spin-train bridge"
        write_json(NUMBERS, {"command": command, **asdict(bridge)})


if __name__ == "__main__":
    main()
