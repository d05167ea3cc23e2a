"""Claims and verdicts as rows of text, for the terminal and for the documentation."""

import textwrap
from collections.abc import Sequence

from spin_theory.claims.claim import Claim
from spin_theory.claims.papers import PaperClaim
from spin_theory.claims.table import named
from spin_theory.claims.verification import Verdict

__all__ = ["as_markdown", "as_text", "paper_rows", "statement_rows", "statements", "verdict_rows"]

Cells = tuple[str, ...]


def verdict_rows(verdicts: Sequence[Verdict]) -> list[Cells]:
    """Write verdicts as rows under a row of titles.

    Parameters
    ----------
    verdicts : sequence of Verdict
        What :func:`spin_theory.claims.verification.verify` returned.

    Returns
    -------
    list of tuple of str
        Titles, then one row per verdict.
    """
    titles = ("claim", "instances", "worst residual", "tolerance", "verdict", "hardest instance")
    rows = [
        (
            verdict.name,
            str(verdict.instances),
            f"{verdict.worst_residual:.1e}",
            f"{verdict.tolerance:.0e}",
            "holds" if verdict.holds else f"FAILS in {verdict.failures}",
            f"seed {verdict.hardest.seed}, Y {verdict.hardest.responses}, "
            f"beta {verdict.hardest.beta:.3g}, smallest p {verdict.hardest.smallest:.1e}",
        )
        for verdict in verdicts
    ]
    return [titles, *rows]


def statement_rows(claims: Sequence[Claim]) -> list[Cells]:
    """Write claims as rows under a row of titles.

    Parameters
    ----------
    claims : sequence of Claim
        Such as :data:`spin_theory.claims.table.CLAIMS`.

    Returns
    -------
    list of tuple of str
        Titles, then one row per claim, formulas in backquotes.
    """
    rows = [
        (_name(claim), claim.statement, claim.source, f"`{claim.function.__name__}`")
        for claim in claims
    ]
    return [("name", "claim", "source", "check"), *rows]


def paper_rows(papers: Sequence[PaperClaim]) -> list[Cells]:
    """Write what papers claim, with the verdicts, as rows under a row of titles.

    Parameters
    ----------
    papers : sequence of PaperClaim
        Such as :data:`spin_theory.claims.papers.PAPER_CLAIMS`.

    Returns
    -------
    list of tuple of str
        Titles, then one row per statement; what shows it is in backquotes.

    Raises
    ------
    ValueError
        If a verdict rests on a claim that is not there.
    """
    rows = []
    for paper in papers:
        named([pattern for pattern in paper.shown_by if not pattern.startswith("python -m ")])
        shown = "; ".join(f"`{name}`" for name in paper.shown_by)
        rows.append((f"{paper.paper}, {paper.where}", paper.statement, paper.verdict, shown))
    return [("paper", "what it says", "verdict", "shown by"), *rows]


def statements(claims: Sequence[Claim]) -> str:
    """Write claims as paragraphs of plain text.

    Parameters
    ----------
    claims : sequence of Claim
        Such as :data:`spin_theory.claims.table.CLAIMS`.

    Returns
    -------
    str
        Per claim its name, statement, source, check and tolerance, in lines of at most 100
        characters.
    """
    paragraphs = []
    for claim in claims:
        parts = (
            claim.statement.replace("`", ""),
            f"Source: {claim.source}. Check: {claim.function.__name__}.",
            f"Tolerance: {claim.tolerance:.0e} ({claim.tolerance.reason}).",
        )
        lines = [
            textwrap.fill(part, 100, initial_indent="    ", subsequent_indent="    ")
            for part in parts
        ]
        paragraphs.append("\n".join([_name(claim), *lines]))
    return "\n\n".join(paragraphs)


def as_text(rows: Sequence[Cells]) -> str:
    """Align rows in columns, with a line under the titles.

    Parameters
    ----------
    rows : sequence of tuple of str
        The titles first.

    Returns
    -------
    str
        Lines without spaces at their ends.

    Examples
    --------
    >>> print(as_text([("beta", "TV"), ("0.1", "1e-3")]))
    beta  TV
    ----------
    0.1   1e-3
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(max(lines, key=len)), *lines[1:]])


def as_markdown(rows: Sequence[Cells]) -> str:
    r"""Write rows as a Markdown table.

    Parameters
    ----------
    rows : sequence of tuple of str
        The titles first.

    Returns
    -------
    str
        The table; a bar within a cell is escaped.

    Examples
    --------
    >>> print(as_markdown([("beta", "TV"), ("0.1", "1e-3")]))
    | beta | TV |
    |---|---|
    | 0.1 | 1e-3 |
    """
    titles, *others = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    lines = [f"| {' | '.join(cells)} |" for cells in (titles, *others)]
    return "\n".join([lines[0], "|---" * len(titles) + "|", *lines[1:]])


def _name(claim: Claim) -> str:
    """Name a claim once for all its penalties."""
    return claim.name.format(loss_type="/".join(claim.loss_types))
