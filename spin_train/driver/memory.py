"""What to say where memory runs out: the stage, the peak, and the key to lower."""

import resource
import signal
import sys
from pathlib import Path
from typing import Any

from spin_train.config.schema import Config
from spin_train.errors import UserError, one_line
from spin_train.run.directory import RunDirectory
from spin_train.system.files import read_json

__all__ = ["machine_memory", "memory_error", "refuse_killed_workers"]

_GIB = 2**30
# As the launcher of several workers reports a signal, a shell does, and Python does.
_KILLED = {code for n in (signal.SIGKILL,) for code in (-n, 256 - n, 128 + n)}
_BUS = {code for n in (signal.SIGBUS,) for code in (-n, 256 - n, 128 + n)}


def memory_error(stage: str, config: Config, error: object) -> UserError:
    """Say in which stage this process ran out of memory, how much it had, and what helps."""
    return UserError(
        f"{stage}: out of memory ({_peak()}; {one_line(error, 200)}): {_help(stage, config)}"
    )


def refuse_killed_workers(code: int, directory: RunDirectory, config: Config) -> None:
    """Raise UserError if the exit code of workers without a message says that they were killed.

    The kernel kills a process when the memory of the machine or of its container is used up. It
    leaves nothing but the signal.
    """
    if code not in _KILLED | _BUS:
        return
    stage = _last_stage(directory.progress)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / _GIB
    whole = machine_memory() / _GIB
    if code in _BUS:
        raise UserError(
            f"{stage}: a worker ran out of shared memory (SIGBUS): give /dev/shm more room "
            "(docker: --shm-size), then run the same command again"
        )
    raise UserError(
        f"{stage}: the workers were killed (SIGKILL), most likely by the kernel because memory ran "
        f"out (peak of one process: {peak:.2f} GiB of the machine's {whole:.1f}): "
        f"{_help(stage, config)}"
    )


def _help(stage: str, config: Config) -> str:
    """Name the key to lower, by the last part of a stage's name."""
    kind = stage.rpartition("/")[2]
    generation, training = config.generation, config.training
    tokens = f"lower training.micro_batch_tokens (now {training.micro_batch_tokens})"
    share = ", or share the model out over several ranks with sharded_inference=true"
    share = "" if config.sharded_inference else share
    scoring = tokens + share
    sampling = f"lower generation.batch_size (now {generation.batch_size}){share}"
    lines = {
        **dict.fromkeys(("generate", "sample", "answer"), sampling),
        "score": scoring,
        "reference": scoring,
        "evaluate": scoring,
        "train": f"{tokens}, raise zero_stage (now {config.zero_stage}) or train an adapter",
        "prepare": "give data.path fewer rows, or the machine more memory",
    }
    if kind == "generate" and generation.engine == "vllm":
        lines["generate"] = f"lower generation.vllm_memory (now {generation.vllm_memory})"
    if kind == "benchmark" and config.evaluation.lm_eval:
        size = config.evaluation.lm_eval.batch_size
        lines["benchmark"] = f"lower evaluation.lm_eval.batch_size (now {size})"
    return (
        lines.get(kind, "use fewer ranks, or a smaller model") + ", then run the same command again"
    )


def _peak() -> str:
    """Peak of this process on its device, else in main memory."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peak = torch.cuda.max_memory_reserved() / _GIB
        whole = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / _GIB
        return f"peak {peak:.2f} GiB of the device's {whole:.1f}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GIB
    return f"peak {peak:.2f} GiB of the machine's {machine_memory() / _GIB:.1f}"


def machine_memory() -> int:
    """Memory of this machine, or of its container where that has less; bytes."""
    sizes = []
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemTotal:"):
            sizes.append(int(line.split()[1]) * 1024)
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            sizes.append(int(Path(limit).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such file, or `max`
            continue
    return min(sizes)


def _last_stage(progress: Path) -> str:
    try:
        stage: str = read_json(progress)["stages"][-1]
    except (OSError, ValueError, LookupError):
        return "starting the workers"
    return stage
