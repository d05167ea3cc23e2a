"""What does not fit, and which keys make it fit: each one is tried before it is named."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from spin_train.config.files import override
from spin_train.config.schema import Config
from spin_train.errors import UserError
from spin_train.plan.devices import GIB, Device
from spin_train.plan.memory import SCORING, StageMemory, memory_by_stage, model_of, program
from spin_train.plan.rows import Rows

__all__ = ["Problem", "refusals", "remedies"]

_ENOUGH = 3  # single keys that are named
_MOST_RANKS = 64


@dataclass(frozen=True)
class Problem:
    """Something that is too large."""

    what: str
    """Stage, `disk` or `main memory`."""
    needed: int
    available: int
    keys: Sequence[str] = ()
    """What makes it fit, each on its own."""

    @property
    def line(self) -> str:
        """Everything in one line."""
        sizes = f"{self.needed / GIB:.1f} GiB of {self.available / GIB:.1f}"
        keys = ", or ".join(" ".join(key.split()) for key in self.keys)
        return f"this run does not fit: {self.what} needs {sizes}; what helps: {keys}"


def refusals(memory: Sequence[StageMemory], *, device: Device, ranks: int) -> list[Problem]:
    """List the stages that do not fit; ranks on a CPU share its machine's memory."""
    shared = ranks if device.kind == "cpu" else 1
    return [
        Problem(stage.stage, stage.total * shared, device.memory)
        for stage in memory
        if stage.total * shared > device.memory
    ]


def remedies(problem: Problem, config: Config, rows: Rows, device: Device) -> Problem:
    """Try changes, and name those with which the stage fits."""
    found: list[str] = []
    bare = sum(program(device=device.kind, ranks=1).values())  # no key makes a rank take less
    for series in _candidates(problem.what, config, device) if bare < device.memory else ():
        for changes in series:  # the mildest that is enough
            changed = _changed(config, changes)
            needed = None if changed is None else _needed(problem.what, changed, rows, device)
            if needed is not None and needed <= device.memory:
                found.append(f"{' '.join(changes)}   ({needed / GIB:.1f} GiB)")
                break
        if len(found) == _ENOUGH:
            break
    if not found:
        found = ["no key that was tried: take a smaller model, or a device with more memory"]
    return Problem(problem.what, problem.needed, problem.available, found)


def _candidates(stage: str, config: Config, device: Device) -> Iterator[list[list[str]]]:
    """List series of changes, one key first, then several together."""
    narrow = ["training.dtype=bfloat16"] if config.training.dtype == "float32" else []
    if stage == "generate":
        smaller = _halves("generation.batch_size", config.generation.batch_size, 1)
    else:
        smaller = _halves("training.micro_batch_tokens", config.training.micro_batch_tokens, 256)
    yield smaller
    if narrow:
        yield [narrow]
    ranks = config.ranks or 1
    more = (
        [2**n for n in range(1, 8) if ranks < 2**n <= _MOST_RANKS] if device.kind != "cpu" else []
    )
    if stage in ("generate", SCORING):
        shares = [] if config.sharded_inference else ["sharded_inference=true"]
        if shares and ranks > 1:
            yield [shares, [*narrow, *shares]]
        if narrow:
            yield [[*narrow, *each] for each in smaller]
        yield [[*narrow, *shares, f"ranks={count}"] for count in more]
        return
    again = ["training.gradient_checkpointing=true"]
    sharded = [] if config.zero_stage == 3 else ["zero_stage=3"]
    yield [again]
    if sharded and ranks > 1:
        yield [sharded]
        yield [[*again, *sharded]]
    away = ["offload.optimizer=cpu"]
    if device.kind != "cpu" and config.offload.optimizer is None:
        shares = [] if config.zero_stage > 0 else ["zero_stage=2"]
        yield [[*shares, *away], [*again, *shares, *away]]
    if narrow:
        yield [[*narrow, *again], [*narrow, *again, *(sharded if ranks > 1 else [])]]
    if config.adapter is None:
        yield [["adapter.rank=16"], [*narrow, *again, "adapter.rank=16"]]
    yield [[*narrow, *again, *sharded, f"ranks={count}"] for count in more]


def _halves(key: str, now: int, least: int) -> list[list[str]]:
    """Give smaller values of a key, the largest first."""
    values = []
    while now // 2 >= least:
        now //= 2
        values.append([f"{key}={now}"])
    return values


def _changed(config: Config, changes: list[str]) -> Config | None:
    content: dict[str, Any] = config.model_dump()
    try:
        override(content, changes)
        return Config.model_validate(content)
    except ValueError:
        return None


def _needed(stage: str, config: Config, rows: Rows, device: Device) -> int | None:
    """Bytes that a stage takes of a device with another configuration; None if not known."""
    try:
        model = model_of(config, device=device.kind)
        memory, _ = memory_by_stage(config, rows, model, device=device.kind, only=stage)
    except UserError:
        return None
    shared = (config.ranks or 1) if device.kind == "cpu" else 1
    return max((each.total * shared for each in memory), default=None)
