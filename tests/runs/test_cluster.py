"""One run on two nodes: two network namespaces, each with its own pids, host name and /dev/shm.

The test makes them itself, from loopback and a pair of virtual interfaces; that takes root and the
commands of iproute2 and util-linux. Nothing of it leaves this machine.
"""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.runs import make_config, metrics, succeed, weights

ROOT = Path(__file__).parents[2]
SPIN_TRAIN = Path(sys.executable).with_name("spin-train")
SETTINGS = {
    "width": 128,  # slow enough for a stage to be caught
    "zero_stage": 2,
    "control": True,
    "iterations": 1,
    "epochs": 4,
    "training": {"save_steps": 3, "logging_steps": 2},
}
PORT = "29533"
missing = [name for name in ("ip", "unshare", "hostname", "mount") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.process,
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"),
]


def command(*arguments):
    subprocess.run(arguments, check=True, capture_output=True, text=True)


class Nodes:
    """Two nodes, `node0` and `node1`, with one network between them."""

    def __init__(self):
        self.tag = f"spin{os.getpid()}"
        self.spaces = [f"{self.tag}-{n}" for n in range(2)]
        self.started = []

    def __enter__(self):
        for space in self.spaces:
            command("ip", "netns", "add", space)
            command("ip", "-n", space, "link", "set", "lo", "up")
        ends = ["type", "veth", "peer", "name", "spin0", "netns", self.spaces[1]]
        command("ip", "-n", self.spaces[0], "link", "add", "spin0", *ends)
        for n, space in enumerate(self.spaces):
            command("ip", "-n", space, "addr", "add", f"10.77.0.{n + 1}/24", "dev", "spin0")
            command("ip", "-n", space, "link", "set", "spin0", "up")
        return self

    def __exit__(self, *_):
        for process in self.started:
            process.kill()
            process.communicate()
        for space in self.spaces:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)

    def start(self, n, words, *, before="true"):
        """Start a command on a node; all that it has started ends with it."""
        inside = (
            f"hostname node{n} && mount -t proc proc /proc && mount -t tmpfs -o size=300m tmpfs "
            f'/dev/shm && {before} && exec "$@"'
        )
        alone = ["unshare", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child"]
        environment = {
            **{name: value for name, value in os.environ.items() if name != "GLOO_SOCKET_IFNAME"},
            **{"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        }
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.spaces[n], *alone, "sh", "-c", inside, "sh", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.started.append(process)
        return process

    def deepspeed(self, config):
        """Start it as `deepspeed --hostfile` does on each node, without its ssh."""
        hosts = {"node0": [0], "node1": [0]}
        world = base64.urlsafe_b64encode(json.dumps(hosts).encode()).decode()
        return [
            self.start(
                n,
                [
                    *(sys.executable, "-m", "deepspeed.launcher.launch", f"--node_rank={n}"),
                    *(f"--world_info={world}", "--master_addr=10.77.0.1", f"--master_port={PORT}"),
                    *("--no_python", "--no_local_rank", str(SPIN_TRAIN), "run", str(config)),
                ],
            )
            for n in range(2)
        ]

    def torchrun(self, config, *overrides, before=("true", "true")):
        """Start `spin-train run` with torchrun, one rank per node."""
        return [
            self.start(
                n,
                [
                    *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2"),
                    *("--nproc-per-node=1", f"--node-rank={n}", "--master-addr=10.77.0.1"),
                    *(f"--master-port={PORT}", "--signals-to-handle=SIGTERM,SIGINT,SIGUSR1"),
                    *("--no-python", str(SPIN_TRAIN), "run", str(config), *overrides),
                ],
                before=before[n],
            )
            for n in range(2)
        ]


def finish(processes, *, timeout=150):
    """Exit codes and standard errors of all nodes, once all have ended."""
    deadline = time.monotonic() + timeout
    errors = [
        process.communicate(timeout=max(1, deadline - time.monotonic()))[1] for process in processes
    ]
    return [process.returncode for process in processes], errors


def said(error):
    """Lines that spin-train itself wrote to standard error, stages left out."""
    lines = [line for line in error.splitlines() if line.startswith("spin-train: ")]
    return [line.removeprefix("spin-train: ") for line in lines if " " in line[12:]]


def wait_for(condition, processes, timeout=90):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the moment never came"
        assert all(process.poll() is None for process in processes), finish(processes)
        time.sleep(0.01)


def running(folder, node, name):
    """Process ids of a node's workers or drivers; seen from outside, where all pids show."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            variables = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        here = f"GROUP_RANK={node}".encode() in variables or (
            f"RANK={node}".encode() in variables and b"SPIN_TRAIN_DRIVER" in b"".join(variables)
        )
        if here and name in b" ".join(words) and str(folder).encode() in b" ".join(words):
            found.append(int(process.name))
    return found


def stage_of(folder):
    try:
        return json.loads((folder / ".progress.json").read_text())["stages"][-1]
    except (FileNotFoundError, ValueError):
        return ""


@pytest.fixture(scope="module")
def nodes():
    with Nodes() as nodes:
        yield nodes


@pytest.fixture(scope="module")
def one_machine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_machine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # bits are equal at equal threads
        succeed("run", make_config(folder, **SETTINGS, ranks=2), cold=True)
    return folder


def fresh(one_machine, folder):
    """The same run on two nodes, not yet begun."""
    changes = {**SETTINGS, "ranks": None, "output_dir": str(folder / "run")}
    config = make_config(one_machine, **changes)
    copy = folder / "config.yaml"
    copy.write_text(config.read_text())
    return copy


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_two_nodes_end_with_the_bits_of_one_machine(nodes, one_machine, tmp_path, launcher):
    codes, errors = finish(getattr(nodes, launcher)(fresh(one_machine, tmp_path)))
    assert codes == [0, 0], errors
    assert weights(tmp_path / "run") == weights(one_machine / "run")
    assert metrics(tmp_path / "run") == metrics(one_machine / "run")
    saved = (tmp_path / "run" / "config.yaml").read_text()
    assert "ranks: null" in saved or "ranks:\n" in saved
    left = {path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")}
    assert left <= {".lock", ".workers.lock", ".progress.json", ".errors"}


def test_stopped_by_usr1_on_one_node_and_killed_on_the_other_it_resumes_to_the_same_bits(
    nodes, one_machine, tmp_path
):
    config = fresh(one_machine, tmp_path)
    folder = tmp_path / "run"

    processes = nodes.torchrun(config)
    checkpoints = folder / "sft" / "checkpoints"
    wait_for(lambda: any(checkpoints.glob("*/complete.json")), processes)
    (driver,) = running(config, 1, b"spin-train run")
    os.kill(driver, signal.SIGUSR1)
    codes, errors = finish(processes)
    assert all(codes), errors
    assert said(errors[0])[-1] == "stopped; run the same command again to resume"
    assert not (folder / "sft" / "policy").exists()

    processes = nodes.torchrun(config)
    wait_for(lambda: stage_of(folder) == "iter0/train", processes)
    (worker,) = running(folder, 1, b"spin_train.driver.worker")
    os.kill(worker, signal.SIGKILL)
    codes, errors = finish(processes)
    assert all(codes), errors
    assert "node1 (rank 1)" in said(errors[0])[-1]
    assert "killed" in said(errors[0])[-1]

    codes, errors = finish(nodes.torchrun(config))
    assert codes == [0, 0], errors
    assert weights(folder) == weights(one_machine / "run")
    assert metrics(folder) == metrics(one_machine / "run")


def test_a_network_that_is_cut_ends_the_run_in_time_with_the_name_of_the_node(
    nodes, one_machine, tmp_path
):
    seconds = 12
    config = fresh(one_machine, tmp_path)
    processes = nodes.torchrun(config, f"node_timeout={seconds}", "epochs=200")
    wait_for(lambda: stage_of(tmp_path / "run") == "iter0/train", processes)
    drivers = [running(config, n, b"spin-train run")[0] for n in range(2)]
    begun = time.monotonic()
    command("ip", "-n", nodes.spaces[1], "link", "set", "spin0", "down")
    try:
        while any(Path(f"/proc/{driver}").exists() for driver in drivers):
            assert time.monotonic() - begun < seconds, "a driver outlived node_timeout"
            time.sleep(0.1)
    finally:
        command("ip", "-n", nodes.spaces[1], "link", "set", "spin0", "up")
    codes, errors = finish(processes)
    assert all(codes)
    assert "node1 (rank 1) has not answered for 9 s" in said(errors[0])[-1]
    assert "(rank 0) has not answered for 9 s" in said(errors[1])[-1]
    assert not running(tmp_path / "run", 0, b"spin_train.driver.worker")
    assert not running(tmp_path / "run", 1, b"spin_train.driver.worker")


def test_a_file_system_that_is_not_shared_is_named_with_the_node(nodes, one_machine, tmp_path):
    config = fresh(one_machine, tmp_path)
    (tmp_path / "run").mkdir()
    hidden = f"mount -t tmpfs tmpfs {tmp_path / 'run'}"
    processes = nodes.torchrun(config, "node_timeout=3", before=("true", hidden))
    codes, errors = finish(processes)
    assert all(codes)
    line = said(errors[0])[-1]
    assert line.startswith("node1 (rank 1): does not see ")
    assert "a file system that all nodes share" in line
    assert not (tmp_path / "run" / "data").exists()
