"""Start one worker per rank: several through DeepSpeed's launcher, one directly."""

import base64
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from spin_train.errors import UserError
from spin_train.system.processes import (
    DRIVER_VARIABLE,
    cpu_only,
    die_with_parent,
    extensions_folder,
)
from spin_train.system.surroundings import (
    home_variables,
    interpreter_variables,
    without_launchers,
    without_missing_interfaces,
    without_odd_threads,
)

__all__ = ["launch_worker", "launch_workers", "worker_environment"]

_WORKER = "spin_train.driver.worker"
_LOG = logging.getLogger(__name__)


def worker_environment(ranks: int, *, alone: bool = True) -> dict[str, str]:
    """Environment of the workers: this process's, with threads so that `ranks` fit the cores.

    What would make them other workers than this process means is left out, and names of interfaces
    that are not here where this machine is `alone`.
    """
    cores = len(os.sched_getaffinity(0))
    environment = without_launchers(os.environ)
    lines: list[str] = []
    if alone:
        environment, lines = without_missing_interfaces(environment)
    environment, of_threads = without_odd_threads(environment)
    for line in (*lines, *of_threads):
        _LOG.warning("%s", line)
    environment |= home_variables() | interpreter_variables(os.environ)
    environment.pop("PYTHONIOENCODING", None)  # the log is UTF-8, whatever the terminal is
    environment["PYTHONUTF8"] = "1"
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // ranks)))
    # Threads that spin while they wait slow a neighbouring rank many times over.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # products add in one order
    environment[DRIVER_VARIABLE] = str(os.getpid())
    if cpu_only():
        environment["DS_ACCELERATOR"] = "cpu"
        environment["CUDA_VISIBLE_DEVICES"] = ""  # so that torch decides the same
        environment["TORCH_EXTENSIONS_DIR"] = str(extensions_folder())
    return environment


def launch_workers(run_root: Path, *, ranks: int, log: IO[str]) -> subprocess.Popen[str]:
    """Start one worker per rank, in a session of their own.

    DeepSpeed's launcher starts several workers; a single one starts directly, which is faster.

    The launcher ends the other workers when one fails; what is started here dies with this process.
    The workers get only the directory of the run; their output goes to `log`.
    """
    # The launcher sets CUDA_VISIBLE_DEVICES from this, so it must name the user's devices.
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    devices = list(range(ranks)) if cpu_only() or not visible else visible[:ranks]
    if len(devices) < ranks:
        raise UserError(f"ranks={ranks} but CUDA_VISIBLE_DEVICES names {len(devices)} devices")
    environment = worker_environment(ranks)
    worker = (_WORKER, str(run_root))
    if ranks == 1:  # the launcher would only set these, after seconds of imports
        environment |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        if not cpu_only():
            environment["CUDA_VISIBLE_DEVICES"] = str(devices[0])
        return launch_worker(run_root, environment=environment, log=log)
    else:
        world = base64.urlsafe_b64encode(json.dumps({"localhost": devices}).encode())
        command = [
            *(sys.executable, "-P", "-m", "deepspeed.launcher.launch"),
            f"--world_info={world.decode()}",
            *("--master_addr=127.0.0.1", f"--master_port={_free_port()}"),
            *("--log_level=error", "--module", "--no_local_rank"),
            *worker,
        ]
    return _start(command, environment, log)


def launch_worker(
    run_root: Path, *, environment: Mapping[str, str], log: IO[str]
) -> subprocess.Popen[str]:
    """Start one worker, whose rank is in its environment, in a session of its own."""
    command = [sys.executable, "-P", "-u", "-m", _WORKER, str(run_root)]
    return _start(command, environment, log)


def _start(
    command: list[str], environment: Mapping[str, str], log: IO[str]
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C reaches the driver alone, which lets the workers save
        preexec_fn=_begin_launcher,
    )


def _begin_launcher() -> None:
    die_with_parent()
    # Batch systems send these to all processes of a job: the driver alone is to act on them. The
    # mask passes to the workers; the launcher's own handler would kill them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
