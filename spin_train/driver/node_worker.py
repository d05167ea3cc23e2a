"""The worker of one rank in a run over several nodes, and the waiting that all ranks share."""

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from spin_train.driver.environments import Nodes, job_environment
from spin_train.driver.launch import launch_worker
from spin_train.driver.local_workers import POLL_SECONDS, STOP_SECONDS, end
from spin_train.driver.member import Member
from spin_train.driver.memory import refuse_killed_workers
from spin_train.driver.watching import Watcher, Window
from spin_train.errors import DivergedError, StoppedError, UserError, WorkerError, is_consequence
from spin_train.run.run import Run
from spin_train.system.files import read_json

__all__ = ["SILENT_SECONDS", "NodeWorker", "OverError", "wait_for"]

SILENT_SECONDS = 10.0
"""Of a node that is missed because a connection to it has broken."""
_SETTLE_SECONDS = 15.0  # for the cause of a broken connection to be told
_MORE_SECONDS = 1.0  # for a better line than the first


class OverError(Exception):
    """Rank 0 has ended the job."""


def wait_for(answer: Callable[[], Any], member: Member, received: list[int]) -> Any:
    """Wait for an answer; a signal, an error, the end of the job or a missing node ends it."""
    while not (found := answer()):
        number = _stop_number(member, received)
        if number is not None:
            raise StoppedError(number)
        _raise_if_over(member)
        member.require_all()
        time.sleep(POLL_SECONDS)
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
        raise OverError
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


class NodeWorker:
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
        window = Window(self._run.directory, watch)
        with self._started() as (worker, stop):
            while worker.poll() is None and not _failures(self._member):
                if self._give_up(received, stop):
                    break
                self._member.require_all()
                window.look()
                time.sleep(POLL_SECONDS)
            window.look()
            self._settle(worker, received)

    def follow(self, received: list[int]) -> Exception | None:
        """Wait until the worker has ended or rank 0 ends the job; return what went wrong."""
        with self._started() as (worker, stop):
            while worker.poll() is None and not self._give_up(received, stop):
                _raise_if_over(self._member)
                self._member.require_all()
                time.sleep(POLL_SECONDS)
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
            self._deadline = time.monotonic() + STOP_SECONDS
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
            elif bad and (silent := member.missing(seconds=SILENT_SECONDS)):
                raise WorkerError(
                    f"{silent} was killed, or cannot be reached: it has not answered for "
                    f"{SILENT_SECONDS:g} s. Run the same command again to resume"
                )
            time.sleep(POLL_SECONDS)
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
