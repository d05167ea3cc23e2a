"""The reference of the Python packages: one page per wing, each public name where it is defined."""

import ast
import importlib
import inspect
import re
from functools import cache
from pathlib import Path

__all__ = ["PAGES", "Module", "modules", "public_names", "write"]

ROOT = Path(__file__).parents[2]
PAGES = ("reference/names", "reference/spin_theory", "reference/spin_train")
# What users import of spin_train; `make lint` checks the docstrings of the same files.
OF_SPIN_TRAIN = (
    "api",
    "config.files",
    "config.schema",
    "config.sections",
    "config.templates",
    "model.logps",
    "run.run",
    "training.objective",
    "training.trainer",
)
_LEFT_OUT = {"spin_theory.flags", "spin_theory.__main__"}  # the command line: see --help


class Module:
    """A module and the public names that are defined in it, by reading its source."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        tree = ast.parse(path.read_text(encoding="utf-8"))
        self.summary = (ast.get_docstring(tree) or "").partition("\n")[0]
        self.kinds: dict[str, str] = {}
        defined: dict[str, str] = {}
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                defined[node.name] = "function"
            elif isinstance(node, ast.ClassDef):
                defined[node.name] = "class"
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name):
                        defined[target.id] = "data"
                        if target.id == "__all__" and node.value is not None:
                            self.public: list[str] = ast.literal_eval(node.value)
        self.public = getattr(self, "public", [])
        self.kinds = {name: defined[name] for name in self.public if name in defined}


@cache
def modules() -> tuple[Module, ...]:
    """List the modules whose names are public, spin_theory's first."""
    found = []
    for path in sorted((ROOT / "spin_theory").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name not in _LEFT_OUT:
            found.append(Module(name, path))
    for name in OF_SPIN_TRAIN:
        path = ROOT / "spin_train" / (name.replace(".", "/") + ".py")
        found.append(Module(f"spin_train.{name}", path))
    return tuple(found)


def public_names() -> list[str]:
    """List every public name by the module that defines it."""
    return [f"{module.name}.{name}" for module in modules() for name in module.kinds]


def write(source: Path) -> None:
    """Write the pages of the reference."""
    folder = source / "reference"
    folder.mkdir(exist_ok=True)
    wings: dict[str, list[Module]] = {}
    for module in modules():
        if module.kinds and module.name.startswith("spin_theory."):
            wings.setdefault(module.name.split(".")[1], []).append(module)
    (folder / "spin_theory").mkdir(exist_ok=True)
    for wing, parts in wings.items():
        title = f"# spin_theory.{wing}"
        (folder / "spin_theory" / f"{wing}.md").write_text(_page(title, parts))
    (folder / "spin_theory.md").write_text(_index_of_theory(list(wings)))
    parts = [module for module in modules() if module.name.startswith("spin_train.")]
    intro = "# spin_train\n\nWhat users import. Everything else is for the command line.\n"
    (folder / "spin_train.md").write_text(_page(intro, parts))
    (folder / "names.md").write_text(_names())


def _page(title: str, parts: list[Module]) -> str:
    lines = [title, ""]
    for module in parts:
        lines += [f"## {module.name}", "", module.summary, "", "```{eval-rst}"]
        lines += [f".. py:module:: {module.name}", ""]
        for name, kind in module.kinds.items():
            lines.append(f".. auto{kind}:: {module.name}.{name}")
            lines += {"class": ["   :members:"], "data": ["   :no-value:"]}.get(kind, [])
            lines.append("")
        lines += ["```", ""]
    return "\n".join(lines)


def _index_of_theory(wings: list[str]) -> str:
    package = next(module for module in modules() if module.name == "spin_theory")
    where = {
        name: module.name
        for module in modules()
        for name in module.kinds
        if module.name.startswith("spin_theory.")
    }
    rows = [
        f"| {{py:obj}}`{name} <{where[name]}.{name}>` | {_first_line(where[name], name)} |"
        for name in package.public
    ]
    listed = "\n".join(f"spin_theory/{wing}" for wing in wings)
    return (
        "# spin_theory\n\nNames that `from spin_theory import ...` gives. The pages below have all "
        "others, wing by wing.\n\n| name | what it is |\n|---|---|\n"
        + "\n".join(rows)
        + f"\n\n```{{toctree}}\n\n{listed}\n```\n"
    )


def _first_line(module: str, name: str) -> str:
    value = getattr(importlib.import_module(module), name)
    described = callable(value)
    text = (inspect.getdoc(value) or "").partition("\n\n")[0] if described else "A constant."
    text = re.sub(r":\w+:`~?([^`<]*)`", r"`\1`", " ".join(text.split()))
    return text.replace("|", "\\|")


def _names() -> str:
    rows = []
    for module in modules():
        rows += [
            f"| {{py:obj}}`{name} <{module.name}.{name}>` | {kind} | `{module.name}` |"
            for name, kind in module.kinds.items()
        ]
    rows.sort(key=str.lower)
    return (
        f"# All public names\n\n{len(rows)} names of both packages, each with a link to its "
        "entry.\n\n| name | kind | module |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )
