"""Everything that is worth minutes on a GPU, in order of value; ``make gpu`` calls it.

``python -m benchmarks.gpu --wheels build/wheels --gsm8k train.jsonl`` runs with what a machine has
(Python 3.12, torch 2.11 with CUDA, transformers 5.17) and a folder of wheels made elsewhere by
``make gpu-wheels``, without an index. Each step has a time limit of its own, and its log and the
results are on disk before the next begins. ``--tiny`` rehearses all of it on the CPU in small.
docs/gpu.md says what each step answers.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from spin_train.system.files import write_json

ROOT = Path(__file__).parents[1]
LAST = 12
"""Lines of a step's log that the results repeat."""
GRACE = 10
"""Seconds for a step to end by itself."""


@dataclass(frozen=True)
class Step:
    """Something to run on the device."""

    seconds: int
    """Its time limit."""
    module: str
    """What ``python -m`` runs."""
    arguments: list[str]
    """Its arguments."""
    tiny: list[str] | None = None
    """Its arguments in a rehearsal; None leaves it out."""
    needs: list[str] = field(default_factory=list)
    """Options of this program without which it is left out."""


PYTEST = ["-m", "gpu", "-p", "no:cacheprovider", "-p", "no:benchmark", "--color=no", "--tb=short"]
RUN = [
    *("training.dtype=bfloat16", "training.batch_size=64", "training.micro_batch_tokens=16384"),
    *("generation.batch_size=1024", "epochs=2", "data.held_out=256"),
]
STEPS = {
    "tests": Step(
        120,
        "pytest",
        [*PYTEST, "--numprocesses=6", "tests/train/test_gpu.py"],
        [*PYTEST, "tests/train/test_gpu.py"],
    ),
    "runs": Step(
        120,
        "pytest",
        [*PYTEST, "tests/runs/test_gpu_runs.py"],
        [*PYTEST, "tests/runs/test_gpu_runs.py"],
    ),
    "train_step": Step(
        180,
        "benchmarks.train_step",
        ["--gpu"],
        ["--tiny", "--rounds=1"],
    ),
    "decoding": Step(
        90,
        "benchmarks.decoding",
        [],
        ["--tiny", "--batches", "2"],
    ),
    "real": Step(
        480,
        "benchmarks.real",
        ["--rows={rows}", "--data={gsm8k}", "--out={out}/real", *RUN],
        [
            *("--rows=12", "--data={gsm8k}", "--out={out}/real", "training.dtype=float32"),
            *("data.held_out=4", "iterations=1", "generation.max_new_tokens=16"),
        ],
        needs=["gsm8k"],
    ),
    "head": Step(60, "benchmarks.head", ["--gpu", "--rounds=3"]),
}


def install(wheels: Path, site: Path) -> None:
    """Install wheels without an index, next to what the machine has.

    Parameters
    ----------
    wheels : Path
        Folder that ``make gpu-wheels`` filled.
    site : Path
        Folder that they are installed in.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--no-compile", "--upgrade", "--target", str(site)]
    subprocess.run([*command, *map(str, sorted(wheels.glob("*.whl")))], check=True)


def run_step(name: str, command: list[str], seconds: int, out: Path) -> dict[str, object]:
    """Run a step within its time limit; its log is ``<name>.log``.

    Parameters
    ----------
    name : str
        Of the step.
    command : list of str
        What to run.
    seconds : int
        When it, and all that it has started, is stopped.
    out : Path
        Folder of the log.

    Returns
    -------
    dict
        Its command, exit code (None if it was stopped), seconds and last lines.
    """
    path, started = out / f"{name}.log", time.monotonic()
    with path.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True
        )
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        for end in (signal.SIGINT, signal.SIGKILL):  # after the first pytest says what it found
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, end)
                process.wait(GRACE)
    taken = round(time.monotonic() - started, 1)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {"command": command[1:], "code": code, "seconds": taken, "last": lines[-LAST:]}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--wheels", type=Path, help="folder with what the machine lacks")
    parser.add_argument("--gsm8k", help="file with GSM8K's training rows, for the step `real`")
    parser.add_argument("--rows", type=int, default=7000, help="of them, to train on")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="logs and results")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS), help="steps")
    parser.add_argument("--tiny", action="store_true", help="rehearse on the CPU")
    parser.add_argument("--set", nargs="+", default=[], help="key=value for the step `real`")
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    paths = [str(ROOT)]
    if arguments.wheels:
        install(arguments.wheels, out / "site")
        paths.append(str(out / "site"))
    paths += [path for path in [os.environ.get("PYTHONPATH")] if path]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ["PYTHONUNBUFFERED"] = "1"
    given = {"out": out, "gsm8k": arguments.gsm8k, "rows": arguments.rows}
    results: dict[str, object] = {}
    for name in arguments.only:
        step = STEPS[name]
        words = step.tiny if arguments.tiny else step.arguments
        if words is None or any(given[option] is None for option in step.needs):
            print(f"{name}: left out", flush=True)
            continue
        command = [sys.executable, "-m", step.module, *(word.format(**given) for word in words)]
        command += arguments.set if name == "real" else []
        print(f"{name}: at most {step.seconds} s", flush=True)
        results[name] = run_step(name, command, step.seconds, out)
        write_json(out / "results.json", results)
    for name, result in results.items():
        assert isinstance(result, dict)
        ended = "stopped at its limit" if result["code"] is None else f"exit code {result['code']}"
        print(f"\n## {name}: {ended}, {result['seconds']} s\n" + "\n".join(result["last"]))


if __name__ == "__main__":
    main()
