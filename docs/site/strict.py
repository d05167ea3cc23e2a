"""What fails the build besides the warnings of Sphinx: lost pages, names without text, the web."""

import re
from pathlib import Path

from docs.site import generated, pages

__all__ = ["loads_from_elsewhere", "navigation_problems", "undocumented"]

# Elements that make a browser fetch something while it shows a page. A plain link does not.
_FETCHED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*?\b(?:src|data)=[\"'](?P<src>[^\"']*)"
    r"|<link\b(?P<link>[^>]*)>",
    re.IGNORECASE,
)
_IN_STYLES = re.compile(r"(?:url\(|@import\s)\s*[\"']?((?:https?:)?//[^\"')\s]+)", re.IGNORECASE)


def navigation_problems(root: Path) -> list[str]:
    """Compare the menu with the pages that are there; one line per difference."""
    listed = [name for section in pages.navigation() for name in section["pages"]]
    written = {*generated.PAGES}
    there = {
        place.removesuffix(".md"): path
        for path, place in pages.places(root).items()
        if place.endswith(".md") and not path.endswith(".ipynb") and path != pages.HOME
    }
    menu = pages.NAVIGATION.relative_to(pages.ROOT)
    missing = [
        f'{path} is in no section of the menu: add "{name}" where it belongs in {menu}'
        for name, path in sorted(there.items())
        if name not in listed
    ]
    missing += [f'add "{name}" to {menu}' for name in sorted(written - {*listed})]
    gone = [
        f'{menu} lists "{name}", and there is no such page: remove it'
        for name in listed
        if name not in there and name not in written
    ]
    twice = sorted({name for name in listed if listed.count(name) > 1})
    return [*missing, *gone, *(f'{menu} lists "{name}" twice' for name in twice)]


def undocumented(html: Path) -> list[str]:
    """Name every public name that has no place in the built reference; one line each."""
    from sphinx.util.inventory import InventoryFile

    with (html / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, uri: uri)
    known = {name for kind, names in inventory.items() if kind.startswith("py:") for name in names}
    return [
        f"{name} is public and has no docstring, so it is missing from the reference"
        for name in generated.public_names()
        if name not in known
    ]


def loads_from_elsewhere(html: Path) -> list[str]:
    """Name every script, style, picture or font that a page loads from another host."""
    found = []
    for page in sorted(html.rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        for match in _FETCHED.finditer(text):
            target = match["src"]
            if target is None:
                href = re.search(r"\bhref=[\"']([^\"']*)", match["link"])
                target = href[1] if href else ""
            if target.startswith(("http:", "https:", "//")):
                found.append(f"{page.relative_to(html)} loads {target}")
        styles = "".join(re.findall(r"<style.*?</style>|style=\"[^\"]*\"", text, re.DOTALL))
        found += [f"{page.relative_to(html)} loads {url}" for url in _IN_STYLES.findall(styles)]
    for sheet in sorted(html.rglob("*.css")):
        urls = _IN_STYLES.findall(sheet.read_text(encoding="utf-8"))
        found += [f"{sheet.relative_to(html)} loads {url}" for url in urls]
    return found
