"""The tables of a comparison, for the terminal and for the page."""

import rich.table
from rich.text import Text

from spin_train.printable import printable
from spin_train.report.comparison import Comparison, Row
from spin_train.report.tables import Table, mean_of, share_of
from spin_train.report.wording import signed, with_interval

__all__ = ["as_text", "differing_table", "number_tables", "run_table", "wide_numbers"]

WIDTH = 80
"""Columns of a terminal that every table but the wide one fits into."""


def run_table(found: Comparison) -> Table:
    """Name the runs by their letters."""
    rows = []
    for side in found.sides:
        done = sum(p.numbers is not None for p in side.run.listed if not p.control and p.iteration)
        rows.append([side.letter, str(side.run.root), f"{done} of {side.run.iterations_wanted}"])
    return Table(["run", "folder", "iterations"], rows)


def differing_table(found: Comparison) -> Table:
    """List the keys in which the configurations differ, with who has which value."""
    rows = []
    for key, values in found.differs.items():
        who: dict[str, list[str]] = {}
        for letter, value in values.items():
            who.setdefault("null" if value is None else str(value), []).append(letter)
        shown = "; ".join(f"{', '.join(letters)}: {value}" for value, letters in who.items())
        rows.append([key, shown])
    return Table(["key", "values"], rows)


def number_tables(found: Comparison) -> dict[str, Table]:
    """Give the numbers that matter, each with its interval, as tables of at most 80 columns."""
    tables = {
        "Held-out NLL per token, nats": Table(
            ["run", "policy", "NLL", "change since p_0"],
            [[r.letter, r.policy.name, with_interval(r.nll), signed(r.change)] for r in found.rows],
        )
    }
    first = found.first.letter
    against = [row for row in found.rows if row.against_first is not None]
    if against:
        tables[f"Minus {first}'s policy of that name, on rows in common"] = Table(
            ["run", "policy", "difference of NLL per token, nats", "rows"],
            [[*_name(row), signed(row.against_first), _rows_of(found, row)] for row in against],
        )
    right = [row for row in found.rows if row.right is not None]
    if right:
        tables["Right answers (greedy), per cent"] = Table(
            ["run", "policy", "right"],
            [[*_name(row), with_interval(row.right, digits=1, scale=100)] for row in right],
        )
    return tables


def wide_numbers(found: Comparison) -> Table:
    """Put all that is known of each policy into one row."""
    columns = {
        "NLL per token": [with_interval(row.nll) for row in found.rows],
        "change since p_0": [signed(row.change) for row in found.rows],
        f"minus {found.first.letter}'s": [signed(row.against_first) for row in found.rows],
        "right, %": [with_interval(row.right, digits=1, scale=100) for row in found.rows],
        "margin, nats": [mean_of(row.policy.numbers or {}, "margin") for row in found.rows],
        "y' stops": [
            share_of((row.policy.numbers or {}).get("generated_stopped")) for row in found.rows
        ],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    rows = [
        [*_name(row), *(cells[n] for cells in shown.values())] for n, row in enumerate(found.rows)
    ]
    return Table(["run", "policy", *shown], rows)


def as_text(table: Table, title: str, *, wide: bool = False) -> rich.table.Table:
    """Make a table for the terminal; long cells are folded, unless it may be wide."""
    made = rich.table.Table(
        title=title, title_justify="left", width=None if wide else _width_of(table)
    )
    for heading in table.headings:
        made.add_column(heading, overflow="fold")
    for row in table.rows:
        made.add_row(*(Text(printable(cell)) for cell in row))
    return made


def _width_of(table: Table) -> int | None:
    """Columns that a table is made to fit into; None where it needs less."""
    lines = [table.headings, *table.rows]
    widths = [max(len(line[n]) for line in lines) for n in range(len(table.headings))]
    return WIDTH if sum(widths) + 3 * len(widths) + 1 > WIDTH else None


def _name(row: Row) -> list[str]:
    return [row.letter, row.policy.name]


def _rows_of(found: Comparison, row: Row) -> str:
    (side,) = (side for side in found.sides if side.letter == row.letter)
    return str(len(found.first.in_common(side)))
