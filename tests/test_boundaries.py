"""What each package may import, and that the loss exists once."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

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
"""What a penalty is written with: SPIN's mathematics lives in spin_theory/losses.py alone."""

FIXED_NAMES = {
    "spin_theory": [
        "NoisySort",
        "TabularPolicy",
        "check_theorem_5_2",
        "check_theorem_5_4",
        "closed_form_update",
        "minimise",
        "play",
        "spin_loss",
        "spin_objective",
        "tspin_loss",
    ],
    "spin_theory.__main__": ["main"],
    "spin_train.cli": ["main"],
    "spin_train.model.logps": ["response_logps"],
    "spin_train.training.trainer": ["SpinTrainer"],
}


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
    assert callable(getattr(importlib.import_module(module), name))


def test_the_table_of_contents_is_what_it_says():
    contents = importlib.import_module("spin_theory")
    assert all(hasattr(contents, name) for name in contents.__all__)
