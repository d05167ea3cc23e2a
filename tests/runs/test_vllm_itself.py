"""Runs whose samples vLLM itself draws, on the CPU: make test-vllm."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import pytest

from spin_train.sampling.play import distribution_of
from spin_train.sampling.vllm_process import process_environment
from tests.train.runs import (
    make_config,
    make_model,
    records_of,
    refused,
    start,
    succeed,
    weights,
)

pytestmark = [pytest.mark.process, pytest.mark.vllm]

# Heads of 32, the least that vLLM's attention on CPUs takes. It compiles nothing, to save time, and
# takes little memory, as a test runs next to others.
WIDTH = 64
GENERATION = {"engine": "vllm", "vllm_memory": 0.3, "vllm": {"enforce_eager": True}}
SHORT = {"width": WIDTH, "iterations": 1, "sft": None, "generation": GENERATION}
SETTINGS = {**SHORT, "iterations": 2}
# Seen: 5e-5 nats per sample in float32.
MOST_NATS = 5e-4


def samples(folder, iteration=0):
    """Token ids of the samples of an iteration, by prompt."""
    records = records_of(folder / "run" / f"iter{iteration}" / "generations", "*.parquet")
    return {r.prompt_id: [tuple(response.ids) for response in r.responses] for r in records}


def generated(folder, iteration=0):
    """The samples of an iteration with the log-probs of both sides."""
    records = records_of(folder / "run" / f"iter{iteration}" / "scored", "*.parquet")
    return [s for r in records for s in r.of_role("generated") if s.iteration == iteration]


@pytest.fixture(scope="module")
def on_one_rank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    succeed("run", make_config(folder, **SETTINGS))
    return folder


def test_vllm_gives_each_sample_the_log_prob_that_training_uses(on_one_rank):
    for iteration in (0, 1):
        drawn = generated(on_one_rank, iteration)
        assert len(drawn) == 60
        assert {sample.finish_reason for sample in drawn} <= {"stop", "length"}
        apart = max(abs(sample.sampling_logps - sample.opponent_logps) for sample in drawn)
        print(f"iteration {iteration}: {apart:.3g} nats apart")  # noqa: T201 - with -s
        assert apart < MOST_NATS
    folder = on_one_rank / "run" / "iter0" / "generations"
    recorded = json.loads((folder / "settings.json").read_text())
    assert recorded["vllm"] == version(distribution_of("vllm"))
    assert recorded["vllm_arguments"] == {"enforce_eager": True}


def test_two_ranks_draw_the_samples_of_one(on_one_rank, tmp_path):
    succeed("run", make_config(tmp_path, **SHORT, ranks=2))
    assert samples(tmp_path) == samples(on_one_rank)


def test_a_run_killed_while_vllm_samples_ends_with_the_bits_of_the_uninterrupted(
    on_one_rank, tmp_path
):
    config = make_config(on_one_rank, **SETTINGS, output_dir=str(tmp_path / "run"))
    copy = tmp_path / "config.yaml"
    copy.write_text(config.read_text())
    process = start("run", copy)
    folder = tmp_path / "run" / "iter0" / "generations"
    deadline = time.monotonic() + 400
    while not list(folder.glob("*.parquet")) and process.poll() is None:
        assert time.monotonic() < deadline, "nothing was sampled"
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (tmp_path / "run" / "iter0" / "policy").exists()
    succeed("run", copy)
    assert samples(tmp_path) == samples(on_one_rank)
    assert weights(tmp_path / "run") == weights(on_one_rank / "run")


def test_prompts_of_more_tokens_than_vllm_takes_at_once_on_cpus(tmp_path):
    """One prompt of 5000 tokens, and shards whose prompts have 8000 together."""
    make_model(tmp_path / "model", width=WIDTH, context=6000)
    lines = [{"prompt": "abcdefgh" * 125 + "ab"[i % 2] * i, "response": "abc"} for i in range(24)]
    lines.append({"prompt": "abcd" * 1250, "response": "abc"})
    text = "\n".join(json.dumps(line) for line in lines)
    (tmp_path / "rows.jsonl").write_text(text + "\n")
    data = {"max_prompt_tokens": 5500, "held_out": 4}
    succeed("run", make_config(tmp_path, **SHORT, data=data))
    assert len(samples(tmp_path)) == 25
    apart = [abs(s.sampling_logps - s.opponent_logps) for s in generated(tmp_path)]
    assert max(apart) < MOST_NATS


CUT = """
import sys
from vllm import LLM
from spin_train.sampling.engine import SamplingSettings
from spin_train.sampling.vllm_engine import sample
llm = LLM(model=sys.argv[1], skip_tokenizer_init=True, dtype="float32", max_model_len=16,
          enforce_eager=True, generation_config="vllm", gpu_memory_utilization=0.15)
settings = SamplingSettings(stop_ids=(0,), max_new_tokens=30, temperature=1.0, batch_size=4)
try:
    sample(llm, [[3, 4, 5]] * 20, range(20), settings)
except (RuntimeError, ValueError) as error:
    print("refused:", error)
"""


def program(text, *arguments, environment):
    """Standard output of a program in a process such as vLLM gets."""
    done = subprocess.run(
        [sys.executable, "-c", text, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_a_sample_that_vllm_cuts_before_the_limit_is_refused(tmp_path):
    make_model(tmp_path / "model", width=WIDTH)
    environment = process_environment(os.environ)
    out = program(CUT, tmp_path / "model", environment=environment)
    assert "refused: vLLM gave 13 tokens" in out


def test_usage_is_not_reported_unless_the_user_says_so():
    ask = "from vllm.usage.usage_lib import is_usage_stats_enabled as on; print('reports:', on())"
    others = ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "VLLM_DO_NOT_TRACK")
    bare = {name: value for name, value in os.environ.items() if name not in others}
    assert "reports: True" in program(ask, environment=bare)
    assert "reports: False" in program(ask, environment=process_environment(bare))
    asked = process_environment({**bare, "VLLM_NO_USAGE_STATS": "0"})
    assert "reports: True" in program(ask, environment=asked)


def test_too_little_memory_for_vllm_is_for_the_user_to_fix(tmp_path):
    settings = {**SHORT, "generation": {**GENERATION, "vllm_memory": 1e-4}}
    assert "generation.vllm_memory" in refused("run", make_config(tmp_path, **settings))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"max_num_sequences": 8}, "did you mean max_num_seqs"),
        ({"max_num_seqs": -1}, "change generation.vllm"),
    ],
)
def test_arguments_that_vllm_does_not_take_are_for_the_user_to_fix(tmp_path, arguments, said):
    settings = {**SHORT, "generation": {**GENERATION, "vllm": arguments}}
    assert said in refused("run", make_config(tmp_path, **settings))


def test_a_model_that_vllm_cannot_run_is_for_the_user_to_fix(tmp_path):
    """Heads of 16 are too small for its attention on CPUs."""
    settings = {**SHORT, "width": 32}
    assert "generation.engine=hf" in refused("run", make_config(tmp_path, **settings))
