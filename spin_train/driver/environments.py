"""What a worker on one of several nodes is told: its place, its device, the way to the others."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from spin_train.driver.launch import worker_environment
from spin_train.system.board import JOB_VARIABLE
from spin_train.system.network import interface_of, own_address_towards
from spin_train.system.processes import cpu_only
from spin_train.system.world import World

__all__ = ["Nodes", "job_environment"]

Nodes = dict[int, dict[str, Any]]
"""What each rank says of its node: its number, and where it sees the first one."""


def job_environment(
    world: World, nodes: Nodes, *, name: str, timeout_s: float, stop: Path
) -> dict[str, str]:
    """Environment of the worker of a rank: its place, and how it reaches the others.

    `nodes` holds what each rank said of its node, and `stop` is the file by which the worker is
    asked to stop.
    """
    here = sum(node["node"] == world.node for node in nodes.values())
    alone = here == world.size
    environment = worker_environment(here, alone=alone)
    if "OMP_NUM_THREADS" not in os.environ and "SLURM_CPUS_PER_TASK" in os.environ:
        # Since Slurm 22.05 srun gives a task one core unless SRUN_CPUS_PER_TASK says more.
        asked, cores = os.environ["SLURM_CPUS_PER_TASK"], len(os.sched_getaffinity(0))
        environment["OMP_NUM_THREADS"] = str(min(int(asked), cores)) if asked.isdigit() else asked
    if not alone and "GLOO_SOCKET_IFNAME" not in environment:
        interface = _interface(world, nodes)
        environment |= {"GLOO_SOCKET_IFNAME": interface} if interface else {}
    job = {
        "address": world.address,
        "port": world.port,
        "node": name,
        "timeout_s": timeout_s,
        "stop": str(stop),
        "ranks": world.size,
        "local_ranks": here,
    }
    return environment | {
        "RANK": str(world.rank),
        "WORLD_SIZE": str(world.size),
        "LOCAL_RANK": str(_device(world)),
        "LOCAL_SIZE": str(here),
        "MASTER_ADDR": world.address,
        "MASTER_PORT": str(world.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # torch joins the store of the job
        JOB_VARIABLE: json.dumps(job),
    }


def _device(world: World) -> int:
    """Choose the device of this rank: a launcher may show each rank its own alone."""
    if cpu_only():
        return world.local_rank
    import torch

    return world.local_rank % max(1, torch.cuda.device_count())


def _interface(world: World, nodes: Nodes) -> str | None:
    """Name the interface that leads to the other nodes; on rank 0's node, as they see it."""
    with suppress(OSError):
        if world.node != nodes[0]["node"]:
            return interface_of(own_address_towards(world.address))
        seen = [node["first"] for node in nodes.values() if node["node"] != world.node]
        return interface_of(seen[0])
    return None
