"""Run the tests of numbers as other processors would compute them.

``python -m tests.processors`` runs them once per environment, prints one row for each, and exits
with 1 if one fails. An environment asks torch, OpenBLAS or oneDNN for an older vector unit, which
adds in another order and has other last bits. Files given as arguments replace `TESTS`.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
UNITS = (
    {"ATEN_CPU_CAPABILITY": "default"},
    {"ATEN_CPU_CAPABILITY": "avx2"},
    {"OPENBLAS_CORETYPE": "Haswell"},
    {"ONEDNN_MAX_CPU_ISA": "AVX2"},
)
"""Each below what the processor has; one that it lacks itself changes nothing."""

ENVIRONMENTS = [{**unit, "OMP_NUM_THREADS": threads} for unit in UNITS for threads in ("1", "2")]

TESTS = [
    "tests/theory/test_losses.py",
    "tests/theory/test_divergences.py",
    "tests/theory/test_policies.py",
    "tests/theory/objectives/test_objectives.py",
    "tests/theory/minima/test_minimise.py",
    "tests/theory/games/test_phase.py",
    "tests/theory/games/test_play.py",
    "tests/theory/claims/test_theorem_5_2.py",
    "tests/theory/claims/test_theorem_5_4.py",
    "tests/train/training/test_objective.py",
    "tests/train/model/test_logps.py",
]
"""Theory, losses and log-probs: what takes half a minute."""

LEFT_OUT = "not one_unpadded_forward or llama"
"""One architecture stands for the others, which compute the same sums, and are slow."""


def run_tests(environment, tests):
    """Run tests in an environment; the names of those that failed."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not any(name in other for other in ENVIRONMENTS)
    }
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", LEFT_OUT, *tests],
        cwd=ROOT,
        # Threads that wait sleep: on a busy machine they would take the time of those that work.
        env={
            **inherited,
            **environment,
            "HYPOTHESIS_PROFILE": "quick",
            "OMP_WAIT_POLICY": "PASSIVE",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", ran.stdout, re.MULTILINE)
    if ran.returncode not in (0, 1) or (ran.returncode == 1 and not failed):
        raise AssertionError(f"the tests did not run:\n{ran.stdout}{ran.stderr}")
    return failed


def main(tests=()):
    """Try every environment; 1 if a test fails in one."""
    failing = 0
    for environment in ENVIRONMENTS:
        start = time.monotonic()
        failed = run_tests(environment, tests or TESTS)
        failing += bool(failed)
        name = " ".join(f"{key}={value}" for key, value in environment.items())
        verdict = "FAILS " + " ".join(failed) if failed else "passes"
        print(f"{name:46} {time.monotonic() - start:5.0f} s  {verdict}", flush=True)
    print(f"{len(ENVIRONMENTS)} environments, {failing} fail")
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
