"""A whole run's wall time: start-up, each stage, and what is left.

``python -m benchmarks.whole_run`` plays one SPIN iteration of the demo's language for about a
minute, two ranks, ZeRO-2, and says how long `spin-train --help` takes. A run before it, of a few
seconds, warms the file cache as any earlier run does. The exit code is 0 whether or not the
targets are met.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Row, refuse_busy
from spin_train.demo import build
from spin_train.driver import selfplay
from spin_train.run.run import Run

COMPUTE = ("generate", "score", "train", "evaluate")


def play(out: Path, *, overrides: list[str]) -> tuple[float, float, dict[str, float]]:
    """Do a run and time it.

    Parameters
    ----------
    out : Path
        An empty directory.
    overrides : list of str
        Changes to the demo's config.

    Returns
    -------
    wall : float
        Seconds of all of it.
    start : float
        Seconds until the workers took up their first stage.
    stages : dict
        Seconds of each stage.
    """
    run = Run.of(build(out, ranks=2, overrides=["iterations=1", "control=false", *overrides]))
    words: list[float] = []
    started = time.monotonic()
    selfplay.play(run, watch=lambda *_: words.append(time.monotonic()))
    wall = time.monotonic() - started
    manifest = run.manifest().content
    stages = {name: stage["seconds"] for name, stage in manifest["stages"].items()}
    return wall, words[0] - started, stages


def help_seconds() -> float:
    """Time `spin-train --help`.

    Returns
    -------
    float
        Seconds, the best of three.
    """
    times = []
    for _ in range(3):
        started = time.monotonic()
        command = [sys.executable, "-m", "spin_train", "--help"]
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.monotonic() - started)
    return min(times)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--busy", action="store_true", help="measure although others are working")
    arguments = parser.parse_args()
    load = refuse_busy(allowed=arguments.busy)
    with tempfile.TemporaryDirectory() as folder:
        play(Path(folder) / "warm", overrides=["epochs=0.05", "sft.epochs=0.05"])
        wall, start, stages = play(Path(folder) / "run", overrides=["epochs=10"])
    compute = sum(s for name, s in stages.items() if name.rpartition("/")[2] in COMPUTE)
    rows = [
        Row("start-up, two ranks, warm", 12, start, " s", at_most=True),
        Row("all but start-up and compute", 5, 100 * (wall - start - compute) / wall, " %", True),
        Row("`spin-train --help`", 1, help_seconds(), " s", at_most=True),
    ]
    print(f"load before {load:.2f}; wall {wall:.1f} s\n\n| claim | target | measured | |")
    print("|---|---|---|---|\n" + "\n".join(row.markdown() for row in rows))
    print("\n| stage | s |\n|---|---|")
    print("\n".join(f"| {name} | {seconds:.1f} |" for name, seconds in stages.items()))


if __name__ == "__main__":
    main()
