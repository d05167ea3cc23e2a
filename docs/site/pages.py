"""Where each page of the site comes from, and its text as the site needs it."""

import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

__all__ = ["HOME", "NAVIGATION", "ROOT", "add_menu", "navigation", "places", "relinked", "stage"]

ROOT = Path(__file__).parents[2]
NAVIGATION = Path(__file__).parent / "navigation.toml"
HOME = "docs/index.md"
_TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]+)(#[^)]*)?\)")


def navigation() -> list[dict[str, Any]]:
    """Read the sections of the menu."""
    sections: list[dict[str, Any]] = tomllib.loads(NAVIGATION.read_text())["section"]
    return sections


def places(root: Path) -> dict[str, str]:
    """Map each page's path in the repository to its path in the site's source."""
    found = {page.relative_to(root).as_posix(): page.name for page in (root / "docs").glob("*.md")}
    found |= {name: name.lower() for name in _TOP}
    for notebook in sorted((root / "notebooks").glob("*.ipynb")):
        found[f"notebooks/{notebook.name}"] = f"notebooks/{notebook.stem}.md"
    for picture in (root / "docs" / "images").glob("*"):
        found[f"docs/images/{picture.name}"] = f"images/{picture.name}"
    return found


def stage(root: Path, source: Path) -> None:
    """Write every page of the repository, and its pictures, into the site's source."""
    where = places(root)
    for path, place in where.items():
        target = source / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".ipynb"):
            target.write_text(relinked(_of_notebook(root / path, target), path, root, where))
        elif path.endswith(".md"):
            text = relinked((root / path).read_text(encoding="utf-8"), path, root, where)
            target.write_text(text, encoding="utf-8")
        else:
            shutil.copyfile(root / path, target)


def add_menu(source: Path) -> None:
    """Add the menu to the home page, once all pages are there; a title ends at its colon."""
    home = source / "index.md"
    text = home.read_text(encoding="utf-8")
    notebooks = sorted(f"notebooks/{page.stem}" for page in source.glob("notebooks/*.md"))
    for section in navigation():
        names = [*section["pages"], *(notebooks if section.get("notebooks") else [])]
        listed = "\n".join(f"{_menu_title(source, name)} <{name}>" for name in names)
        text += f"\n```{{toctree}}\n:hidden:\n:caption: {section['title']}\n\n{listed}\n```\n"
    home.write_text(text, encoding="utf-8")


def _menu_title(source: Path, name: str) -> str:
    if name == "readme":
        return "README"  # its title is that of the site
    text = (source / f"{name}.md").read_text(encoding="utf-8")
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    return title[1].partition(":")[0].replace("`", "") if title else name


def relinked(text: str, path: str, root: Path, where: dict[str, str]) -> str:
    """Point links between files of the repository at the pages of the site.

    A link to a file that is no page keeps its words alone. One that leads nowhere stays as it is,
    so that the build fails on it.
    """

    def point(match: re.Match[str]) -> str:
        mark, words, target, anchor = match.groups()
        if "://" in target:
            return match.group()
        there = (root / path).parent.joinpath(target).resolve()
        name = there.relative_to(root.resolve()).as_posix() if there.exists() else ""
        if name in where:
            up = "../" * where[path].count("/")
            return f"{mark}[{words}]({up}{where[name]}{anchor or ''})"
        return words if name else match.group()

    return _LINK.sub(point, text)


def _of_notebook(path: Path, target: Path) -> str:
    """Convert an executed notebook to Markdown, and write its pictures next to the page."""
    from nbconvert import MarkdownExporter

    resources = {"output_files_dir": path.stem}
    text, found = MarkdownExporter().from_filename(str(path), resources=resources)
    for name, content in found["outputs"].items():
        picture = target.parent / name
        picture.parent.mkdir(exist_ok=True)
        picture.write_bytes(content)
    return str(text)
