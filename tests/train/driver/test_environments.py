"""What a worker on one of several nodes is told."""

import json
from pathlib import Path

import pytest

from spin_train.driver import environments
from spin_train.driver.environments import job_environment
from spin_train.system.board import JOB_VARIABLE
from spin_train.system.world import World


def world(rank=1, node=1, local_rank=0):
    return World(rank, 2, local_rank, node, f"node{node}", "10.0.0.1", 29500, served=True)


def told(world, *numbers):
    nodes = {n: {"node": number, "first": "10.0.0.1"} for n, number in enumerate(numbers)}
    return job_environment(
        world, nodes, name="node1 (rank 1)", timeout_s=60.0, stop=Path("/t/stop")
    )


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK", "GLOO_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(environments, "cpu_only", lambda: True)
    monkeypatch.setattr(environments, "own_address_towards", lambda host: "10.0.0.2")
    interfaces = {"10.0.0.1": "ib0", "10.0.0.2": "ib1"}
    monkeypatch.setattr(environments, "interface_of", interfaces.get)


def test_a_worker_has_its_place_and_joins_the_store_of_the_job():
    environment = told(world(), 0, 1)
    assert (environment["RANK"], environment["WORLD_SIZE"]) == ("1", "2")
    assert (environment["LOCAL_RANK"], environment["LOCAL_SIZE"]) == ("0", "1")
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == ("10.0.0.1", "29500")
    assert environment["TORCHELASTIC_USE_AGENT_STORE"] == "True"
    job = json.loads(environment[JOB_VARIABLE])
    assert (job["stop"], job["ranks"], job["local_ranks"]) == ("/t/stop", 2, 1)


def test_on_one_node_ranks_share_memory_and_the_loopback():
    environment = told(world(node=0, local_rank=1), 0, 0)
    assert environment["LOCAL_SIZE"] == environment["WORLD_SIZE"] == "2"
    assert "GLOO_SOCKET_IFNAME" not in environment


def test_gloo_takes_the_interface_that_leads_to_the_other_node(monkeypatch):
    assert told(world(), 0, 1)["GLOO_SOCKET_IFNAME"] == "ib1"
    assert told(world(rank=0, node=0), 0, 1)["GLOO_SOCKET_IFNAME"] == "ib0"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")  # not here, but the user's word
    assert told(world(), 0, 1)["GLOO_SOCKET_IFNAME"] == "eth7"


def test_threads_are_those_of_the_task(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")
    monkeypatch.setattr(environments.os, "sched_getaffinity", lambda _: range(8))
    assert told(world(), 0, 1)["OMP_NUM_THREADS"] == "6"
    monkeypatch.setattr(environments.os, "sched_getaffinity", lambda _: range(1))
    assert told(world(), 0, 1)["OMP_NUM_THREADS"] == "1"  # srun gave it one core
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert told(world(), 0, 1)["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(("devices", "device"), [(1, "0"), (2, "1"), (8, "3")])
def test_a_rank_takes_its_device_among_those_that_it_sees(monkeypatch, devices, device):
    import torch

    monkeypatch.setattr(environments, "cpu_only", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    assert told(world(local_rank=3), 0, 1)["LOCAL_RANK"] == device
