"""Break the code on purpose, one line of `mutants.toml` at a time, and see which test notices.

``python -m tests.mutants`` edits copies of the repository, one per core, never the working tree,
and exits with 1 if a mutant survives the fast tests. With paths of source files as arguments it
tries the mutants of these alone.
"""

import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("spin_theory", "spin_train", "tests", "pyproject.toml")


@dataclass(frozen=True)
class Mutant:
    """One wrong line."""

    name: str
    path: str
    old: str
    new: str

    def apply(self, root):
        """Edit the copy at `root`; its unbroken source comes back."""
        path = root / self.path
        source = path.read_text(encoding="utf-8")
        count = source.count(self.old)
        if count != 1:
            raise AssertionError(f"{self.name}: {self.old!r} is {count} times in {self.path}")
        path.write_text(source.replace(self.old, self.new), encoding="utf-8")
        return source


FILES = tomllib.loads((ROOT / "tests/mutants.toml").read_text(encoding="utf-8"))
TESTS = {path: content["tests"] for path, content in FILES.items()}
MUTANTS = [
    Mutant(name, path, old, new)
    for path, content in FILES.items()
    for name, (old, new) in content["mutants"].items()
]


def copy_repository(folder):
    """Copy what the tests need."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".hypothesis")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, folder / name)


def run_tests(folder, tests):
    """Run tests in the copy; their exit code, and the first that failed."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),  # before an editable install of the working tree
        "PYTHONDONTWRITEBYTECODE": "1",  # an edit within a second must not meet old bytecode
        "HYPOTHESIS_PROFILE": "ci",
        "OMP_NUM_THREADS": "1",
    }
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    failed = re.search(r"^FAILED \S*::(\S+)", ran.stdout, re.MULTILINE)
    if ran.returncode not in (0, 1) or (ran.returncode == 1 and failed is None):
        raise AssertionError(f"the tests did not run:\n{ran.stdout}{ran.stderr}")
    return failed[1] if failed else None


def try_all(mutants, folders):
    """Yield each mutant with the test that notices it, or None; one at a time in each copy."""
    free = queue.SimpleQueue()
    for folder in folders:
        free.put(folder)

    def killer_of(mutant):
        folder = free.get()
        source = mutant.apply(folder)
        try:
            return run_tests(folder, TESTS[mutant.path])
        finally:
            (folder / mutant.path).write_text(source, encoding="utf-8")
            free.put(folder)

    with ThreadPoolExecutor(len(folders)) as pool:
        yield from zip(mutants, pool.map(killer_of, mutants), strict=True)


def main():
    """Try every mutant, or those of the files that are named; 1 if one survives."""
    wanted = sys.argv[1:] or list(TESTS)
    mutants = [mutant for mutant in MUTANTS if mutant.path in wanted]
    if unknown := set(wanted) - set(TESTS):
        sys.exit(f"mutants.toml has no {', '.join(sorted(unknown))}")
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folders = [Path(name) / str(number) for number in range(len(os.sched_getaffinity(0)))]
        for folder in folders:
            folder.mkdir()
            copy_repository(folder)
        killer = run_tests(folders[0], sorted({test for path in wanted for test in TESTS[path]}))
        if killer is not None:
            raise AssertionError(f"{killer} fails without any mutant")
        for mutant, killer in try_all(mutants, folders):
            survivors += killer is None
            print(f"{mutant.path:24} {mutant.name:30} {killer or 'SURVIVED'}", flush=True)
    print(f"{len(mutants)} mutants, {survivors} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
