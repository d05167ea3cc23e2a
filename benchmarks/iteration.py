"""A whole iteration against the script that one writes today: wall time, stages, peak memory.

``python -m benchmarks.iteration smollm2 --model DIR --gsm8k train.jsonl`` plays one iteration of
SPIN without evaluation of anything but the held-out rows, and then `benchmarks.users_script` in
several settings, each in a process of its own. ``llama`` takes 64 rows of 384 and 128 tokens and a
Llama of 21 million random weights. TRL has an environment of its own, ``.venv-trl``, made at the
first run. A busy machine is refused; the exit code is 0 whether targets are met or not.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import CORES, Row, refuse_busy
from benchmarks.yardsticks import Size
from spin_train.languages import build_tokenizer
from spin_train.system.files import read_json

ROOT = Path(__file__).parents[1]
BATCH = 8
KEEPS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "68719476736"}
"""glibc's malloc told not to give memory back."""


@dataclass(frozen=True)
class Task:
    """What is played."""

    model: Path
    """Directory of the model."""
    rows: Path
    """JSON lines with prompt and response; the last ones are held out."""
    count: int
    """Rows to train on."""
    new_tokens: int
    """Longest response."""
    template: str | None
    """Template of a model without a chat template."""


@dataclass(frozen=True)
class Setting:
    """A setting of the user's script."""

    micro_batch: int = BATCH
    cached: bool = False
    keeps_memory: bool = False
    checkpointing: bool = False

    @property
    def words(self) -> list[str]:
        """Arguments of the script."""
        given = [f"--micro-batch={self.micro_batch}"]
        given += ["--cached"] if self.cached else []
        return given + (["--checkpointing"] if self.checkpointing else [])

    @property
    def name(self) -> str:
        """What the table calls it."""
        parts = [f"micro-batches of {self.micro_batch}"]
        parts += ["reference cached"] if self.cached else []
        parts += ["malloc keeps memory"] if self.keeps_memory else []
        return ", ".join([*parts, *(["activations recomputed"] if self.checkpointing else [])])


AS_IT_COMES = Setting(checkpointing=True)
"""DPOConfig's own defaults, but for float32."""
SETTINGS = [
    AS_IT_COMES,
    *(
        Setting(micro_batch, cached=True, keeps_memory=keeps)
        for micro_batch in (1, 2, 8)
        for keeps in (False, True)
    ),
]
TARGETS = {  # times faster, and share of the memory, of TRL's best and of TRL as it comes
    "smollm2": ((1.6, 0.5), (1.9, 0.2)),
    "llama": ((3.0, 0.5), (5.0, 0.2)),
    "tiny": ((1.0, 1.0), (1.0, 1.0)),
}


def gsm8k_task(folder: Path, model: Path, source: Path, count: int) -> Task:
    """Take rows of GSM8K and a chat model.

    Parameters
    ----------
    folder : Path
        Where the rows go.
    model : Path
        Directory of SmolLM2-135M-Instruct.
    source : Path
        GSM8K's ``train.jsonl``.
    count : int
        Rows to train on; one more is held out.

    Returns
    -------
    Task
        With 160 new tokens.
    """
    lines = source.read_text(encoding="utf-8").splitlines()[: count + 1]
    rows = [json.loads(line) for line in lines]
    path = folder / "rows.jsonl"
    texts = [json.dumps({"prompt": r["question"], "response": r["answer"]}) for r in rows]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return Task(model, path, count, 160, None)


def random_task(folder: Path, size: Size, prompt: int, response: int, count: int) -> Task:
    """Make a Llama with random weights and rows of equal length, one token for each symbol.

    Parameters
    ----------
    folder : Path
        Where both go.
    size : Size
        Of the model.
    prompt, response : int
        Tokens of each row.
    count : int
        Rows to train on; one more is held out.

    Returns
    -------
    Task
        Responses as long as the human ones.
    """
    first = [*range(0x4E00, 0xA000), *range(0xAC00, 0xD7A4)]  # letters that no tokenizer splits
    symbols = [chr(code) for code in first[: size.vocabulary - 8]]
    tokenizer = build_tokenizer("".join(symbols))
    model = size.build(torch.float32)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    generator = torch.Generator().manual_seed(1)

    def text(length: int) -> str:
        places = torch.randint(len(symbols), (length,), generator=generator).tolist()
        return "".join(symbols[place] for place in places)

    rows = [{"prompt": text(prompt), "response": text(response - 1)} for _ in range(count + 1)]
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return Task(folder / "model", path, count, response, "{prompt}")


