"""Whether a launcher started this process as one of several, and which of them it is.

torchrun and DeepSpeed's launcher say so in the variables of torch.distributed, Slurm in its own. A
pod of Kubeflow has RANK as well, but LOCAL_RANK only within torchrun.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from spin_train.errors import UserError
from spin_train.system.owner import node_name

__all__ = ["World", "first_host", "world_of"]

_OF_TORCH = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
_OF_SLURM = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST")
_PORTS = range(20_000, 30_000)  # below those that Linux gives to clients


@dataclass(frozen=True)
class World:
    """The place of this process among all that a launcher started."""

    rank: int
    """Its number among all, from 0."""
    size: int
    """How many there are; more than one."""
    local_rank: int
    """Its number among those of its node, from 0."""
    node: int
    """Number of its node, from 0."""
    name: str
    """Name of its node, for messages."""
    address: str
    """Where rank 0 runs."""
    port: int
    """Port there of the store through which all talk."""
    served: bool
    """Whether the launcher serves that store; else rank 0 does."""


def world_of(environment: Mapping[str, str]) -> World | None:
    """Find the place that a launcher gave to this process; None if it is not one of several.

    Examples
    --------
    >>> torch = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "GROUP_RANK": "1"}
    >>> world = world_of(torch | {"MASTER_ADDR": "node0", "MASTER_PORT": "29500"})
    >>> world.rank, world.local_rank, world.node, world.served
    (3, 1, 1, False)
    >>> world_of({"RANK": "3", "WORLD_SIZE": "4"}) is None
    True
    """
    if all(name in environment for name in _OF_TORCH):
        return _of_torch(environment)
    if all(name in environment for name in _OF_SLURM):
        return _of_slurm(environment)
    return None


def _of_torch(environment: Mapping[str, str]) -> World | None:
    size = _number(environment, "WORLD_SIZE")
    if size < 2:
        return None
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in environment:
            raise UserError(
                f"WORLD_SIZE={size}, but {name} is missing: start spin-train with torchrun, srun "
                "or deepspeed; or, if they are left over, unset RANK, LOCAL_RANK and WORLD_SIZE"
            )
    node = "GROUP_RANK" if "GROUP_RANK" in environment else "CROSS_RANK"  # torchrun, DeepSpeed
    return World(
        rank=_number(environment, "RANK"),
        size=size,
        local_rank=_number(environment, "LOCAL_RANK"),
        node=_number(environment, node, "0"),
        name=node_name(environment),
        address=environment["MASTER_ADDR"],
        port=_number(environment, "MASTER_PORT"),
        served=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


def _of_slurm(environment: Mapping[str, str]) -> World | None:
    size = _number(environment, "SLURM_STEP_NUM_TASKS")
    if size < 2:
        return None
    job = _number(environment, "SLURM_JOB_ID", "0")
    step = _number(environment, "SLURM_STEP_ID", "0")
    usual = _PORTS[(31 * job + step) % len(_PORTS)]  # jobs that share a node rarely meet
    return World(
        rank=_number(environment, "SLURM_PROCID"),
        size=size,
        local_rank=_number(environment, "SLURM_LOCALID"),
        node=_number(environment, "SLURM_NODEID", "0"),
        name=node_name(environment),
        address=environment.get("MASTER_ADDR") or first_host(environment["SLURM_STEP_NODELIST"]),
        port=_number(environment, "MASTER_PORT", str(usual)),
        served=False,
    )


def _number(environment: Mapping[str, str], name: str, usual: str = "") -> int:
    text = environment.get(name, usual)
    if not text.isdecimal():
        raise UserError(f"{name} must be a number, as launchers set it, got {text!r}: unset it")
    return int(text)


def first_host(nodes: str) -> str:
    """Take the first name of a list of nodes as Slurm writes it.

    Examples
    --------
    >>> [first_host(nodes) for nodes in ("a", "n[07-12,3],b", "r[1-2]n[04,9]-ib,c")]
    ['a', 'n07', 'r1n04-ib']
    """
    whole = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", whole[0] if whole else nodes)
