"""Build the documentation site; any problem fails.

``python -m docs.site [--out build/site]``, or ``make docs``. Nothing is fetched, and no page of the
result loads anything from another host.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from docs.site import generated, pages, strict


def build(out: Path, *, root: Path = pages.ROOT) -> list[str]:
    """Build the site of a checkout.

    Parameters
    ----------
    out : Path
        Folder for the HTML, replaced only if the build succeeds.
    root : Path
        The checkout.

    Returns
    -------
    list of str
        What is wrong, one line each; empty if the site was built.
    """
    from sphinx.cmd.build import build_main

    problems = strict.navigation_problems(root)
    if problems:
        return problems
    with tempfile.TemporaryDirectory() as folder:
        source, html = Path(folder, "source"), Path(folder, "html")
        pages.stage(root, source)
        generated.write(source)
        pages.add_menu(source)
        conf = str(Path(__file__).parent)
        strictly = ["--fail-on-warning", "--keep-going", "--quiet"]
        doctrees = ["-d", str(Path(folder, "doctrees"))]
        if build_main([*strictly, *doctrees, "-c", conf, str(source), str(html)]):
            return ["the pages have the problems above"]
        problems = strict.undocumented(html) + strict.loads_from_elsewhere(html)
        if not problems:
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(html, out)
    return problems


def main() -> None:
    """Build, and say what is wrong."""
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument("--out", type=Path, default=Path("build/site"), help="default: build/site")
    options = parser.parse_args()
    problems = build(options.out)
    for problem in problems:
        print(f"docs: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)
    print(options.out / "index.html")


if __name__ == "__main__":
    main()