def ours(task: Task, folder: Path) -> dict[str, float]:
    """Play one iteration with `spin-train run`.

    Parameters
    ----------
    task : Task
        What is played.
    folder : Path
        An empty directory.

    Returns
    -------
    dict
        Seconds of the whole and by stage, and peak bytes of one process.
    """
    config = {
        "model": str(task.model),
        "data": {"path": str(task.rows), "held_out": 1, "rows": task.count},
        "output_dir": str(folder / "run"),
        "iterations": 1,
        "epochs": 1,
        "beta": 0.1,
        "learning_rate": 1e-6,
        "generation": {"max_new_tokens": task.new_tokens, "batch_size": 64},
        "training": {"batch_size": BATCH},
        "control": False,
        "ranks": 1,
        **({"template": task.template} if task.template else {}),
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")  # which is YAML too
    command = [sys.executable, "-m", "spin_train", "run", str(path)]
    seconds, peak, _ = _timed(command, folder / "ours.log", os.environ)
    taken = {"all": seconds, "bytes": peak}
    for name, stage in read_json(folder / "run" / "manifest.json")["stages"].items():
        kind = name.rpartition("/")[2]
        taken[kind] = taken.get(kind, 0.0) + stage["seconds"]
    return taken


def theirs(task: Task, setting: Setting, python: Path, folder: Path) -> dict[str, float]:
    """Play one iteration with the user's script.

    Parameters
    ----------
    task : Task
        What is played.
    setting : Setting
        Of the script.
    python : Path
        Interpreter of TRL's environment.
    folder : Path
        Where the policy goes.

    Returns
    -------
    dict
        Seconds of the whole and by stage, and peak bytes.
    """
    lines = task.rows.read_text(encoding="utf-8").splitlines()[: task.count]
    rows = folder / "train.jsonl"
    rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [str(python), str(ROOT / "benchmarks" / "users_script.py"), str(task.model)]
    command += [str(rows), str(folder / "policy"), f"--new-tokens={task.new_tokens}"]
    environment = {**os.environ, **(KEEPS_MEMORY if setting.keeps_memory else {})}
    seconds, peak, said = _timed([*command, *setting.words], folder / "script.log", environment)
    return {**json.loads(said.splitlines()[-1]), "all": seconds, "bytes": peak}


def _timed(
    command: list[str], log: Path, environment: Mapping[str, str]
) -> tuple[float, float, str]:
    """Wall seconds, the largest process's peak bytes, and what was printed."""
    # In a process of its own, whose children's peak is that of this command alone.
    program = (
        "import json, resource, subprocess, sys, time; t = time.monotonic();"
        "log = open(sys.argv[1], 'w');"
        "done = subprocess.run(sys.argv[2:], stdout=subprocess.PIPE, stderr=log);"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss;"
        "print(json.dumps([done.returncode, time.monotonic() - t, peak, done.stdout.decode()]))"
    )
    wrapped = [sys.executable, "-c", program, str(log), *command]
    done = subprocess.run(wrapped, capture_output=True, text=True, check=True, env=environment)
    code, seconds, peak, said = json.loads(done.stdout)
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}:\n{log.read_text()[-2000:]}")
    return seconds, 1024 * peak, said


def trl_environment() -> Path:
    """Make TRL's environment, unless it is there.

    Returns
    -------
    Path
        Its interpreter.
    """
    folder = ROOT / ".venv-trl"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--no-compile"]
        pins = ["--constraint", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, *pins, "trl", "transformers", "torch"], check=True)
        (folder / "ready").touch()
    return python


def _line(name: str, taken: dict[str, float], best: float) -> str:
    stages = ", ".join(
        f"{stage} {seconds:.0f}"
        for stage, seconds in taken.items()
        if stage not in ("all", "bytes", "tokens")
    )
    return (
        f"| {name} | {taken['all']:.0f} | {taken['bytes'] / 1e9:.1f} "
        f"| {taken['all'] / best:.2f} | {stages} |"
    )


def make_task(arguments: Any, folder: Path) -> Task:
    """Make the task that was asked for.

    Parameters
    ----------
    arguments : Namespace
        Of the command line.
    folder : Path
        Where model and rows go.

    Returns
    -------
    Task
        What is played.
    """
    if arguments.task == "smollm2":
        if not (arguments.model and arguments.gsm8k):
            raise SystemExit("smollm2 needs --model (make real converts one) and --gsm8k")
        return gsm8k_task(folder, arguments.model, arguments.gsm8k, arguments.rows or 40)
    if arguments.task == "llama":
        return random_task(folder, Size(), 384, 128, arguments.rows or 64)
    tiny = Size(width=64, intermediate=96, layers=2, heads=4, vocabulary=500)
    return random_task(folder, tiny, 24, 12, arguments.rows or 16)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("task", choices=TARGETS, help="what is played; tiny is to try it")
    parser.add_argument("--model", type=Path, help="directory of SmolLM2-135M-Instruct")
    parser.add_argument("--gsm8k", type=Path, help="file with GSM8K's training rows")
    parser.add_argument("--rows", type=int, help="to train on")
    parser.add_argument("--settings", type=int, nargs="+", help="numbers of the script's settings")
    parser.add_argument("--busy", action="store_true", help="measure although others are working")
    arguments = parser.parse_args()
    load = refuse_busy(allowed=arguments.busy)
    os.environ["OMP_NUM_THREADS"] = str(CORES)
    python = trl_environment()
    settings = [SETTINGS[number] for number in arguments.settings or range(len(SETTINGS))]
    print(f"{arguments.task}, {CORES} threads, load before {load:.2f}\n")
    print("| way | s | peak, GB | over ours | stages, s |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task = make_task(arguments, folder)
        (folder / "ours").mkdir()
        played = ours(task, folder / "ours")
        print(_line("spin-train run", played, played["all"]), flush=True)
        taken = {}
        for number, setting in enumerate(settings):
            place = folder / f"theirs{number}"
            place.mkdir()
            taken[setting] = theirs(task, setting, python, place)
            print(_line(f"TRL, {setting.name}", taken[setting], played["all"]), flush=True)
    best = min(taken.values(), key=lambda each: each["all"])
    others = {"TRL's best": best}
    others |= {"TRL as it comes": taken[AS_IT_COMES]} if AS_IT_COMES in taken else {}
    rows = []
    for (other, theirs_took), (faster, memory) in zip(
        others.items(), TARGETS[arguments.task], strict=False
    ):
        factor = theirs_took["all"] / played["all"]
        rows.append(Row(f"faster than {other}", faster, factor, "x"))
        share = played["bytes"] / theirs_took["bytes"]
        rows.append(Row(f"memory over that of {other}", memory, share, "x", at_most=True))
    print("\n| claim | target | measured | |\n|---|---|---|---|")
    print("\n".join(row.markdown() for row in rows))


if __name__ == "__main__":
    main()
