"""The process in which vLLM samples; it gives the device's memory back when it ends.

A rank starts ``python -m spin_train.sampling.vllm_process`` on its device and waits; the process
claims and writes shards as ranks themselves do with the other engine.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from spin_train.config.files import load_config
from spin_train.errors import StoppedError, UserError, disk_full, one_line
from spin_train.run.directory import RunDirectory
from spin_train.sampling.play import fill_shards
from spin_train.sampling.vllm_engine import little_memory, load_engine, require_vllm, sample
from spin_train.system.board import Board, ranks_of_job, stop_request_of
from spin_train.system.files import read_json, write_json
from spin_train.system.processes import die_with_driver
from spin_train.system.speed import Speed
from spin_train.system.surroundings import without_launchers

__all__ = ["process_environment", "run_process"]


_POLL_SECONDS = 0.2


def run_process(
    root: Path, iteration: int, opponent: str | Path, *, visit: Callable[[], None]
) -> dict[str, int]:
    """Sample the shards of an iteration in a process of its own, and wait for it.

    Returns how many `tokens` it sampled, and its `peak_memory` in bytes.

    `opponent` is `config.model` or a policy directory. `visit` is called a few times per second;
    where it raises, the process is ended. The process reports what the user can fix (UserError),
    that the driver asked to stop (StoppedError), or another failure (RuntimeError).
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "error.json"
        arguments = [str(root), str(iteration), str(opponent), str(answer)]
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "spin_train.sampling.vllm_process", *arguments],
            env=process_environment(os.environ),
            stdin=subprocess.DEVNULL,
        )
        try:
            while process.poll() is None:
                visit()
                time.sleep(_POLL_SECONDS)
        finally:
            process.kill()  # shards are whole at any time
            process.wait()
        said = read_json(answer) if answer.exists() else {}
    if process.returncode == 0:
        return {name: said[name] for name in ("tokens", "peak_memory")}
    if said.get("stopped"):
        raise StoppedError
    if "fix" in said:
        raise UserError(said["fix"])
    if process.returncode == -signal.SIGKILL:
        raise UserError(_memory_line("its process was killed, most likely by the kernel"))
    raise RuntimeError(
        f"vLLM's process ended with code {process.returncode}: {said.get('fault', 'see the log')}"
    )


def _memory_line(reason: str) -> str:
    return (
        f"vLLM has too little memory for the samples ({reason}): free some, change "
        "generation.vllm_memory, lower generation.max_new_tokens, or set generation.engine=hf"
    )


def process_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment of the process: one visible device, and nothing about the launcher's ranks."""
    alone = without_launchers(environment)  # vLLM would take them for its own
    devices = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    local_rank = int(environment.get("LOCAL_RANK", "0"))
    if "CUDA_VISIBLE_DEVICES" not in environment:
        alone["CUDA_VISIBLE_DEVICES"] = str(local_rank)
    elif devices:
        alone["CUDA_VISIBLE_DEVICES"] = devices[local_rank]
    alone.setdefault("VLLM_NO_USAGE_STATS", "1")  # nothing is reported to anyone unasked
    # In one process: it ends as a whole, and schedules the same way every time.
    alone["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return alone


def _fill(root: Path, iteration: int, opponent: str) -> int:
    run = RunDirectory(root)
    config = load_config(run.config_file)

    stop_request = stop_request_of(os.environ, run.stop_request)

    def visit(number: int, total: int) -> None:
        if stop_request.exists():
            raise StoppedError

    return fill_shards(
        config,
        run,
        iteration,
        lambda _: partial(sample, load_engine(config, run, opponent)),
        visit=visit,
        ranks=ranks_of_job(os.environ, "ranks"),
        board=Board.of(),
    )


def main() -> None:
    """Sample; arguments as `run_process` gives them, the last a file for what came of it."""
    die_with_driver()
    root, iteration, opponent, answer = sys.argv[1:]
    said: dict[str, Any]
    try:
        require_vllm()
        speed = Speed()
        speed.count(_fill(Path(root), int(iteration), opponent))
        said = {"tokens": speed.tokens, "peak_memory": speed.peak_memory}
    except StoppedError:
        said = {"stopped": "yes"}
    except UserError as error:
        said = {"fix": str(error)}
    except Exception as error:
        traceback.print_exc()
        line = f"{type(error).__name__}: {one_line(error)}"
        said = {"fault": line}
        if little_memory(error):
            said = {"fix": _memory_line(line)}
        if disk_full(error):
            said = {
                "fix": f"the disk is full ({line}): free space, then run the same command again"
            }
    write_json(Path(answer), said)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if "tokens" in said else 1)  # threads of vLLM must not keep the device


if __name__ == "__main__":
    main()
