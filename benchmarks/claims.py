"""All claims: what is claimed (docs/theory.md), and how closely it holds (docs/verification.md).

``python -m benchmarks.claims --instances 10000 --write`` checks every claim that `spin-theory
verify` checks and puts the table into the page; without ``--write`` it prints it. An instance took
0.5 to 0.7 s of processor time on a busy machine.
``--claims PATTERN`` checks some claims and leaves the other rows of the page as they are.
``--statements --write`` only writes what is claimed, by us and by the papers with the verdicts,
into docs/theory.md, and the tolerances into docs/verification.md, and checks nothing.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from benchmarks.pages import DOCS, between, write_between
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
            write_between(PAGE, "claims", _with_other_rows([]))
    else:
        names = named(options.claims)
        verdicts = verify(seeds=range(options.instances), jobs=options.jobs, names=names)
        new = as_markdown(verdict_rows(verdicts)).splitlines()[2:]
        page, text = PAGE, _with_other_rows(new)
        holds = all(verdict.holds for verdict in verdicts)
    print(text)
    if options.write:
        write_between(page, "claims", text)
    sys.exit(not holds)


def _with_other_rows(rows: Sequence[str]) -> str:
    """Put rows of the page that were not checked again in their places among new ones.

    They get the tolerance that their claims have now.
    """
    titles, line, *old = between(PAGE, "claims").splitlines()
    tolerances = {name: claim.tolerance for claim in CLAIMS for name in claim.cases}
    found = {}
    for row in [*old, *rows]:
        name, instances, worst, _, *rest = row.removeprefix("| ").split(" | ")
        if name in tolerances:
            cells = (name, instances, worst, f"{tolerances[name]:.0e}", *rest)
            found[name] = "| " + " | ".join(cells)
    return "\n".join([titles, line, *(found[name] for name in CASES if name in found)])


if __name__ == "__main__":
    main()
