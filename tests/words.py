"""Find words that read as if translated, in prose, docstrings, comments and strings.

``python -m tests.words [PATH ...]`` prints one line per hit: file, line, what stands there and what
to write instead. Without a path it reads what `tests/words.toml` lists under `scanned`. Markdown is
also held to the house's limits: 30 words per sentence, one semicolon per paragraph.
"""

import ast
import io
import json
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LIST = ROOT / "tests" / "words.toml"
OWN = {LIST, Path(__file__), ROOT / "tests" / "test_words.py"}  # they spell the words out
LONGEST_SENTENCE = 30  # words
SEEN = ROOT / "build" / "words.txt"
"""Digests of files without a hit, as ruff and mypy keep what they have read."""
TEXTS = {".cff", ".md", ".yaml", ".yml", ""}  # read as a whole; "" is Makefile


@dataclass(frozen=True)
class Word:
    """A pattern, and what to write instead."""

    pattern: re.Pattern[str]
    write: str


@dataclass(frozen=True)
class Chunk:
    """Text, and the line of the file that it begins on."""

    line: int
    text: str
    height: int | None = None
    """Lines that it fills in the file, where its own line breaks may say otherwise."""

    def line_of(self, offset: int) -> int:
        below = self.text.count("\n", 0, offset)
        return self.line + (below if self.height is None else min(below, self.height - 1))


@cache
def content() -> dict[str, Any]:
    return tomllib.loads(LIST.read_text(encoding="utf-8"))


@cache
def words() -> tuple[Word, ...]:
    return tuple(compiled(entry) for entry in content()["word"])


def compiled(entry: dict[str, Any]) -> Word:
    spaced = entry["pattern"].replace(" ", r"[\s#]+")  # a comment's next line begins with #
    return Word(re.compile(spaced, re.IGNORECASE | re.MULTILINE), entry["write"])


def hits(paths: list[Path], clean: set[str] | None = None) -> list[str]:
    """One line per hit in these files and all files below these folders.

    Files whose digest is in `clean` are passed over, and those without a hit get into it.
    """
    found = []
    clean = set() if clean is None else clean
    rules = b"".join(path.read_bytes() for path in (LIST, Path(__file__)))
    for path in sorted(file for root in paths for file in files_of(root)):
        where = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        text = path.read_text(encoding="utf-8")
        digest = sha256(rules + path.suffix.encode() + text.encode()).hexdigest()
        if digest in clean:
            continue
        problems = {problem for chunk in chunks_of(path, text) for problem in bad_words(chunk)}
        if path.suffix == ".md":
            problems |= set(bad_sentences(text))
        found += [f"{where}:{line}: {problem}" for line, problem in sorted(problems)]
        if not problems:
            clean.add(digest)
    return found


def files_of(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(path)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    read = {".py", ".ipynb", *TEXTS} if path.is_dir() else {path.suffix}
    hidden = (file for file in files if not {".ipynb_checkpoints", "__pycache__"} & {*file.parts})
    return [file for file in hidden if file.suffix in read and file.resolve() not in OWN]


def chunks_of(path: Path, text: str) -> Iterator[Chunk]:
    if path.suffix == ".py":
        yield from of_python(text)
    elif path.suffix == ".ipynb":
        yield from of_notebook(text)
    else:
        yield Chunk(1, text)


def of_python(source: str) -> Iterator[Chunk]:
    """Comments, neighbouring lines together, and strings, with {} for what is filled in."""
    comments: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if comments and token.start[0] != comments[-1][0] + 1:
                yield Chunk(comments[0][0], "\n".join(text for _, text in comments))
                comments = []
            comments.append((token.start[0], token.string))
    if comments:
        yield Chunk(comments[0][0], "\n".join(text for _, text in comments))
    yield from _strings(ast.parse(source))


def _strings(node: ast.AST) -> Iterator[Chunk]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield _chunk(node, node.value)
    elif isinstance(node, ast.JoinedStr):
        parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
        yield _chunk(node, "".join(map(str, parts)))
    else:
        for child in ast.iter_child_nodes(node):
            yield from _strings(child)


def _chunk(node: ast.expr, text: str) -> Chunk:
    return Chunk(node.lineno, text, (node.end_lineno or node.lineno) - node.lineno + 1)


def of_notebook(text: str) -> Iterator[Chunk]:
    """Cells, at the line of the file where their source begins."""
    line = 1
    lines = text.splitlines()
    for cell in json.loads(text)["cells"]:
        while '"source"' not in lines[line - 1]:
            line += 1
        source = "".join(cell["source"])
        try:
            found = [Chunk(1, source)] if cell["cell_type"] == "markdown" else [*of_python(source)]
        except SyntaxError:  # a magic command
            found = [Chunk(1, source)]
        for chunk in found:
            yield Chunk(line + chunk.line, chunk.text, chunk.height)
        line += 1


def bad_words(chunk: Chunk) -> Iterator[tuple[int, str]]:
    for word in words():
        for match in word.pattern.finditer(chunk.text):
            said = re.sub(r"^\W+", "", match.group())
            line = chunk.line_of(match.end() - len(said))
            yield line, f"{' '.join(said.split())!r}: write {word.write}"


def bad_sentences(text: str) -> Iterator[tuple[int, str]]:
    """Sentences that are too long, and paragraphs of more than one semicolon."""
    for line, paragraph in paragraphs(text):
        if paragraph.count(";") > 1:
            yield line, "more than one semicolon in a paragraph: make sentences"
        for sentence in re.split(r"(?<=[.?!])[\"')*_]*\s+(?=[\W_]*[A-Z0-9`])", paragraph):
            length = len(sentence.split())
            if length > LONGEST_SENTENCE:
                start = " ".join(sentence.split()[:6])
                yield line, f"{length} words in one sentence ({start} ...): make it two"


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Paragraphs and items of lists, with the line they begin on; no code, tables or headings."""
    text = re.sub(r"^( *)```.*?^\1```", _blank, text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\$\$.*?\$\$|<!--.*?-->", _blank, text, flags=re.DOTALL)
    text = re.sub(r"`[^`]*`|\$[^$\n]+\$", lambda m: "X" + "\n" * m.group().count("\n"), text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    start, lines = 0, list[str]()
    for number, line in enumerate([*text.splitlines(), ""], 1):
        stripped = line.strip()
        apart = not stripped or stripped.startswith(("|", "#", "<"))
        if lines and (apart or re.match(r"([-*]|\d+\.) ", stripped)):
            yield start, " ".join(lines)
            lines = []
        if not apart:
            start = start if lines else number
            lines.append(re.sub(r"^([-*]|\d+\.) ", "", stripped))


def _blank(match: re.Match[str]) -> str:
    return "\n" * match.group().count("\n")


def main() -> None:
    paths = [Path(name) for name in sys.argv[1:]] or [ROOT / name for name in content()["scanned"]]
    clean = set(SEEN.read_text().split()) if SEEN.is_file() else set[str]()
    found = hits(paths, clean)
    SEEN.parent.mkdir(exist_ok=True)
    SEEN.write_text("\n".join(sorted(clean)))
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
