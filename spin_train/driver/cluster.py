"""A run over several nodes: a launcher starts one driver per rank, and each has one worker.

Rank 0 does what the driver of one machine does. It tells the others to go on, or ends them with its
error. The run ends with the first worker that fails, and with the name of a node that is gone.
"""

import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from spin_train.config.schema import Config
from spin_train.driver.environments import Nodes, job_environment
from spin_train.driver.launch import launch_worker
from spin_train.driver.member import Member
from spin_train.driver.memory import refuse_killed_workers
from spin_train.driver.selfplay import Watcher, begin_log, end, play, show, stop_signals, tell
from spin_train.errors import DivergedError, StoppedError, UserError, WorkerError, is_consequence
from spin_train.run.run import Run
from spin_train.system.files import PARTIAL, read_json, write_json
from spin_train.system.owner import Owner
from spin_train.system.processes import build_communication_op, require_shared_memory
from spin_train.system.world import World

__all__ = ["play_together"]

_STOP_SECONDS = 300.0
_POLL_SECONDS = 0.1
_SILENT_SECONDS = 10.0  # of a node that is missed because a connection to it has broken
_SETTLE_SECONDS = 15.0  # for the cause of a broken connection to be told
_MORE_SECONDS = 1.0  # for a better line than the first


class _OverError(Exception):
    """Rank 0 has ended the job."""


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
        with stop_signals() as received, Owner(run.directory.owner, member.world.name):
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
            _wait_for(lambda: len(member.of_all("seen")) == others, member, received)
            nodes = member.of_all("node")
            if len({node["node"] for node in nodes.values()}) == 1:  # they talk over shared memory
                require_shared_memory(member.world.size)
            member.let_start({"nodes": nodes})
            _Worker(member, run, log, nodes).lead(received, watch)
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
            message = _wait_for(lambda: member.heard("go"), member, received)
            member.timeout_s = message["timeout_s"]
            root = Path(message["root"])
            _wait_for(_Sight(member, root, message), member, received)
            build_communication_op()
            member.tell_seen()
            start = _wait_for(lambda: member.heard("start"), member, received)
            nodes = {int(rank): node for rank, node in start["nodes"].items()}
            log = root / "logs" / message["log"].replace(".log", f"-rank{member.world.rank}.log")
            failure = _Worker(member, Run.open(root), log, nodes).follow(received)
    except UserError as error:
        member.tell_end({"code": 2, "line": f"{member.name_of(member.world.rank)}: {error}"})
        failure = error
    except (StoppedError, WorkerError) as error:
        failure = error
    except _OverError:
        pass
    _leave_with_rank_0(member, failure)


def _leave_with_rank_0(member: Member, failure: Exception | None) -> NoReturn:
    """Leave with the code of rank 0, which says what happened; with our own error if it is gone."""
    seconds = None if failure is None else _SILENT_SECONDS
    _ignore_stops()
    try:
        while member.heard("over") is None:
            if silent := member.missing(seconds=seconds):
                raise failure or WorkerError(f"{silent} has not said how the run ended")
            time.sleep(_POLL_SECONDS)
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


def _wait_for(answer: Callable[[], Any], member: Member, received: list[int]) -> Any:
    """Wait for an answer; a signal, an error, the end of the job or a missing node ends it."""
    while not (found := answer()):
        number = _stop_number(member, received)
        if number is not None:
            raise StoppedError(number)
        _raise_if_over(member)
        member.require_all()
        time.sleep(_POLL_SECONDS)
    return found


def _stop_number(member: Member, received: list[int]) -> int | None:
    """Return the signal by which any rank was asked to stop; all others hear of it."""
    asked: int | None = member.heard("stop")
    if received and asked is None:
        member.ask_to_stop(received[0])
        return received[0]
    return asked


def _raise_if_over(member: Member) -> None:
    """Leave if rank 0 has ended the job; on rank 0, raise what another rank failed with."""
    if member.world.rank != 0 and member.heard("over") is not None:
        raise _OverError
    if member.world.rank == 0 and (bad := _failures(member)):
        raise _error_of(bad[0])


def _failures(member: Member) -> list[dict[str, Any]]:
    """How workers failed, those first that say why the run ends."""
    bad = [found for found in member.of_all("end").values() if found["code"]]
    return sorted(bad, key=lambda found: (is_consequence(found["line"]), found["code"] != 2))


def _error_of(found: dict[str, Any]) -> UserError | WorkerError:
    if found["code"] != 2:
        return WorkerError(found["line"])
    return DivergedError(found["line"]) if found.get("diverged") else UserError(found["line"])


