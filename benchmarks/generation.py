"""Sampling with the hf engine against the plain loop: prompts per second, with the target.

``python -m benchmarks.generation`` samples a response to every prompt of a set of mixed lengths
(log-normal, median 150 tokens), once with the engine and once, in turns, with the loop that one
writes first: batches in the order of the data, padded to their longest prompt, each taken by
`generate` until its last row has ended. Same model, prompts, batch size and longest response, one
float32 model on the CPU. ``--data FOLDER`` takes the model and the texts of benchmarks.stories,
responses ending at a line break; without it a Llama with random weights, the vocabulary so small
that one token in 96 ends a response. With ``--vllm``, in an environment that has vLLM (make
test-vllm makes .venv-vllm), vLLM takes its turns too. A busy machine is refused as in
benchmarks.train_step; the exit code is 0 whether the target is met or not.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from benchmarks.measure import CORES, Row, refuse_busy, timed
from spin_train.model.logps import Group, response_logps
from spin_train.sampling.engine import SamplingSettings
from spin_train.sampling.transformers_engine import sample
from spin_train.stages.score import PARITY_TOLERANCE

TARGET = 2.0
ROUNDS = 3
MEDIAN, SPREAD = 150, 0.6  # of prompt lengths, tokens; the spread of their logarithms
CONTEXT = 512
SHORTEST = 8
CHECKED = 32  # samples whose log-probs are compared with those of scoring


@dataclass(frozen=True)
class Task:
    """What is sampled."""

    name: str
    model: Any
    prompts: list[list[int]]
    settings: SamplingSettings


def prompt_lengths(count: int, longest: int) -> list[int]:
    """Draw lengths of prompts.

    Parameters
    ----------
    count : int
        How many.
    longest : int
        Cut there, tokens.

    Returns
    -------
    list of int
        Tokens; the same at each call.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = MEDIAN * torch.exp(SPREAD * torch.randn(count, generator=generator))
    drawn: list[int] = lengths.clamp(SHORTEST, longest).int().tolist()
    return drawn


def random_task(count: int, *, batch_size: int, max_new_tokens: int) -> Task:
    """Make a four-layer Llama of width 128 that ends responses after 96 tokens in the mean.

    Parameters
    ----------
    count : int
        Prompts.
    batch_size : int
        Rows at a time.
    max_new_tokens : int
        Longest response.

    Returns
    -------
    Task
        With random prompts.
    """
    vocabulary = 96
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        initializer_range=0.01,  # so that all tokens are about equally likely
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    lengths = prompt_lengths(count, CONTEXT - max_new_tokens)
    prompts = [torch.randint(3, vocabulary, (length,)).tolist() for length in lengths]
    settings = SamplingSettings((2,), max_new_tokens, 1.0, batch_size)
    return Task("random Llama", model, prompts, settings)


def stories_task(source: Path, count: int, *, batch_size: int, max_new_tokens: int) -> Task:
    """Take the model of benchmarks.stories, and pieces of its texts as prompts.

    Parameters
    ----------
    source : Path
        Folder with ``stories260K/`` and ``tinystories/tinystories_1000.json``.
    count : int
        Prompts.
    batch_size : int
        Rows at a time.
    max_new_tokens : int
        Longest response.

    Returns
    -------
    Task
        Responses end at a line break.
    """
    folder = source / "stories260K"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    texts = json.loads((source / "tinystories" / "tinystories_1000.json").read_text())
    ids = iter([i for text in texts for i in tokenizer(" ".join(text.split()))["input_ids"]])
    lengths = prompt_lengths(count, CONTEXT - max_new_tokens)
    prompts = [[next(ids) for _ in range(length)] for length in lengths]
    line_break: Any = tokenizer.convert_tokens_to_ids("<0x0A>")
    settings = SamplingSettings((line_break,), max_new_tokens, 1.0, batch_size)
    return Task("stories260K", model, prompts, settings)


@torch.inference_mode()
def plain_loop(task: Task) -> list[list[int]]:
    """Sample in the order of the prompts, a padded batch after the other.

    Parameters
    ----------
    task : Task
        What is sampled.

    Returns
    -------
    list of list of int
        Token ids of the responses.
    """
    settings = task.settings
    generation = GenerationConfig(
        do_sample=True,
        temperature=settings.temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=settings.max_new_tokens,
        eos_token_id=settings.stop_ids[0],
        pad_token_id=settings.stop_ids[0],
    )
    torch.manual_seed(0)
    responses = []
    for start in range(0, len(task.prompts), settings.batch_size):
        batch = task.prompts[start : start + settings.batch_size]
        longest = max(map(len, batch))
        padded = [[settings.stop_ids[0]] * (longest - len(ids)) + ids for ids in batch]
        mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in batch]
        rows = task.model.generate(
            input_ids=torch.tensor(padded),
            attention_mask=torch.tensor(mask),
            generation_config=generation,
        )
        for ids in rows[:, longest:].tolist():
            end = ids.index(settings.stop_ids[0]) + 1 if settings.stop_ids[0] in ids else len(ids)
            responses.append(ids[:end])
    return responses


