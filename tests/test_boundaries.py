"""What each package may import, and that the loss exists once."""

import ast
import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import pytest

import spin_theory

ROOT = Path(__file__).parents[1]
BLOCKED = ["accelerate", "datasets", "deepspeed", "matplotlib", "rich", "transformers", "yaml"]
LOSS_MATHEMATICS = {
    "BCELoss",
    "BCEWithLogitsLoss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "hinge_embedding_loss",
    "logsigmoid",
    "LogSigmoid",
    "margin_ranking_loss",
    "relu",
    "sigmoid",
    "soft_margin_loss",
    "softplus",
}
"""What a penalty is written with: SPIN's mathematics lives in spin_theory/losses/ alone."""

FIXED_NAMES = {
    "spin_theory": [
        "NoisySort",
        "TabularPolicy",
        "TabularPolicy.from_logits",
        "TabularPolicy.from_probs",
        "TabularPolicy.random",
        "check_theorem_5_2",
        "check_theorem_5_4",
        "closed_form_update",
        "minimise",
        "play",
        "spin_loss",
        "spin_objective",
        "tspin_loss",
        "tspin_objective",
    ],
    "spin_theory.__main__": ["main"],
    "spin_train.api": ["Run", "open_run", "run"],
    "spin_train.cli": ["main"],
    "spin_train.logps": ["Group", "response_logps", "response_loss"],
    "spin_train.model.logps": ["response_logps", "response_loss"],
    "spin_train.trainer": ["SpinTrainer", "collate"],
    "spin_train.training.trainer": ["SpinTrainer"],
}
"""What users, notebooks and other programs import, and where from."""

FIXED_FIELDS = {
    "spin_theory.minima.minimise.Minimum": [
        "policy",
        "objective",
        "lower_bound",
        "gap",
        "gradient_norm",
    ],
    "spin_theory.games.play.Game": ["policies"],
    "spin_theory.claims.theorem_5_2.Theorem52Evidence": ["holds"],
    "spin_theory.claims.theorem_5_4.Theorem54Evidence": ["holds"],
    "spin_theory.policies.TabularPolicy": ["log_probs"],
}
"""What they read from what those return."""

MOST_NAMES = 50
"""At the top of spin_theory: what fits into a notebook's first cell and a reader's head."""


@pytest.mark.process
def test_spin_theory_and_its_command_line_run_on_torch_numpy_scipy_alone():
    program = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocker())
import spin_theory
from spin_theory.__main__ import main
assert main(["verify", "--instances", "1"]) == 0
assert main(["play"]) == 0
assert main(["play", "--plot", "game.png"]) == 2
assert not set({BLOCKED}) & set(sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "--plot needs matplotlib: pip install 'spin-toolkit[plots]'" in result.stderr


def names_used(source: str) -> set[str]:
    """Every name, attribute and imported name in a module."""
    used = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            used.update(alias.name for alias in node.names)
    return used


def test_the_scan_sees_a_second_copy_of_the_loss():
    copy = "import torch.nn.functional as F\ndef loss(m, beta):\n    return -F.logsigmoid(beta * m)"
    assert names_used(copy) & LOSS_MATHEMATICS == {"logsigmoid"}
    assert names_used("from torch.nn.functional import softplus as f") & LOSS_MATHEMATICS


@pytest.mark.parametrize("path", sorted((ROOT / "spin_train").rglob("*.py")), ids=lambda p: p.name)
def test_spin_train_has_no_loss_mathematics_of_its_own(path):
    assert names_used(path.read_text()) & LOSS_MATHEMATICS == set()


def test_one_module_of_spin_train_takes_the_losses_from_spin_theory():
    importers = set()
    for path in (ROOT / "spin_train").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "spin_theory.losses":
                names = {alias.name for alias in node.names}
                if {"spin_loss", "tspin_loss"} <= names:
                    importers.add(path.name)
    assert len(importers) == 1, importers


@pytest.mark.parametrize("path", sorted((ROOT / "spin_theory").rglob("*.py")), ids=lambda p: p.name)
def test_spin_theory_does_not_know_spin_train(path):
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            modules.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Import):
            modules.update(alias.name.split(".")[0] for alias in node.names)
    assert "spin_train" not in modules


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in FIXED_NAMES.items() for name in names]
)
def test_fixed_names_are_importable(module, name):
    assert callable(attrgetter(name)(importlib.import_module(module)))


@pytest.mark.parametrize("path", FIXED_FIELDS)
def test_fixed_fields_are_there(path):
    module, _, name = path.rpartition(".")
    fields = {field.name for field in dataclasses.fields(import_from(module, name))}
    assert set(FIXED_FIELDS[path]) <= fields


def import_from(module, name):
    return getattr(importlib.import_module(module), name)


def test_the_top_of_spin_theory_holds_the_fixed_names_and_not_many_more():
    assert {name.split(".")[0] for name in FIXED_NAMES["spin_theory"]} <= set(spin_theory.__all__)
    assert len(spin_theory.__all__) <= MOST_NAMES


@pytest.mark.parametrize("name", spin_theory.__all__)
def test_every_name_at_the_top_of_spin_theory_is_there_and_says_what_it_is(name):
    found = getattr(spin_theory, name)
    if callable(found):
        assert inspect.getdoc(found)
        assert name in sys.modules[found.__module__].__all__
    else:
        assert name == "PENALTIES"


def test_nothing_public_stands_at_the_top_of_spin_theory_but_its_names_and_its_wings():
    wings = {path.stem for path in (ROOT / "spin_theory").iterdir()}
    others = {name for name in vars(spin_theory) if not name.startswith("_")}
    assert others - wings <= set(spin_theory.__all__)


def test_the_table_of_contents_of_spin_theory_names_every_wing():
    wings = {path.stem for path in (ROOT / "spin_theory").iterdir() if path.name[0] != "_"}
    for wing in wings - {"py"}:
        assert re.search(rf"^``.*\b{wing}\b.*``", spin_theory.__doc__, re.MULTILINE), wing