class _Worker:
    """The worker of this rank, and what ends it."""

    def __init__(self, member: Member, run: Run, log: Path, nodes: Nodes) -> None:
        self._member = member
        self._run = run
        self._log = log
        self._nodes = nodes
        self._name = member.name_of(member.world.rank)
        self._deadline: float | None = None

    def lead(self, received: list[int], watch: Watcher | None) -> None:
        """Wait until all workers have ended; raise what ended them. On rank 0."""
        directory = self._run.directory
        shown: set[str] = set()
        told = False
        with self._started() as (worker, stop):
            while worker.poll() is None and not _failures(self._member):
                if self._give_up(received, stop):
                    break
                self._member.require_all()
                if watch is not None:
                    show(directory, watch, shown)
                told = told or tell(directory)
                time.sleep(_POLL_SECONDS)
            if watch is not None:
                show(directory, watch, shown)
            if not told:
                tell(directory)
            self._settle(worker, received)

    def follow(self, received: list[int]) -> Exception | None:
        """Wait until the worker has ended or rank 0 ends the job; return what went wrong."""
        with self._started() as (worker, stop):
            while worker.poll() is None and not self._give_up(received, stop):
                _raise_if_over(self._member)
                self._member.require_all()
                time.sleep(_POLL_SECONDS)
            found = self._end_of(worker)
        self._member.tell_end(found)
        return _error_of(found) if found["code"] else None

    @contextmanager
    def _started(self) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
        """Start the worker; yields it, and the file by which it is asked to stop."""
        root = self._run.root.resolve()
        with (
            tempfile.TemporaryDirectory(prefix="spin-train-") as folder,
            self._log.open("a", encoding="utf-8") as output,
        ):
            stop = Path(folder) / "stop"
            environment = job_environment(
                self._member.world,
                self._nodes,
                name=self._name,
                timeout_s=self._member.timeout_s,
                stop=stop,
            )
            worker = launch_worker(root, environment=environment, log=output)
            try:
                yield worker, stop
            finally:
                end(worker)

    def _give_up(self, received: list[int], stop: Path) -> bool:
        """Pass on a request to stop; say whether the worker has had the time to."""
        if _stop_number(self._member, received) is not None and self._deadline is None:
            stop.touch()
            self._deadline = time.monotonic() + _STOP_SECONDS
        late = self._deadline is not None and time.monotonic() > self._deadline
        return late or len(received) > 1

    def _settle(self, worker: "subprocess.Popen[str]", received: list[int]) -> None:
        """Wait for all ends, or for the cause of the first one; raise what the run ended of."""
        member = self._member
        begun, cause = time.monotonic(), None
        while True:
            now = time.monotonic()
            if worker.poll() is not None and 0 not in member.of_all("end"):
                member.tell_end(self._end_of(worker))
            bad = _failures(member)
            complete = len(member.of_all("end")) == member.world.size
            if bad and not is_consequence(bad[0]["line"]):
                cause = cause or now
                if complete or now - cause > _MORE_SECONDS:
                    raise _error_of(bad[0])
            elif complete or now - begun > _SETTLE_SECONDS:
                break
            elif bad and (silent := member.missing(seconds=_SILENT_SECONDS)):
                raise WorkerError(
                    f"{silent} was killed, or cannot be reached: it has not answered for "
                    f"{_SILENT_SECONDS:g} s. Run the same command again to resume"
                )
            time.sleep(_POLL_SECONDS)
        number = _stop_number(member, received)
        if number is not None:
            raise StoppedError(number)
        if bad:
            raise _error_of(bad[0])

    def _end_of(self, worker: "subprocess.Popen[str]") -> dict[str, Any]:
        """Say how the worker ended: its exit code, and in one line why."""
        code, rank = worker.poll(), self._member.world.rank
        if code == 0:
            return {"code": 0, "line": ""}
        if code is None:
            return {"code": 1, "line": f"{self._name}: the worker did not stop in time"}
        directory = self._run.directory
        reports = [read_json(path) for path in directory.worker_errors.glob(f"*-{rank}-*.json")]
        if not reports:
            line = f"{self._name}: the worker ended with code {code} and no message"
            with suppress(FileNotFoundError):
                try:
                    refuse_killed_workers(code, directory, self._run.config)
                except UserError as error:
                    return {"code": 2, "line": f"{self._name}: {error}"}
            return {"code": 1, "line": f"{line} (log: {self._log})"}
        report: dict[str, Any] = reports[0]
        if report["code"] == 2:
            return report if rank == 0 else {**report, "line": f"{self._name}: {report['line']}"}
        return {**report, "line": f"{report['line']} ({self._name}; log: {self._log})"}