def engine(task: Task) -> list[list[int]]:
    """Sample with the hf engine.

    Parameters
    ----------
    task : Task
        What is sampled.

    Returns
    -------
    list of list of int
        Token ids of the responses.
    """
    seeds = range(len(task.prompts))
    return [sampled.ids for sampled in sample(task.model, task.prompts, seeds, task.settings)]


def vllm_engine(task: Task) -> Callable[[], list[list[int]]]:
    """Load the model into vLLM, with the engine's arguments of a run.

    Parameters
    ----------
    task : Task
        What is sampled.

    Returns
    -------
    callable
        Samples; token ids of the responses.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM  # type: ignore[import-not-found, unused-ignore]

    from spin_train.sampling.vllm_engine import sample as sample_with_vllm

    with tempfile.TemporaryDirectory() as folder:
        task.model.save_pretrained(folder)
        llm = LLM(
            model=folder,
            skip_tokenizer_init=True,
            dtype="float32",
            max_model_len=CONTEXT,
            gpu_memory_utilization=0.3,
            generation_config="vllm",
            logprobs_mode="raw_logprobs",
            enable_chunked_prefill=False,
            max_num_seqs=task.settings.batch_size,
        )
    seeds = range(len(task.prompts))

    def way() -> list[list[int]]:
        return [each.ids for each in sample_with_vllm(llm, task.prompts, seeds, task.settings)]

    return way


def check(task: Task) -> float:
    """Compare the engine's log-probs of some samples with those of scoring.

    Parameters
    ----------
    task : Task
        What is sampled.

    Returns
    -------
    float
        Largest difference, nats.
    """
    prompts = task.prompts[:CHECKED]
    samples = sample(task.model, prompts, range(len(prompts)), task.settings)
    groups = [Group(p, [s.ids]) for p, s in zip(prompts, samples, strict=True)]
    with torch.inference_mode():
        scored = [response_logps(task.model, [group]).item() for group in groups]
    differences = [abs(s.logps - logps) for s, logps in zip(samples, scored, strict=True)]
    allowed = [PARITY_TOLERANCE["float32"].allowed(len(s.ids)) for s in samples]
    if any(d > most for d, most in zip(differences, allowed, strict=True)):
        raise AssertionError(f"engine and scoring differ by {max(differences)} nats")
    return max(differences)


def mean_tokens(responses: Sequence[list[int]]) -> float:
    """Mean length of responses, tokens.

    Parameters
    ----------
    responses : sequence of list of int
        Token ids.

    Returns
    -------
    float
        Tokens.
    """
    return statistics.mean(map(len, responses))


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, help="model and stories of benchmarks.stories")
    parser.add_argument("--busy", action="store_true", help="measure although others are working")
    parser.add_argument("--vllm", action="store_true", help="measure vLLM too")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each way")
    parser.add_argument("--prompts", type=int, default=256, help="how many")
    parser.add_argument("--batch-size", type=int, default=32, help="rows at a time, in both ways")
    parser.add_argument("--max-new-tokens", type=int, default=160, help="longest response")
    arguments = parser.parse_args()
    load = refuse_busy(allowed=arguments.busy)
    torch.set_num_threads(1 if arguments.busy else CORES)
    sizes = {"batch_size": arguments.batch_size, "max_new_tokens": arguments.max_new_tokens}
    if arguments.data:
        task = stories_task(arguments.data, arguments.prompts, **sizes)
    else:
        task = random_task(arguments.prompts, **sizes)
    difference = check(task)
    ways: dict[str, Callable[[], list[list[int]]]]
    ways = {"engine": partial(engine, task), "plain loop": partial(plain_loop, task)}
    if arguments.vllm:
        ways["vLLM"] = vllm_engine(task)
    tokens = {name: mean_tokens(way()) for name, way in ways.items()}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            taken[name].append(timed(way))
    seconds = {name: statistics.median(times) for name, times in taken.items()}
    clock = "processor seconds of one thread" if arguments.busy else f"{CORES} threads"
    print(f"{task.name}, {arguments.prompts} prompts, {sizes}, {clock}; load before {load:.2f}\n")
    print("| claim | target | measured | |\n|---|---|---|---|")
    factor = seconds["plain loop"] / seconds["engine"]
    print(Row("hf engine over the plain loop, prompts per second", TARGET, factor, "x").markdown())
    print("\n| way | prompts per second | mean response, tokens |\n|---|---|---|")
    for name in ways:
        rate = arguments.prompts / seconds[name]
        print(f"| {name} | {rate:.1f} | {tokens[name]:.1f} |")
    print(f"\nlargest difference to the log-probs of scoring: {difference:.2g} nats")


if __name__ == "__main__":
    main()
