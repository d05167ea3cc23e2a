"""What surrounds a run and is not part of it: home, module path, launchers' leftovers, streams."""

import io
import json
import os
import pwd
import site
import socket
import stat
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import IO

from spin_train.errors import UserError
from spin_train.system.world import world_of

__all__ = [
    "INTERFACES",
    "THREADS",
    "caches",
    "home_variables",
    "interpreter_variables",
    "open_streams",
    "quiet",
    "refuse_other_launchers",
    "require_temporary_files",
    "without_launchers",
    "without_missing_interfaces",
    "without_odd_threads",
]

_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_RANKS = (
    *("RANK", "LOCAL_RANK", "CROSS_RANK", "WORLD_SIZE", "LOCAL_SIZE", "LOCAL_WORLD_SIZE"),
    *("CROSS_SIZE", "GROUP_RANK", "ROLE_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"),
)
# Of MPI, torchrun and `accelerate launch`: accelerate and DeepSpeed would take them for the run's.
_PREFIXES = (
    *("OMPI_", "PMI_", "PMIX_", "MV2_", "MPI_LOCAL"),
    *("TORCHELASTIC_", "ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_"),
)
INTERFACES = ("GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Variables that name network interfaces."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that hold a number of threads."""
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


def without_launchers(environment: Mapping[str, str]) -> dict[str, str]:
    """Leave out what another launcher said about ranks: left over, or about this process alone."""
    return {
        name: value
        for name, value in environment.items()
        if name not in _RANKS and not name.startswith(_PREFIXES)
    }


def refuse_other_launchers(environment: Mapping[str, str]) -> None:
    """Refuse (UserError) to be one of several processes that a launcher started.

    Each would start workers of its own. Only `spin-train run` itself may be started so, by a
    launcher that `world_of` knows.
    """
    if world_of(environment) is not None:
        raise UserError(
            "a launcher started this several times, or left RANK, LOCAL_RANK and WORLD_SIZE "
            "behind: of all commands only `spin-train run` may be started so. Start it once, or "
            "unset them"
        )
    names = ["WORLD_SIZE"] if "TORCHELASTIC_RUN_ID" in environment else []
    names += [] if "SLURM_STEP_ID" in environment else _SIZES
    for name in names:
        size = environment.get(name, "1")
        if size.isdecimal() and int(size) > 1:
            raise UserError(
                f"{name}={size}: a launcher started spin-train {size} times, or left this "
                "variable behind. Start it once, and set ranks to the number of workers; "
                f"or unset {name}"
            )


def without_missing_interfaces(environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Leave out names of network interfaces that are not here, and say which in lines.

    Workers of one machine talk over its loopback, whichever interface another machine has.
    """
    present = [name for _, name in socket.if_nameindex()]
    kept, lines = dict(environment), []
    for variable in INTERFACES:
        wanted = kept.get(variable, "")
        if not wanted or wanted.startswith("^"):
            continue
        exact = wanted.startswith("=") or variable != "NCCL_SOCKET_IFNAME"
        names = [name.partition(":")[0] for name in wanted.lstrip("=").split(",")]
        found = [
            any(here == name if exact else here.startswith(name) for here in present)
            for name in names
        ]
        # Gloo needs each of its names, NCCL one.
        if not (any(found) if variable == "NCCL_SOCKET_IFNAME" else all(found)):
            del kept[variable]
            lines.append(f"{variable}={wanted} is left out: this machine has {', '.join(present)}")
    return kept, lines


def without_odd_threads(environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Leave out numbers of threads that are none, and say which in lines.

    Of a list, one number per level of nesting, the first stays: packages read it as one number.
    """
    kept, lines = dict(environment), []
    for variable in THREADS:
        given = kept.pop(variable, "")
        first = given.partition(",")[0].strip()
        if first.isdecimal() and int(first) > 0:
            kept[variable] = first
        elif given:
            lines.append(f"{variable}={given} is left out: it is not a number of threads")
    return kept, lines


def interpreter_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables with which workers use this process's packages and programs, wherever they start.

    Python puts the working directory, or the folder of a script, before everything else: a file
    `datasets.py` there would replace a package, and another checkout this one. The root of this
    package comes first only if the workers would not find it. Programs come from this environment
    as well: another ninja takes DeepSpeed's op for outdated, and compiles it again.
    """
    given = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    path = [os.path.abspath(entry) for entry in given]
    if not _found_without(path):
        path = [str(_PACKAGE_ROOT), *path]
    programs = [os.path.dirname(sys.executable), environment.get("PATH", os.defpath)]
    return {
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(path),
        "PATH": os.pathsep.join(programs),
    }


def _found_without(path: list[str]) -> bool:
    """Say whether a new interpreter with this path, in any folder, finds the same package."""
    installed = [*path, *site.getsitepackages(), site.getusersitepackages()]
    spec = PathFinder.find_spec("spin_train", installed)
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).resolve().parents[1] == _PACKAGE_ROOT
    try:  # an editable installation: a hook finds it, and no folder of the path
        told = distribution("spin-toolkit").read_text("direct_url.json")
    except PackageNotFoundError:
        return False
    url = json.loads(told)["url"] if told else ""
    return Path(url.removeprefix("file://")) == _PACKAGE_ROOT


def quiet(stream: IO[str]) -> None:
    """Let nothing more be written to a stream that nobody reads: it would fail again at the end."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def caches() -> Path:
    """Directory for caches of this user; one for temporary files stands in for an unusable home."""
    return Path(home_variables().get("HOME") or Path.home()) / ".cache"


def home_variables() -> dict[str, str]:
    """Variables that stand in for a home directory which is missing or cannot be written.

    Empty where all is well. Caches then go to a private folder among the temporary files. The hub's
    cache stays where it is, as reading it may be all that a run needs. A user without a name, as in
    a container started with a number, gets one: torch asks for it.
    """
    variables = {}
    uid = os.getuid()
    try:
        home = os.environ.get("HOME") or pwd.getpwuid(uid).pw_dir
        pwd.getpwuid(uid)
    except KeyError:
        home = os.environ.get("HOME", "")
        variables = {name: f"uid{uid}" for name in ("USER", "LOGNAME") if not os.environ.get(name)}
    if home and os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK):
        return variables
    folder = Path(tempfile.gettempdir()) / f"spin_train-{uid}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & 0o022:
        raise UserError(
            f"HOME={home or ''} cannot be written, nor can {folder} be used instead: set HOME to a "
            "directory of your own"
        )
    variables["HOME"] = str(folder)
    hub = Path(home or "/nonexistent") / ".cache" / "huggingface"
    if hub.is_dir():
        variables |= {"HF_HOME": str(hub), "HF_DATASETS_CACHE": str(folder / "datasets")}
        variables |= {"HF_MODULES_CACHE": str(folder / "modules")}
        variables = {n: v for n, v in variables.items() if n == "HOME" or n not in os.environ}
    return variables


def require_temporary_files() -> None:
    """Refuse (UserError) to start where no directory for temporary files can be written."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise UserError(f"{error.strerror}: set TMPDIR to a directory that you can write") from None


def open_streams() -> None:
    """Make sure that whatever is printed goes somewhere, and in some encoding.

    A closed descriptor would be given to the next file that is opened, and what is printed then
    goes into that file. A character that the terminal cannot show is escaped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            with suppress(ValueError, OSError):
                stream.reconfigure(errors="backslashreplace")
