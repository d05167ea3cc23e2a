"""Tables that a program writes into the documentation, between two markers of a page."""

from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def write_between(page: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of a table.

    Parameters
    ----------
    page : Path
        Markdown file with the lines ``<!-- name: begin -->`` and ``<!-- name: end -->``.
    name : str
        Name of the table.
    text : str
        Markdown.

    Raises
    ------
    SystemExit
        If the page lacks one of the markers.
    """
    before, _, after = _parts(page, name)
    page.write_text(f"{before}\n{text}\n{after}", encoding="utf-8")


def between(page: Path, name: str) -> str:
    """Read what stands between the markers of a table; SystemExit without them."""
    return _parts(page, name)[1].strip("\n")


def _parts(page: Path, name: str) -> tuple[str, str, str]:
    """Cut a page into what ends with a table's first marker, the table, and the rest."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    text, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{page} has no place for {name}: put {begin} and {end} where it belongs")
    return before + found, text, closed + after
