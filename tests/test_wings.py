"""The order of the wings: imports go only downwards, and no two modules import each other."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Lowest floor first. A wing is a folder or a module at the top of its package; wings on one floor
# do not import each other unless the floor says so (modules of the core may).
SPIN_THEORY = [
    {"tolerances", "inputs"},
    {"losses", "policies", "divergences", "hardest", "meter", "calibration", "languages"},
    {"objectives"},
    {"minima"},
    {"games"},
    {"claims"},
    {"plots", "printed", "flags", "__init__", "__main__"},
]
SPIN_TRAIN = [
    {"printable"},
    {"errors", "seeds"},
    {"system", "config"},
    {"data", "model"},
    {"run"},
    {"sampling", "training"},
    {"stages"},
    {"driver", "languages"},
    {"lab", "plan", "report"},
    {
        "api",
        "grid",
        "demo",
        "display",
        "looking",
        "sharing",
        "cli",
        "logps",
        "trainer",
        "__init__",
        "__main__",
    },
]
FLOORS = {"spin_theory": SPIN_THEORY, "spin_train": SPIN_TRAIN}
WITHIN_A_FLOOR = {
    ("divergences", "policies"),
    ("meter", "losses"),
    ("languages", "policies"),
}
"""Neighbours of the lowest floors that may import each other, one way: (who, whom)."""


def module_name(path: Path) -> str:
    """`spin_theory.games.play` for its file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts)


def modules(package: str) -> dict[str, Path]:
    """Every module of a package by its name."""
    return {module_name(path): path for path in sorted((ROOT / package).rglob("*.py"))}


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules among `known` that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if name in known:
                found.add(name)
            elif f"{name}.__init__" in known and isinstance(node, ast.Import):
                found.add(f"{name}.__init__")
    return found


def wing(module: str) -> str:
    """The folder or file at the top of the package that a module stands in."""
    return module.split(".")[1]


def floor_of(module: str) -> int:
    """How high a module's wing stands, from 0."""
    package, name = module.split(".")[:2]
    floors = [i for i, floor in enumerate(FLOORS[package]) if name in floor]
    assert len(floors) == 1, f"{module}: no floor in tests/test_wings.py names its wing {name}"
    return floors[0]


@pytest.mark.parametrize("package", FLOORS)
def test_the_scan_sees_the_whole_package(package):
    known = modules(package)
    folders = {wing(name) for name in known if name.count(".") > 1}
    assert len(folders) >= 4, folders
    assert sum(len(imported(path, known)) for path in known.values()) > 100


@pytest.mark.parametrize("package", FLOORS)
def test_imports_go_only_downwards(package):
    known = modules(package)
    wrong = []
    for name, path in known.items():
        for target in imported(path, known):
            if wing(target) == wing(name) or floor_of(target) < floor_of(name):
                continue
            if floor_of(target) == floor_of(name):
                top = floor_of(name) == len(FLOORS[package]) - 1
                if top or (wing(name), wing(target)) in WITHIN_A_FLOOR:
                    continue
            wrong.append(f"{name} imports {target}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", FLOORS)
def test_no_two_modules_import_each_other(package):
    known = modules(package)
    TopologicalSorter({name: imported(path, known) for name, path in known.items()}).prepare()


@pytest.mark.parametrize("package", FLOORS)
def test_every_wing_on_the_list_is_there(package):
    standing = {wing(name) for name in modules(package)}
    assert set().union(*FLOORS[package]) == standing


@pytest.mark.parametrize("package", FLOORS)
def test_every_folder_is_a_package_that_says_what_it_holds(package):
    for folder in {path.parent for path in (ROOT / package).rglob("*.py")}:
        source = (folder / "__init__.py").read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(source)), folder
