"""Memory of a rank that scores with a policy of about 200 million parameters, whole or shared out.

``python -m benchmarks.memory_by_rank`` makes a Llama with random weights and scores the same rows
three times: in one process with the whole model, and on two and four ranks with
``sharded_inference``, each rank with rows of its own. Each says what it has more, at most, than
after a model of one layer went the same way. That is its own memory, shared memory, and pages of
files, which the weights of the whole model are. While the first rank loads a model that is shared
out, it sees the pages of the file too. They are the machine's to drop at any time, and are given
apart. Log-probs must be equal to the last bit. Four minutes on two cores, 4 GB of memory.
"""

import argparse
import gc
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Row

# 197 million weights; embedding and head are 3% of them, in Llama 2 7B 4%.
SIZES = {
    "vocab_size": 4096,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 27,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "max_position_embeddings": 128,
}
TARGETS = {2: 0.6, 4: 0.35}
ROW_TOKENS = 96
"""Of each row, half of them prompt."""
MIB = 2**20


def made_up_model(folder: Path, sizes: dict[str, int]) -> None:
    """Write a Llama with random weights.

    Parameters
    ----------
    folder : Path
        Where to.
    sizes : dict
        Of its configuration.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    settings: Any = LlamaConfig
    LlamaForCausalLM(settings(**sizes)).save_pretrained(folder)


class Peaks:
    """What this process has more than at the start, at most, looked at every 5 ms."""

    def __init__(self) -> None:
        self._start = _resident()
        self._highest: dict[str, float] = {}
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            for name, value in self.now().items():
                self._highest[name] = max(value, self._highest.get(name, 0.0))

    def now(self) -> dict[str, float]:
        """Give what this process has more now.

        Returns
        -------
        dict
            MiB of ``own`` memory, of pages of files and of ``all`` together.
        """
        more = {name: value - self._start[name] for name, value in _resident().items()}
        return {
            "own": more["RssAnon"] + more["RssShmem"],
            "file": more["RssFile"],
            "all": sum(more.values()),
        }

    def taken(self) -> dict[str, float]:
        """Give the peaks since the last call.

        Returns
        -------
        dict
            MiB, named as by `now`.
        """
        highest, self._highest = self._highest, {}
        return {name: max(value, highest.get(name, 0.0)) for name, value in self.now().items()}


def _resident() -> dict[str, float]:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return {name: int(value) * 1024 / MIB for name, value in found.items()}


def rank_main(model: Path, out: Path) -> None:
    """Score on one rank, and write down its log-probs and peaks; the ranks start together.

    Parameters
    ----------
    model : Path
        Of the policy.
    out : Path
        Folder for what each rank measures.
    """
    from spin_train.model.engines import shared_out
    from spin_train.model.loading import load_model
    from spin_train.model.logps import expect_rows_up_to
    from spin_train.stages.held import Shared, Whole
    from spin_train.system.ranks import Ranks

    ranks = Ranks(out / "stop")
    measured: dict[str, Any] = {}

    def load(path: Path, peaks: "Peaks | None") -> Any:
        whole = partial(load_model, path, dtype="float32")
        policy = whole().eval() if ranks.size == 1 else shared_out(whole, dtype="float32")
        expect_rows_up_to(policy, ROW_TOKENS)
        if peaks is not None:
            measured["loading"] = peaks.taken()
        return policy

    def score(path: Path, peaks: "Peaks | None" = None) -> dict[int, list[float]]:
        held: Whole | Shared
        if ranks.size == 1:
            held = Whole(lambda: load(path, peaks), lambda *_: None)
        else:
            held = Shared(lambda: load(path, peaks), lambda *_: None, ranks)
        mine = range(ranks.rank, len(blocks), ranks.size)
        logps = {number: held.logps(blocks[number]).tolist() for number in mine}
        if isinstance(held, Shared):
            held.finish()
        return logps

    blocks = rows_of(json.loads((model / "config.json").read_text())["vocab_size"])
    score(model.with_name("tiny"))  # imports, buffers of libraries
    gc.collect()
    peaks = Peaks()
    started = time.monotonic()
    logps = score(model, peaks)
    measured["scoring"] = peaks.taken()
    gc.collect()
    measured |= {"seconds": time.monotonic() - started, "logps": logps, "left": peaks.now()}
    (out / f"{ranks.rank}.json").write_text(json.dumps(measured))
    ranks.barrier()


def rows_of(vocabulary: int) -> list[Any]:
    """Make up blocks of rows that go through the model at once.

    Parameters
    ----------
    vocabulary : int
        Number of token ids.

    Returns
    -------
    list
        Nine blocks of groups.
    """
    import torch

    from spin_train.model.packing import Group

    draw = torch.Generator().manual_seed(1)

    def ids() -> list[int]:
        return torch.randint(vocabulary, (ROW_TOKENS // 2,), generator=draw).tolist()

    return [[Group(ids(), [ids()]) for _ in range(2)] for _ in range(9)]


def measured_on(ranks: int, model: Path, folder: Path) -> list[dict[str, Any]]:
    """Score on so many ranks of this machine.

    Parameters
    ----------
    ranks : int
        How many; one holds the whole model.
    model : Path
        Of the policy.
    folder : Path
        For what they measure.

    Returns
    -------
    list of dict
        What each rank has written.
    """
    out = folder / f"ranks{ranks}"
    out.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": str(ranks), "LOCAL_SIZE": str(ranks), "OMP_NUM_THREADS": "1"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-m", "benchmarks.memory_by_rank", "--rank", str(model), str(out)]
    processes = [
        subprocess.Popen(command, env={**os.environ, **common, "RANK": n, "LOCAL_RANK": n})
        for n in map(str, range(ranks))
    ]
    codes = [process.wait() for process in processes]
    if any(codes):
        sys.exit(f"{ranks} ranks ended with {codes}")
    return [json.loads((out / f"{n}.json").read_text()) for n in range(ranks)]


def compared(sizes: dict[str, int], folder: Path, ranks: tuple[int, ...]) -> dict[int, list[Any]]:
    """Measure the whole model and each number of ranks; log-probs must be equal to the last bit.

    Parameters
    ----------
    sizes : dict
        Of the model.
    folder : Path
        To work in.
    ranks : tuple of int
        Numbers of ranks that share the model.

    Returns
    -------
    dict
        What each rank has measured, by number of ranks.
    """
    made_up_model(folder / "model", sizes)
    made_up_model(folder / "tiny", sizes | {"num_hidden_layers": 1, "intermediate_size": 64})
    found = {count: measured_on(count, folder / "model", folder) for count in (1, *ranks)}
    (whole,) = found[1]
    for count in ranks:
        logps = {number: each for rank in found[count] for number, each in rank["logps"].items()}
        if logps != whole["logps"]:
            sys.exit(f"{count} ranks give other log-probs than the whole model")
    return found


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rank", nargs=2, metavar=("MODEL", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        rank_main(*map(Path, arguments.rank))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = compared(SIZES, Path(folder), tuple(TARGETS))
    whole = found[1][0]["scoring"]["all"]
    print("| ranks | own memory while loading | while scoring | of the whole | file | seconds |")
    print("|---|---|---|---|---|---|")
    for count, ranks in found.items():
        worst = {
            (phase, kind): max(rank[phase][kind] for rank in ranks)
            for phase in ("loading", "scoring")
            for kind in ("own", "file", "all")
        }
        scoring = worst["scoring", "all"]
        print(
            f"| {count} | {worst['loading', 'own']:.0f} MiB | {scoring:.0f} MiB "
            f"| {max(scoring, worst['loading', 'own']) / whole:.2f} "
            f"| {worst['loading', 'file']:.0f} MiB | {max(r['seconds'] for r in ranks):.0f} |"
        )
    print("\n| claim | target | measured | |\n|---|---|---|---|")
    for count, target in TARGETS.items():
        peak = max(max(rank["scoring"]["all"], rank["loading"]["own"]) for rank in found[count])
        print(Row(f"memory on {count} ranks", target, peak / whole, at_most=True).markdown())


if __name__ == "__main__":
    main()
