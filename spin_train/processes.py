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
    "require_shared_memory",
    "unlink_shared_memory",
    "worker_environment",
]

DRIVER_VARIABLE = "SPIN_TRAIN_DRIVER"
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # looked up here: after a fork nothing may wait for a lock
_WATCH_SECONDS = 0.5
_STALE_SECONDS = 120.0  # a rank holds a lock of the compile cache for a second or two
_SHARED_MEMORY = Path("/dev/shm")
_BUFFER_BYTES = 72 * 2**20  # a rank's allreduce buffer; seen: 66 MiB with DeepSpeed 0.19.8


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
        environment["CUDA_VISIBLE_DEVICES"] = ""  # so that torch decides the same
        environment["TORCH_EXTENSIONS_DIR"] = str(_extensions_folder())
    return environment


def _extensions_folder() -> Path:
    """Where this environment's ops are compiled: one shared with another is compiled anew."""
    home = Path.home() / ".cache" / "torch_extensions"
    built_for = [sys.prefix, version("torch"), version("deepspeed")]
    name = hashlib.sha256("\n".join(built_for).encode()).hexdigest()[:16]
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR", home)) / f"spin_train-{name}"


def build_communication_op() -> None:
    """Compile DeepSpeed's CPU communication op, once, before several ranks want it at a time.

    Raises
    ------
    UserError
        If there is no C++ compiler, or the compilation fails.
    """
    if not cpu_only():
        return
    cache = _extensions_folder()
    stamp = cache / "built"
    lock = FileLock(cache / "spin_train.lock")
    if not lock.acquire(wait_s=600):
        raise UserError(f"another process has been compiling in {cache} for 10 minutes; stop it")
    try:
        for stale in (*cache.glob("**/lock"), *cache.glob("**/.ninja_lock")):
            # Of a build that was killed: ranks would wait for it without end.
            if time.time() - stale.stat().st_mtime > _STALE_SECONDS:
                stale.unlink(missing_ok=True)
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
    built = subprocess.run(
        [
            sys.executable,
            "-c",
            "from deepspeed.ops.op_builder.cpu.comm import ShareMemCommBuilder as Builder;"
            "Builder().load(verbose=False)",
        ],
        env={**os.environ, "DS_ACCELERATOR": "cpu", "TORCH_EXTENSIONS_DIR": str(cache)},
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


def require_shared_memory(ranks: int) -> None:
    """Check that DeepSpeed's CPU communication op finds room for its buffers.

    Parameters
    ----------
    ranks : int
        Worker processes on this machine.

    Raises
    ------
    UserError
        If shared memory is too small: writing past its end would kill the ranks without a word.
    """
    if not cpu_only() or not _SHARED_MEMORY.is_dir():
        return
    free, needed = shutil.disk_usage(_SHARED_MEMORY).free, ranks * _BUFFER_BYTES
    if free < needed:
        raise UserError(
            f"{_SHARED_MEMORY} has {free >> 20} MiB free and {ranks} ranks need "
            f"{needed >> 20}: remove what fills it, or give a container more (docker: --shm-size)"
        )


def unlink_shared_memory() -> None:
    """Remove the name of this rank's communication buffer, which DeepSpeed leaves behind.

    The memory itself lives until the last rank that has mapped it ends, however it ends.
    """
    names = ("MASTER_ADDR", "MASTER_PORT", "RANK")
    address, port, rank = (os.environ.get(name, "") for name in names)
    for name in _SHARED_MEMORY.glob(f"deepspeed_allreduce_buffer_*_{address}_{port}_{rank}"):
        name.unlink(missing_ok=True)


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
    # The launcher sets CUDA_VISIBLE_DEVICES from this, so it must name the user's devices.
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    devices = list(range(ranks)) if cpu_only() or not visible else visible[:ranks]
    if len(devices) < ranks:
        raise UserError(f"ranks={ranks} but CUDA_VISIBLE_DEVICES names {len(devices)} devices")
    world = base64.urlsafe_b64encode(json.dumps({"localhost": devices}).encode())
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
        preexec_fn=_begin_launcher,
    )


def _begin_launcher() -> None:
    _die_with_parent()
    # Batch systems send SIGTERM to all processes of a job: the driver alone is to act on it. The
    # mask passes to the workers; the launcher's own handler would kill them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def die_with_driver() -> None:
    """Make this worker die when its launcher or its driver does, kill -9 included.

    SIGTERM from the launcher, which ends the others when one fails, is obeyed; from anyone else it
    is left to the driver, which lets all workers save.
    """
    _die_with_parent()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    driver = int(os.environ[DRIVER_VARIABLE])

    def watch() -> None:
        while True:
            try:
                os.kill(driver, 0)
            except (ProcessLookupError, PermissionError):  # gone, or its number is another's
                os._exit(128 + signal.SIGTERM)
            came = signal.sigtimedwait({signal.SIGTERM}, _WATCH_SECONDS)
            if came is not None and came.si_pid == os.getppid():
                os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="watch-driver", daemon=True).start()


def _die_with_parent() -> None:
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
