"""Processes of one machine: they end with their driver, and may share resources."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path

from spin_train.errors import UserError
from spin_train.system.files import sha256_of_text
from spin_train.system.locks import FileLock
from spin_train.system.surroundings import (
    caches,
    home_variables,
    interpreter_variables,
    without_launchers,
)

__all__ = [
    "DRIVER_VARIABLE",
    "build_communication_op",
    "cpu_only",
    "die_with_driver",
    "die_with_parent",
    "extensions_folder",
    "require_shared_memory",
    "unlink_shared_memory",
]

DRIVER_VARIABLE = "SPIN_TRAIN_DRIVER"
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # looked up here: after a fork nothing may wait for a lock
_WATCH_SECONDS = 0.5
_STALE_SECONDS = 120.0  # a rank holds a lock of the compile cache for a second or two
_SHARED_MEMORY = Path("/dev/shm")
_NVIDIA = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")  # some sandboxes lack one
_BUFFER_BYTES = 72 * 2**20  # the allreduce buffer; seen: 66 MiB with DeepSpeed 0.19.8


def cpu_only() -> bool:
    """Say, without importing torch, whether no NVIDIA device is there or visible."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "unset").strip() in ("", "-1")
    return hidden or not any(Path(sign).exists() for sign in _NVIDIA)


def extensions_folder() -> Path:
    """Directory where DeepSpeed's ops are compiled for this environment alone.

    A directory shared with another environment would be compiled again at every change of it.
    """
    home = caches() / "torch_extensions"
    built_for = [sys.prefix, version("torch"), version("deepspeed")]
    name = sha256_of_text("\n".join(built_for))[:16]
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR", home)) / f"spin_train-{name}"


def build_communication_op() -> None:
    """Compile DeepSpeed's CPU communication op once, before several ranks want it at the same time.

    Raises UserError where there is no C++ compiler or the compilation fails.
    """
    if not cpu_only():
        return
    cache = extensions_folder()
    stamp = cache / "built"
    lock = FileLock(cache / "spin_train.lock")
    if not lock.acquire(wait_s=600):
        raise UserError(f"another process has been compiling in {cache} for 10 minutes; stop it")
    try:
        for stale in (*cache.glob("**/lock"), *cache.glob("**/.ninja_lock")):
            # Left by a build that was killed: ranks would wait for it forever. Before the op is
            # there, no rank of any run is, and a process that compiled no longer holds our lock.
            age = time.time() - stale.stat().st_mtime
            if not stamp.exists() or age > _STALE_SECONDS:
                stale.unlink(missing_ok=True)
        if not stamp.exists():
            _compile_communication_op(cache, lock)
            stamp.touch()
    finally:
        lock.release()


def _compile_communication_op(cache: Path, lock: FileLock) -> None:
    """Compile in a process that holds the lock for as long as it lives, even if this one dies."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        raise UserError(
            "DeepSpeed needs a C++ compiler on CPUs, and none was found: install g++ "
            "(Debian, Ubuntu: apt-get install g++) or set CXX"
        )
    built = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            "from deepspeed.ops.op_builder.cpu.comm import ShareMemCommBuilder as Builder;"
            "Builder().load(verbose=False)",
        ],
        env={
            **without_launchers(os.environ),
            **home_variables(),
            **interpreter_variables(os.environ),
            "DS_ACCELERATOR": "cpu",
            "TORCH_EXTENSIONS_DIR": str(cache),
        },
        stdin=subprocess.DEVNULL,
        pass_fds=[lock.descriptor()],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode != 0:
        output = (built.stdout + built.stderr).splitlines()
        # The compiler's own line, else the line of an exception; never code of a traceback.
        lines = [line for line in output if " error: " in line]
        lines = lines or [line for line in output if "rror: " in line]
        raise UserError(
            "DeepSpeed's CPU communication op does not compile: "
            + (lines[0].strip() if lines else f"exit code {built.returncode}")
        )


def require_shared_memory(ranks: int) -> None:
    """Refuse (UserError) to start where DeepSpeed's CPU op has no shared memory for its buffers.

    Writing past the end of shared memory would kill the ranks without a message, and where a buffer
    cannot be made they would wait for it without end.
    """
    if not cpu_only() or not _SHARED_MEMORY.is_dir():
        return
    if not os.access(_SHARED_MEMORY, os.W_OK | os.X_OK):
        raise UserError(
            f"{_SHARED_MEMORY} cannot be written by this user, but the ranks talk through it: "
            "mount a tmpfs there (mount -t tmpfs -o mode=1777 tmpfs /dev/shm), or start as another "
            "user"
        )
    free, needed = shutil.disk_usage(_SHARED_MEMORY).free, ranks * _BUFFER_BYTES
    if free < needed:
        raise UserError(
            f"{_SHARED_MEMORY} has {free >> 20} MiB free, but {ranks} ranks need "
            f"{needed >> 20} MiB: free some of it, or give the container more (docker: --shm-size)"
        )


def unlink_shared_memory() -> None:
    """Remove the name of this rank's communication buffer, which DeepSpeed leaves behind.

    The memory itself lives until the last rank that has mapped it ends, however it ends.
    """
    names = ("MASTER_ADDR", "MASTER_PORT", "RANK")
    address, port, rank = (os.environ.get(name, "") for name in names)
    for name in _SHARED_MEMORY.glob(f"deepspeed_allreduce_buffer_*_{address}_{port}_{rank}"):
        name.unlink(missing_ok=True)


def die_with_driver() -> None:
    """Make this worker die when its launcher or its driver does, kill -9 included.

    SIGTERM from the launcher, which ends the others when one fails, is obeyed; from anyone else it
    is left to the driver, which lets all workers save.
    """
    die_with_parent()
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


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies; on Linux."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
