"""One run as a Slurm step: a controller and two daemons on this machine, which the test starts.

It takes root and Debian's slurm-wlm. The daemons stand for nodes whose names lead nowhere, so the
address of the first one is given; a real Slurm names hosts.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.runs.test_cluster import ROOT, SETTINGS, SPIN_TRAIN, fresh, said, wait_for
from tests.train.runs import make_config, metrics, succeed, weights

missing = [name for name in ("munged", "slurmctld", "slurmd", "srun") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.process,
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons need root here"),
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"),
]
CONFIGURATION = """
ClusterName=spin
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldPidFile={folder}/slurmctld.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/builtin
SelectType=select/linear
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=node0 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 State=UNKNOWN
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP MaxTime=INFINITE
"""


def free_ports(count):
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Slurm:
    """Controller and daemons, in a folder of their own."""

    def __init__(self, folder):
        self.folder = folder
        self.daemons = []
        self.steps = []
        self.environment = {
            **os.environ,
            **{"SLURM_CONF": str(folder / "slurm.conf"), "MASTER_ADDR": "127.0.0.1"},
            **{"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        }

    def __enter__(self):
        folder = self.folder
        (folder / "state").mkdir()
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        (folder / "slurm.conf").write_text(
            CONFIGURATION.format(host=socket.gethostname(), ports=free_ports(3), folder=folder)
        )
        files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        munge = ["munged", "--force", "--foreground", f"--socket={folder}/munge.socket", *files]
        self._daemon("munged", *munge)
        self._daemon("slurmctld", "slurmctld", "-D")
        for n in range(2):
            self._daemon(f"slurmd{n}", "slurmd", "-D", "-N", f"node{n}")
        deadline = time.monotonic() + 60
        while self.tell("sinfo", "-h", "-N", "-o", "%t").split() != ["idle", "idle"]:
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.2)
        return self

    def __exit__(self, *_):
        self.tell("scancel", "--signal=KILL", "--user=root")
        for process in self.steps:
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=30)
            process.kill()
            process.wait()
        for process in reversed(self.daemons):
            process.terminate()
        for process in self.daemons:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            process.kill()
            process.wait()

    def _daemon(self, name, *words):
        with (self.folder / f"{name}.out").open("w") as out:
            process = subprocess.Popen(words, env=self.environment, stdout=out, stderr=out)
        self.daemons.append(process)

    def logs(self):
        return "".join(path.read_text()[-2000:] for path in self.folder.glob("*.out"))

    def tell(self, *words):
        told = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, check=False
        )
        return told.stdout

    def srun(self, config, *overrides):
        """Start `srun spin-train run`, one task per node."""
        process = subprocess.Popen(
            [
                *("srun", "--nodes=2", "--ntasks=2", "--kill-on-bad-exit=1"),
                *(str(SPIN_TRAIN), "run", str(config), *overrides),
            ],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
        )
        self.steps.append(process)
        return process


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    # Sockets have short names, and munge looks at who may write to a folder.
    folder = Path("/run") / f"spin{os.getpid()}"
    folder.mkdir(mode=0o755)
    try:
        with Slurm(folder) as slurm:
            yield slurm
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def one_machine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_machine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        succeed("run", make_config(folder, **SETTINGS, ranks=2), cold=True)
    return folder


def test_a_step_that_slurm_signals_saves_and_the_next_one_ends_with_the_bits_of_one_machine(
    slurm, one_machine, tmp_path
):
    config = fresh(one_machine, tmp_path)
    folder = tmp_path / "run"
    step = slurm.srun(config)
    checkpoints = folder / "sft" / "checkpoints"
    wait_for(lambda: any(checkpoints.glob("*/complete.json")), [step])
    slurm.tell("scancel", "--signal=USR1", "--user=root")
    _, err = step.communicate(timeout=120)
    assert step.returncode == 128 + signal.SIGUSR1, err
    assert "stopped; run the same command again to resume" in said(err)
    assert not (folder / "sft" / "policy").exists()

    step = slurm.srun(config)
    out, err = step.communicate(timeout=240)
    assert step.returncode == 0, err
    assert "p_1" in out
    assert weights(folder) == weights(one_machine / "run")
    assert metrics(folder) == metrics(one_machine / "run")


def test_a_contradicting_number_of_ranks_is_refused_once_for_all(slurm, one_machine, tmp_path):
    step = slurm.srun(fresh(one_machine, tmp_path), "ranks=4")
    _, err = step.communicate(timeout=120)
    assert step.returncode == 2, err
    assert said(err) == [
        "ranks=4, but the launcher started 2 processes: remove ranks, or start as many"
    ]
    assert not (tmp_path / "run").exists()
