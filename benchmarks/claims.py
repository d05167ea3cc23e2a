"""All claims: what is claimed (docs/theory.md), and how closely it holds (docs/verification.md).

``python -m benchmarks.claims --instances 10000 --write`` checks every claim that `spin-theory
verify` checks and puts the table into the page; without ``--write`` it prints it. An instance took
1.5 s of processor time on a busy machine.
``--claims PATTERN`` checks some claims and leaves the other rows of the page as they are.
``--statements --write`` only writes what is claimed, by us and by the papers with the verdicts,
into docs/theory.md, and checks nothing.
"""

import argparse
import os
import sys

from benchmarks.pages import DOCS, write_between
from spin_theory.claims.papers import PAPER_CLAIMS
from spin_theory.claims.rows import as_markdown, paper_rows, statement_rows, verdict_rows
from spin_theory.claims.table import CASES, CLAIMS, named
from spin_theory.claims.verification import verify

PAGE = DOCS / "verification.md"
STATEMENTS = DOCS / "theory.md"


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--instances", type=int, default=200, help="how many (default: 200)")
    parser.add_argument(
        "--claims",
        nargs="+",
        metavar="PATTERN",
        default=["*"],
        help="only claims whose names match; with --write the other rows stay (default: all)",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="worker processes")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    parser.add_argument(
        "--statements",
        action="store_true",
        help=f"only what is claimed, for {STATEMENTS.name}; nothing is checked",
    )
    options = parser.parse_args()
    if options.statements:
        page, text, holds = STATEMENTS, as_markdown(statement_rows(CLAIMS)), True
        papers = as_markdown(paper_rows(PAPER_CLAIMS))
        print(papers)
        if options.write:
            write_between(page, "papers", papers)
    else:
        names = named(options.claims)
        verdicts = verify(seeds=range(options.instances), jobs=options.jobs, names=names)
        page, text = PAGE, _with_other_rows(as_markdown(verdict_rows(verdicts)))
        holds = all(verdict.holds for verdict in verdicts)
    print(text)
    if options.write:
        write_between(page, "claims", text)
    sys.exit(not holds)


def _with_other_rows(text: str) -> str:
    """Put rows of the page that were not checked again in their places among new ones."""
    titles, line, *rows = text.splitlines()
    old = PAGE.read_text(encoding="utf-8").partition("<!-- claims: begin -->")[2].splitlines()
    found = {row.split(" | ")[0].removeprefix("| "): row for row in [*old, *rows] if " | " in row}
    return "\n".join([titles, line, *(found[name] for name in CASES if name in found)])


if __name__ == "__main__":
    main()
