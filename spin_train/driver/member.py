"""One driver among those of a job: what drivers of several nodes tell each other.

A launcher starts one driver per rank, and each has one worker. What they decide together goes
through the TCPStore of the job: that all may start, that one was asked to stop, how each worker
ended, and what came of it. A thread asks for it, and shows that this driver is alive: where the
network is cut, a question waits forever, and the main thread must not.
"""

import json
import os
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from spin_train.errors import UserError, WorkerError
from spin_train.system.board import open_store
from spin_train.system.world import World

__all__ = ["Member"]

_JOIN_SECONDS = 300.0  # nodes of one job may start minutes apart
_TIMEOUT_SECONDS = 120.0  # until the configuration is known
_PATIENCE = 0.75  # of node_timeout, so that the job has ended when it is over
_FAREWELL_SECONDS = 10.0


class Member:
    """A driver's connection to the others, and what it has heard of them."""

    def __init__(self, world: World) -> None:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost connection is told by us
        self.world = world
        self.timeout_s = _TIMEOUT_SECONDS
        self._store = self._connect(serve=world.rank == 0 and not world.served)
        self._asking = self._connect(serve=False)
        self._heard: dict[str, Any] = {}  # answers, by key
        self._nodes: dict[int, dict[str, Any]] = {}
        self._beats = {rank: ("", time.monotonic()) for rank in self._listened}
        self._answered = time.monotonic()
        self._left = threading.Event()
        address = ""
        with suppress(OSError):
            address = socket.gethostbyname(world.address)
        self._tell(f"node {world.rank}", {"name": world.name, "node": world.node, "first": address})
        threading.Thread(target=self._live, name="heartbeat", daemon=True).start()

    @property
    def _listened(self) -> range:
        """Ranks that this one listens to: rank 0 to all, the others to rank 0."""
        return range(1, self.world.size) if self.world.rank == 0 else range(1)

    def _connect(self, *, serve: bool) -> Any:
        world = self.world
        try:
            return open_store(world.address, world.port, serve=serve, timeout_s=_JOIN_SECONDS)
        except RuntimeError as error:
            what = "cannot be opened" if serve else f"has not answered for {_JOIN_SECONDS:g} s"
            raise UserError(
                f"{world.name} (rank {world.rank} of {world.size}): the store of the job at "
                f"{world.address}:{world.port} {what}: set MASTER_ADDR and MASTER_PORT to an "
                "address and a free port of the first node; or, if no launcher started this, unset "
                "RANK, LOCAL_RANK and WORLD_SIZE"
            ) from error

    # What is told

    def _tell(self, key: str, content: Any) -> None:
        with suppress(RuntimeError):  # the store is gone: the thread notices that nothing answers
            self._store.set(key, json.dumps(content))

    def tell_all(self, message: dict[str, Any]) -> None:
        """Tell all others what to do; by rank 0."""
        self._tell("go", message)

    def tell_seen(self) -> None:
        """Tell that this rank sees the files of rank 0, and waits to start."""
        self._tell(f"seen {self.world.rank}", True)

    def let_start(self, message: dict[str, Any]) -> None:
        """Tell all others to start their workers; by rank 0."""
        self._tell("start", message)

    def ask_to_stop(self, number: int) -> None:
        """Ask all workers to save and stop, as a signal asked this process."""
        self._tell("stop", number)

    def tell_end(self, end: dict[str, Any]) -> None:
        """Tell how the worker of this rank ended."""
        self._heard[f"end {self.world.rank}"] = end
        self._tell(f"end {self.world.rank}", end)

    def finish(self, code: int) -> None:
        """Tell all others what came of the job, and let them leave first; by rank 0."""
        self._tell("over", code)
        deadline = time.monotonic() + _FAREWELL_SECONDS
        while time.monotonic() < deadline and len(self.of_all("left")) < len(self._listened):
            if self.missing(seconds=self._beat_s * 8):
                break
            time.sleep(0.05)
        self._left.set()

    def leave(self) -> None:
        """Say that nothing more is to be expected of this rank; by the others."""
        self._left.set()
        self._tell(f"left {self.world.rank}", True)

    # What was heard

    def heard(self, key: str) -> Any:
        """Return what was told under a name that belongs to all; None before it was told."""
        return self._heard.get(key)

    def of_all(self, key: str) -> dict[int, Any]:
        """Return what each rank told under a name of its own."""
        names = {rank: f"{key} {rank}" for rank in range(self.world.size)}
        return {rank: self._heard[name] for rank, name in names.items() if name in self._heard}

    def name_of(self, rank: int) -> str:
        """Name a rank by its node."""
        told = self._heard.get(f"node {rank}", {"name": f"the node at {self.world.address}"})
        name = self.world.name if rank == self.world.rank else told["name"]
        return f"{name} (rank {rank})"

    def missing(self, *, seconds: float | None = None) -> str:
        """Name a rank that has not been heard of for so long; empty if there is none."""
        limit = _PATIENCE * self.timeout_s if seconds is None else min(seconds, self.timeout_s)
        now = time.monotonic()
        if now - self._answered > limit:
            return self.name_of(0)
        for rank, (beat, when) in self._beats.items():
            if f"end {rank}" in self._heard or f"left {rank}" in self._heard:
                continue
            if now - when > (limit if beat else max(limit, _JOIN_SECONDS)):
                return self.name_of(rank)
        return ""

    def require_all(self) -> None:
        """Raise WorkerError with the name of a node that does not answer."""
        if silent := self.missing():
            raise WorkerError(
                f"{silent} has not answered for {_PATIENCE * self.timeout_s:.0f} s: it was killed, "
                "or cannot be reached. Run the same command again to resume"
            )

    @property
    def _beat_s(self) -> float:
        return min(1.0, 0.2 + self.world.size / 256)

    def _live(self) -> None:
        rank, size = self.world.rank, self.world.size
        count = 0
        while not self._left.wait(self._beat_s):
            count += 1
            wanted = ["go", "start", "stop", "over", "node 0"]
            if rank == 0:
                kinds = ("node", "seen", "end", "left")
                wanted += [f"{kind} {other}" for kind in kinds for other in range(size)]
            try:
                self._asking.set(f"alive {rank}", json.dumps(count))
                for other in self._listened:
                    beat = self._ask(f"alive {other}")
                    if beat is not None and beat != self._beats[other][0]:
                        self._beats[other] = (beat, time.monotonic())
                for key in wanted:
                    if key not in self._heard and (answer := self._ask(key)) is not None:
                        self._heard[key] = answer
            except RuntimeError:  # the store is gone
                continue
            self._answered = time.monotonic()

    def _ask(self, key: str) -> Any:
        """Ask for a key of the store; None if nobody has set it."""
        return json.loads(self._asking.get(key)) if self._asking.check([key]) else None
