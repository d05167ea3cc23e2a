"""What launchers say in variables, and what of it makes a process one of several."""

import socket

import pytest

from spin_train.errors import UserError
from spin_train.system.world import world_of

TORCHRUN = {
    "RANK": "5",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "2",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "x",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
SLURM = {
    "SLURM_JOB_ID": "100",
    "SLURM_STEP_ID": "3",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURMD_NODENAME": "gpu08",
}


def test_torchrun_says_where_its_agents_serve_a_store():
    world = world_of(TORCHRUN)
    assert (world.rank, world.size, world.local_rank, world.node) == (5, 8, 1, 2)
    assert (world.address, world.port, world.served) == ("node0", 29500, True)
    assert world.name == socket.gethostname()


def test_deepspeed_serves_none_so_rank_0_does():
    deepspeed = {name: TORCHRUN[name] for name in TORCHRUN if "TORCH" not in name}
    del deepspeed["GROUP_RANK"]
    world = world_of(deepspeed | {"CROSS_RANK": "1", "LOCAL_SIZE": "2"})
    assert (world.node, world.served) == (1, False)


def test_a_slurm_step_of_several_tasks_meets_at_its_first_node():
    world = world_of(SLURM)
    assert (world.rank, world.size, world.local_rank, world.node) == (3, 4, 1, 1)
    assert (world.address, world.name, world.served) == ("gpu07", "gpu08", False)
    assert world.port == world_of(SLURM | {"SLURM_PROCID": "0"}).port
    assert world.port != world_of(SLURM | {"SLURM_JOB_ID": "101"}).port
    given = world_of(SLURM | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"})
    assert (given.address, given.port) == ("10.0.0.1", 1234)


def test_torchrun_inside_a_slurm_step_is_torchrun():
    assert world_of(SLURM | TORCHRUN).rank == 5


@pytest.mark.parametrize(
    "environment",
    [
        {},
        # a pod of Kubeflow, outside torchrun
        {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
        TORCHRUN | {"WORLD_SIZE": "1", "RANK": "0"},
        SLURM | {"SLURM_STEP_NUM_TASKS": "1"},
        # the script of sbatch itself, outside srun
        {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
    ],
)
def test_one_process_alone_is_no_world(environment):
    assert world_of(environment) is None


def test_what_is_no_number_or_half_there_is_named():
    with pytest.raises(UserError, match=r"WORLD_SIZE must be a number.*'many'"):
        world_of(TORCHRUN | {"WORLD_SIZE": "many"})
    left = {name: TORCHRUN[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    with pytest.raises(UserError, match=r"MASTER_ADDR is missing.*unset RANK"):
        world_of(left)
