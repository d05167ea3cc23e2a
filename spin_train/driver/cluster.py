"""A run over several nodes: a launcher starts one driver per rank, and each has one worker.

Rank 0 does what the driver of one machine does. It tells the others to go on, or ends them with its
error. The run ends with the first worker that fails, and with the name of a node that is gone.
"""

import secrets
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from spin_train.config.schema import Config
from spin_train.driver.local_workers import POLL_SECONDS, begin_log, stop_signals
from spin_train.driver.member import Member
from spin_train.driver.node_worker import SILENT_SECONDS, NodeWorker, OverError, wait_for
from spin_train.driver.selfplay import play
from spin_train.driver.watching import Watcher
from spin_train.errors import DivergedError, StoppedError, UserError, WorkerError
from spin_train.run.run import Run
from spin_train.system.files import PARTIAL, write_json
from spin_train.system.processes import build_communication_op, require_shared_memory
from spin_train.system.world import World

__all__ = ["play_together"]


def play_together(
    world: World,
    load: Callable[[], Config],
    *,
    restart_iteration: bool,
    watch: Watcher,
    until: str | None = None,
) -> Run:
    """Start a run or resume it, together with the other processes of the launcher.

    `load` reads the configuration, on rank 0 alone. Returns the finished run there. The other ranks
    leave with the code of rank 0, which says what happened.
    """
    member = Member(world)
    if world.rank != 0:
        _follow(member)
    code = 1
    try:
        run = Run.of(load())
        _require_size(run.config, world)
        member.timeout_s = run.config.node_timeout
        work = partial(_lead, member)
        play(run, restart_iteration=restart_iteration, watch=watch, work=work, until=until)
        code = 0
    except UserError:
        code = 2
        raise
    except StoppedError as error:
        code = 128 + int(error.args[0])
        raise
    finally:
        _ignore_stops()
        member.finish(code)
    return run


def _ignore_stops() -> None:
    """Leave with our own code: launchers send SIGTERM to the others once one process has left."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _require_size(config: Config, world: World) -> None:
    if config.ranks not in (None, world.size):
        raise UserError(
            f"ranks={config.ranks}, but the launcher started {world.size} processes: remove ranks, "
            "or start as many"
        )


def _lead(member: Member, run: Run, watch: Watcher | None) -> None:
    """Do what rank 0 does between the checks and the results: start all workers, wait for all."""
    root, log = run.root.resolve(), begin_log(run.directory)
    # A new name: no node can have looked for it before.
    token = root / f".shared-{secrets.token_hex(8)}{PARTIAL}"
    token.write_text(token.name, encoding="utf-8")
    try:
        with stop_signals() as received:
            member.tell_all(
                {
                    "root": str(root),
                    "token": token.name,
                    "config": run.directory.config_file.read_text(encoding="utf-8"),
                    "log": log.name,
                    "timeout_s": member.timeout_s,
                }
            )
            others = member.world.size - 1
            wait_for(lambda: len(member.of_all("seen")) == others, member, received)
            nodes = member.of_all("node")
            if len({node["node"] for node in nodes.values()}) == 1:  # they talk over shared memory
                require_shared_memory(member.world.size)
            member.let_start({"nodes": nodes})
            NodeWorker(member, run, log, nodes).lead(received, watch)
    except (UserError, WorkerError) as error:
        _keep_for_status(run, error)
        raise
    finally:
        token.unlink(missing_ok=True)


def _keep_for_status(run: Run, error: UserError | WorkerError) -> None:
    """Write down what ended the job, before what single workers said of it."""
    code = 2 if isinstance(error, UserError) else 1
    report = {"code": code, "line": str(error), "diverged": isinstance(error, DivergedError)}
    write_json(run.directory.worker_errors / "0-job.json", report)


def _follow(member: Member) -> NoReturn:
    """Do what rank 0 says, and leave with its code."""
    failure: Exception | None = None
    try:
        with stop_signals() as received:
            message = wait_for(lambda: member.heard("go"), member, received)
            member.timeout_s = message["timeout_s"]
            root = Path(message["root"])
            wait_for(_Sight(member, root, message), member, received)
            build_communication_op()
            member.tell_seen()
            start = wait_for(lambda: member.heard("start"), member, received)
            nodes = {int(rank): node for rank, node in start["nodes"].items()}
            log = root / "logs" / message["log"].replace(".log", f"-rank{member.world.rank}.log")
            failure = NodeWorker(member, Run.open(root), log, nodes).follow(received)
    except UserError as error:
        member.tell_end({"code": 2, "line": f"{member.name_of(member.world.rank)}: {error}"})
        failure = error
    except (StoppedError, WorkerError) as error:
        failure = error
    except OverError:
        pass
    _leave_with_rank_0(member, failure)


def _leave_with_rank_0(member: Member, failure: Exception | None) -> NoReturn:
    """Leave with the code of rank 0, which says what happened; with our own error if it is gone."""
    seconds = None if failure is None else SILENT_SECONDS
    _ignore_stops()
    try:
        while member.heard("over") is None:
            if silent := member.missing(seconds=seconds):
                raise failure or WorkerError(f"{silent} has not said how the run ended")
            time.sleep(POLL_SECONDS)
    finally:
        member.leave()
    raise SystemExit(member.heard("over"))


class _Sight:
    """Whether this node sees what rank 0 has written: a shared file system shows it."""

    def __init__(self, member: Member, root: Path, message: dict[str, Any]) -> None:
        self._member = member
        self._expected = {
            root / message["token"]: message["token"],
            root / "config.yaml": message["config"],
        }
        self._deadline = time.monotonic() + member.timeout_s

    def __call__(self) -> bool | None:
        for path, text in self._expected.items():
            try:
                if path.read_text(encoding="utf-8") == text:
                    continue
            except OSError:
                pass
            if time.monotonic() > self._deadline:
                raise UserError(
                    f"does not see {path}, which rank 0 wrote {self._member.timeout_s:g} s ago on "
                    f"{self._member.name_of(0)}: output_dir must lie on a file system that all "
                    "nodes share, under the same path"
                )
            return None
        return True
