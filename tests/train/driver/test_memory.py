"""Memory that runs out: one line with stage, peak and the key to lower."""

import errno
import signal

import pytest
import torch

from spin_train.config.files import parse_config
from spin_train.driver.memory import memory_error, refuse_killed_workers
from spin_train.errors import UserError, out_of_memory
from spin_train.run.directory import RunDirectory
from spin_train.system.files import write_json

SMALLEST = {"model": "m", "data": {"path": "d.jsonl"}, "output_dir": "o"}
KEYS = {
    "iter0/generate": "generation.batch_size (now 32)",
    "iter0/score": "training.micro_batch_tokens (now 4096)",
    "sft/train": "training.micro_batch_tokens (now 4096), raise zero_stage (now 2)",
    "initial/evaluate": "training.micro_batch_tokens",
    "initial/benchmark": "evaluation.lm_eval.batch_size (now 8)",
    "data/prepare": "data.path",
}


@pytest.fixture
def config():
    return parse_config({**SMALLEST, "evaluation": {"lm_eval": {"tasks": ["a"]}}})


def test_what_allocators_say_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert out_of_memory(MemoryError())
    assert out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    assert not out_of_memory(RuntimeError("shapes differ"))
    assert not out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize("stage", KEYS)
def test_the_line_names_stage_peak_and_key(config, stage):
    line = str(memory_error(stage, config, RuntimeError("can't allocate\nmemory")))
    assert line.startswith(f"{stage}: out of memory (peak ")
    assert " GiB of the machine's " in line or "device's" in line
    assert KEYS[stage] in line
    assert "\n" not in line


@pytest.mark.parametrize("code", [-signal.SIGKILL, 256 - signal.SIGKILL, 128 + signal.SIGKILL])
def test_workers_that_the_kernel_killed_are_named_by_their_stage(config, code, tmp_path):
    directory = RunDirectory(tmp_path)
    write_json(directory.progress, {"stages": ["data/prepare", "iter0/generate"]})
    with pytest.raises(UserError, match=r"iter0/generate: .*killed.*generation.batch_size"):
        refuse_killed_workers(code, directory, config)


def test_shared_memory_and_other_ends_have_lines_of_their_own(config, tmp_path):
    directory = RunDirectory(tmp_path)
    with pytest.raises(UserError, match=r"starting the workers: .*--shm-size"):
        refuse_killed_workers(-signal.SIGBUS, directory, config)
    refuse_killed_workers(1, directory, config)
    refuse_killed_workers(-signal.SIGSEGV, directory, config)
