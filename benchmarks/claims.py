"""All claims on random instances, as the table of docs/verification.md.

``python -m benchmarks.claims --instances 10000 --write`` checks every claim that `spin-theory
verify` checks and puts the table into the page; without ``--write`` it prints it. With 10,000
instances it took 28 minutes on two busy cores, with the default of 200 it takes half a minute.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from benchmarks.pages import DOCS, write_between
from spin_theory.claims.verification import Claim, verify

PAGE = DOCS / "verification.md"


def markdown(claims: Sequence[Claim]) -> str:
    """Format the claims.

    Parameters
    ----------
    claims : sequence of Claim
        What `verify` returned.

    Returns
    -------
    str
        A Markdown table with one row per claim.
    """
    lines = [
        "| claim | instances | worst residual | tolerance | verdict | hardest instance |",
        "|---|---|---|---|---|---|",
    ]
    for claim in claims:
        hardest = claim.hardest
        cells = [
            claim.name,
            str(claim.instances),
            f"{claim.worst_residual:.1e}",
            f"{claim.tolerance:.0e}",
            "holds" if claim.holds else f"FAILS in {claim.failures}",
            f"seed {hardest.seed}, Y {hardest.responses}, beta {hardest.beta:.3g}, "
            f"smallest p {hardest.smallest:.1e}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--instances", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="worker processes")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    options = parser.parse_args()
    claims = verify(seeds=range(options.instances), jobs=options.jobs)
    text = markdown(claims)
    print(text)
    if options.write:
        write_between(PAGE, "claims", text)
    sys.exit(not all(claim.holds for claim in claims))


if __name__ == "__main__":
    main()
