"""Locks, launching, signals: that one run has one driver, and no worker outlives it."""

import base64
import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import IO

from spin_train.errors import UserError

__all__ = [
    "DRIVER_VARIABLE",
    "FileLock",
    "build_communication_op",
    "cpu_only",
    "die_with_driver",
    "launch_workers",
    "worker_environment",
]

DRIVER_VARIABLE = "SPIN_TRAIN_DRIVER"
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # looked up here: after a fork nothing may wait for a lock
_WATCH_SECONDS = 0.5


class FileLock:
    """An advisory lock that the kernel drops when its holder dies, however it dies.

    Parameters
    ----------
    path : Path
        The lock file; made if missing, never deleted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def acquire(self, *, shared: bool = False, wait_s: float = 0.0) -> bool:
        """Take the lock.

        Parameters
        ----------
        shared : bool, default False
            Hold it beside other shared holders.
        wait_s : float, default 0
            How long to try, in seconds.

        Returns
        -------
        bool
            Whether it was taken.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a+")
        deadline = time.monotonic() + wait_s
        while True:
            try:
                mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
                fcntl.flock(self._file, mode | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(0.1)
            else:
                return True

    def release(self) -> None:
        """Let go of the lock."""
        if self._file is not None:
            self._file.close()
            self._file = None


def cpu_only() -> bool:
    """Say whether there is no NVIDIA device, without importing torch.

    Returns
    -------
    bool
        True as well where CUDA_VISIBLE_DEVICES hides all devices.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "unset").strip() in ("", "-1")
    return hidden or not Path("/proc/driver/nvidia/version").exists()


def worker_environment(ranks: int) -> dict[str, str]:
    """Environment of the workers.

    Parameters
    ----------
    ranks : int
        Worker processes on this machine.

    Returns
    -------
    dict
        This process's environment, and the threads that fit `ranks` on the cores.
    """
    cores = len(os.sched_getaffinity(0))
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // ranks)))
    # Threads that spin while they wait slow a neighbouring rank many times over.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    environment[DRIVER_VARIABLE] = str(os.getpid())
    if cpu_only():
        environment["DS_ACCELERATOR"] = "cpu"
    return environment


def build_communication_op() -> None:
    """Compile DeepSpeed's CPU communication op, once, before several ranks want it at a time.

    Raises
    ------
    UserError
        If there is no C++ compiler, or the compilation fails.
    """
    if not cpu_only():
        return
    home = Path.home() / ".cache" / "torch_extensions"
    cache = Path(os.environ.get("TORCH_EXTENSIONS_DIR", home))
    # Another environment's build in the same cache would be compiled anew, by all ranks at once.
    built_for = [sys.prefix, version("torch"), version("deepspeed")]
    name = hashlib.sha256("\n".join(built_for).encode()).hexdigest()[:16]
    stamp = cache / f"spin_train-{name}.built"
    lock = FileLock(cache / "spin_train.lock")
    if not lock.acquire(wait_s=600):
        raise UserError(f"another process has been compiling in {cache} for 10 minutes; stop it")
    try:
        if not stamp.exists():
            _compile_communication_op(cache)
            stamp.touch()
    finally:
        lock.release()


def _compile_communication_op(cache: Path) -> None:
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        raise UserError(
            "DeepSpeed needs a C++ compiler on CPU and there is none: install g++ "
            "(Debian, Ubuntu: apt-get install g++) or set CXX"
        )
    for stale in cache.glob("**/deepspeed_shm_comm/lock"):
        stale.unlink(missing_ok=True)  # of a build that was killed; waited for without end
    built = subprocess.run(
        [
            sys.executable,
            "-c",
            "from deepspeed.ops.op_builder.cpu.comm import ShareMemCommBuilder as Builder;"
            "Builder().load(verbose=False)",
        ],
        env={**os.environ, "DS_ACCELERATOR": "cpu"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode != 0:
        output = (built.stdout + built.stderr).splitlines()
        # The compiler's own line, else that of an exception; never a traceback's code.
        lines = [line for line in output if " error: " in line]
        lines = lines or [line for line in output if "rror: " in line]
        raise UserError(
            "DeepSpeed's CPU communication op does not compile: "
            + (lines[0].strip() if lines else f"exit code {built.returncode}")
        )


def launch_workers(run_root: Path, *, ranks: int, log: IO[str]) -> subprocess.Popen[str]:
    """Start one worker per rank through DeepSpeed's launcher, in a session of their own.

    Parameters
    ----------
    run_root : Path
        Directory of the run; all that workers are told.
    ranks : int
        How many.
    log : file
        Takes all output of launcher and workers.

    Returns
    -------
    subprocess.Popen
        The launcher. It ends the other workers when one fails, and dies with this process.
    """
    world = base64.urlsafe_b64encode(json.dumps({"localhost": list(range(ranks))}).encode())
    command = [
        *(sys.executable, "-m", "deepspeed.launcher.launch"),
        f"--world_info={world.decode()}",
        *("--master_addr=127.0.0.1", f"--master_port={_free_port()}"),
        *("--log_level=error", "--module", "--no_local_rank"),
        *("spin_train.worker", str(run_root)),
    ]
    return subprocess.Popen(
        command,
        env=worker_environment(ranks),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C reaches the driver alone, which lets the workers save
        preexec_fn=_die_with_parent,
    )


def die_with_driver() -> None:
    """Make this worker die when its launcher or its driver does, kill -9 included."""
    _die_with_parent()
    driver = int(os.environ[DRIVER_VARIABLE])

    def watch() -> None:
        while True:
            try:
                os.kill(driver, 0)
            except ProcessLookupError:
                os._exit(128 + signal.SIGTERM)
            time.sleep(_WATCH_SECONDS)

    threading.Thread(target=watch, name="watch-driver", daemon=True).start()


def _die_with_parent() -> None:
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
