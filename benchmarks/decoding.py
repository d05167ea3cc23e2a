"""Decoding on a device: what a step takes, and what its bytes alone would take.

``python -m benchmarks.decoding`` decodes rows of 100 prompt tokens with a model of SmolLM2-135M's
shape and random weights, in bfloat16. It prints milliseconds per step, tokens per second and the
share of the device's bandwidth for three ways: a cache that grows (`spin_train.sampling.decoding`),
fixed places (`spin_train.sampling.replay`), where a GPU replays one recorded step, and the loop
that one writes first, `generate`. A step must read all weights and the states of all rows before
it; the bandwidth is that of a large copy, counting bytes read and written. ``--tiny`` takes a small
model, to try it anywhere.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from benchmarks.measure import timed
from spin_train.sampling.decoding import Batch, Task
from spin_train.sampling.engine import SamplingSettings
from spin_train.sampling.replay import FixedBatch

PROMPT = 100
STEPS = 60
WARM_UP = 5
BATCHES = (16, 128, 512, 2048)
NEVER = 10**9
"""No token: every response has its full length."""


@dataclass(frozen=True)
class Device:
    """Where it runs."""

    name: str
    """As torch says it, or ``cpu``."""
    bandwidth: float
    """Bytes per second of a large copy, those read and those written."""


def this_device(megabytes: int) -> Device:
    """Measure the bandwidth of the device there is.

    Parameters
    ----------
    megabytes : int
        Size of what is copied.

    Returns
    -------
    Device
        The first CUDA device, else the CPU.
    """
    on_gpu = torch.cuda.is_available()
    source = torch.randn(megabytes * 2**18, device="cuda" if on_gpu else "cpu")
    target = torch.empty_like(source)
    seconds = [timed(lambda: target.copy_(source)) for _ in range(6)][1:]
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    return Device(name, 2 * source.nbytes / statistics.median(seconds))


def build(*, tiny: bool) -> Any:
    """Make a model of SmolLM2-135M's shape, or a small one.

    Parameters
    ----------
    tiny : bool
        Whether it is small.

    Returns
    -------
    LlamaForCausalLM
        With random weights, in bfloat16, on the device there is, in evaluation mode.
    """
    config = LlamaConfig(
        hidden_size=64 if tiny else 576,
        intermediate_size=96 if tiny else 1536,
        num_hidden_layers=2 if tiny else 30,
        num_attention_heads=4 if tiny else 9,
        num_key_value_heads=2 if tiny else 3,
        vocab_size=500 if tiny else 49_152,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model: Any = LlamaForCausalLM(config)
    return model.to(torch.bfloat16).eval()


@torch.inference_mode()
def step_seconds(batch: Batch | FixedBatch, tasks: Sequence[Task], steps: int) -> float:
    """Time the steps of a batch.

    Parameters
    ----------
    batch : Batch or FixedBatch
        Empty.
    tasks : sequence of Task
        What its rows are.
    steps : int
        How many are timed, after a few that are not.

    Returns
    -------
    float
        Median seconds.
    """
    settings = SamplingSettings((NEVER,), 0, 1.0, len(tasks))
    batch.add(tasks)
    seconds = [timed(lambda: batch.step(settings)) for _ in range(WARM_UP + steps)]
    return statistics.median(seconds[WARM_UP:])


@torch.inference_mode()
def generate_seconds(model: Any, rows: int, prompt: int, steps: int) -> float:
    """Time `generate` on prompts of equal length.

    Parameters
    ----------
    model : PreTrainedModel
        In evaluation mode.
    rows, prompt, steps : int
        Prompts, tokens of each, and new tokens.

    Returns
    -------
    float
        Seconds per token, the prompts' own forward pass included.
    """
    ids = torch.randint(3, model.config.vocab_size, (rows, prompt), device=model.device)
    settings = GenerationConfig(
        do_sample=True, top_k=0, max_new_tokens=steps, min_new_tokens=steps, pad_token_id=0
    )
    arguments = {"attention_mask": torch.ones_like(ids), "generation_config": settings}
    return timed(lambda: model.generate(input_ids=ids, **arguments)) / steps


def least_bytes(model: Any, rows: int, tokens: int) -> float:
    """Count what a step must read: every weight, and the states of all rows.

    Parameters
    ----------
    model : PreTrainedModel
        A Llama.
    rows, tokens : int
        Rows, and tokens that each has.

    Returns
    -------
    float
        Bytes.
    """
    config = model.config
    weights: int = sum(parameter.nbytes for parameter in model.parameters())
    states: int = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    width: int = model.dtype.itemsize
    return weights + rows * tokens * states * width


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tiny", action="store_true", help="a small model and few steps")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="rows at a time")
    arguments = parser.parse_args()
    steps = 3 if arguments.tiny else STEPS
    device = this_device(16 if arguments.tiny else 2048)
    model = build(tiny=arguments.tiny)
    print(f"{device.name}, {device.bandwidth / 1e9:.0f} GB/s, torch {torch.__version__}\n")
    print("| rows | way | ms per step | tokens per second | share of bandwidth, % |")
    print("|---|---|---|---|---|", flush=True)
    generator = torch.Generator().manual_seed(0)
    for rows in arguments.batches:
        tasks = [
            Task(n, torch.randint(3, 500, (PROMPT,), generator=generator).tolist(), n, 10**4)
            for n in range(rows)
        ]
        floor = least_bytes(model, rows, PROMPT + WARM_UP + steps // 2) / device.bandwidth
        for way in ("a cache that grows", "fixed places", "generate"):
            try:
                if way == "generate":
                    seconds = generate_seconds(model, rows, PROMPT, steps)
                elif way == "fixed places":
                    columns = PROMPT + WARM_UP + steps
                    seconds = step_seconds(FixedBatch(model, rows, columns), tasks, steps)
                else:
                    seconds = step_seconds(Batch(model), tasks, steps)
                cells = f"{1000 * seconds:.2f} | {rows / seconds:.0f} | {100 * floor / seconds:.1f}"
            except torch.OutOfMemoryError:
                cells = "out of memory | |"
            print(f"| {rows} | {way} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
