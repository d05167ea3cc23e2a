"""Sampling with vLLM, in a process of its own that gives the device's memory back when it ends.

A rank starts ``python -m spin_train.vllm_engine`` on its device and waits; the process claims and
writes shards as ranks themselves do with the other engine. *Not run with vLLM itself yet*: tests
hold it to the shapes of vLLM 0.30's interface, recorded in ``tests/train/fakes/vllm``.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from spin_train.artifacts import RunDirectory, write_json
from spin_train.config import Config
from spin_train.config_files import load_config
from spin_train.errors import StoppedError, UserError, disk_full
from spin_train.generation import Sample, SamplingSettings, fill_shards
from spin_train.processes import die_with_driver
from spin_train.shards import shards_of

__all__ = ["process_environment", "require_vllm", "run", "sample"]

_POLL_SECONDS = 0.2
# What the launcher tells a worker of the others, and vLLM would take for its own ranks.
_OF_THE_LAUNCHER = (
    *("RANK", "LOCAL_RANK", "CROSS_RANK", "WORLD_SIZE", "LOCAL_SIZE", "LOCAL_WORLD_SIZE"),
    *("CROSS_SIZE", "GROUP_RANK", "ROLE_RANK", "MASTER_ADDR", "MASTER_PORT"),
)


def require_vllm() -> None:
    """Check that vLLM is installed, without importing it.

    Raises
    ------
    UserError
        If it is not.
    """
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "generation.engine=vllm needs vLLM, which is not installed: "
            "pip install -e '.[vllm]', or take generation.engine=hf"
        )


def run(root: Path, iteration: int, opponent: str | Path, *, visit: Callable[[], None]) -> None:
    """Sample the shards of an iteration in a process of its own, and wait for it.

    Parameters
    ----------
    root : Path
        The run's directory.
    iteration : int
        Whose opponent plays.
    opponent : str or Path
        The model: `config.model`, or a policy directory.
    visit : callable
        Called a few times a second; where it raises, the process is ended.

    Raises
    ------
    UserError
        If the process says that something the user can mend stands in the way.
    StoppedError
        If the driver asked to stop.
    RuntimeError
        If it ended for another reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "error.json"
        arguments = [str(root), str(iteration), str(opponent), str(answer)]
        process = subprocess.Popen(
            [sys.executable, "-m", "spin_train.vllm_engine", *arguments],
            env=process_environment(os.environ),
            stdin=subprocess.DEVNULL,
        )
        try:
            while process.poll() is None:
                visit()
                time.sleep(_POLL_SECONDS)
        finally:
            process.kill()  # shards are whole at any time
            process.wait()
        if process.returncode == 0:
            return
        said = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else {}
    if said.get("stopped"):
        raise StoppedError
    if "mend" in said:
        raise UserError(said["mend"])
    raise RuntimeError(
        f"the process of vLLM ended with code {process.returncode}: "
        f"{said.get('fault', 'killed, or out of memory? (generation.vllm_memory)')}"
    )


def process_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment of the process: alone, on this rank's device.

    Parameters
    ----------
    environment : mapping
        The worker's.

    Returns
    -------
    dict
        Without the launcher's words on ranks, and with one visible device.
    """
    alone = {name: value for name, value in environment.items() if name not in _OF_THE_LAUNCHER}
    devices = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    local_rank = int(environment.get("LOCAL_RANK", "0"))
    if "CUDA_VISIBLE_DEVICES" not in environment:
        alone["CUDA_VISIBLE_DEVICES"] = str(local_rank)
    elif devices:
        alone["CUDA_VISIBLE_DEVICES"] = devices[local_rank]
    # In one process: it dies whole, and schedules the same way every time.
    alone["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return alone


def sample(
    llm: Any, prompts: Sequence[list[int]], seeds: Sequence[int], settings: SamplingSettings
) -> list[Sample]:
    r"""Sample one response a prompt from :math:`p(\cdot|x)`, no top-p, no top-k.

    Parameters
    ----------
    llm : vllm.LLM
        With ``logprobs_mode="raw_logprobs"``.
    prompts : sequence of list of int
        Token ids of rendered prompts, at least one each.
    seeds : sequence of int
        One a prompt. vLLM's kernels may round otherwise in another batch, so a shard sampled anew
        may hold other responses; what is on disk stays.
    settings : SamplingSettings
        Where responses end.

    Returns
    -------
    list of Sample
        In the order of `prompts`.

    Raises
    ------
    RuntimeError
        If what vLLM returns is not what was asked for.
    """
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    params = [
        SamplingParams(
            temperature=settings.temperature,
            top_p=1.0,
            top_k=-1,  # off in all versions; 0 is refused by old ones
            min_p=0.0,
            max_tokens=settings.max_new_tokens,
            stop_token_ids=[settings.stop_id],
            ignore_eos=True,  # or ends of text of the model's own file would end responses too
            seed=seed,
            logprobs=0,  # of the sampled token, and so their sum
            detokenize=False,
        )
        for seed in seeds
    ]
    requests = [TokensPrompt(prompt_token_ids=prompt_ids) for prompt_ids in prompts]
    outputs = llm.generate(requests, params, use_tqdm=False)
    return [
        _sample_of(output, prompt_ids, settings)
        for output, prompt_ids in zip(outputs, prompts, strict=True)
    ]


def _sample_of(output: Any, prompt_ids: list[int], settings: SamplingSettings) -> Sample:
    """Take one response out of a RequestOutput, exactly as sampled or not at all."""
    (completion,) = output.outputs
    ids, reason = list(completion.token_ids), completion.finish_reason
    stops = [place for place, token in enumerate(ids) if token == settings.stop_id]
    whole = {"stop": stops == [len(ids) - 1], "length": not stops}.get(reason, False)
    if list(output.prompt_token_ids) != prompt_ids:
        raise RuntimeError(f"vLLM changed the prompt {prompt_ids} to {output.prompt_token_ids}")
    if not whole or not 0 < len(ids) <= settings.max_new_tokens:
        raise RuntimeError(
            f"vLLM gave {len(ids)} tokens, the stop token at {stops}, and finish reason {reason!r}"
        )
    if completion.cumulative_logprob is None:
        raise RuntimeError("vLLM gave no log-probs")
    return Sample(ids, reason, float(completion.cumulative_logprob))


def _load(config: Config, run: RunDirectory, opponent: str) -> Any:
    from vllm import LLM

    shards = shards_of(run, config.generation)
    longest = max(len(record.prompt_ids) for shard in shards for record in shard.records)
    return LLM(
        model=opponent,
        revision=config.model_revision if opponent == config.model else None,
        trust_remote_code=config.trust_remote_code,
        skip_tokenizer_init=True,  # ids in, ids out
        dtype=config.training.dtype,
        max_model_len=longest + config.generation.max_new_tokens,
        gpu_memory_utilization=config.generation.vllm_memory,
        generation_config="vllm",  # not the model's own file of settings
        logprobs_mode="raw_logprobs",  # of the model, at temperature 1
        seed=config.seed % 2**32,
    )


def _fill(root: Path, iteration: int, opponent: str) -> None:
    run = RunDirectory(root)
    config = load_config(run.config)

    def visit(number: int, total: int) -> None:
        if run.stop_request.exists():
            raise StoppedError

    fill_shards(
        config, run, iteration, lambda: partial(sample, _load(config, run, opponent)), visit=visit
    )


def main() -> None:
    """Sample; arguments as `run` gives them, the last a file for what went wrong."""
    die_with_driver()
    root, iteration, opponent, answer = sys.argv[1:]
    try:
        require_vllm()
        _fill(Path(root), int(iteration), opponent)
        said = {}
    except StoppedError:
        said = {"stopped": "yes"}
    except UserError as error:
        said = {"mend": str(error)}
    except Exception as error:
        traceback.print_exc()
        line = f"{type(error).__name__}: {' '.join(str(error).split())}"
        said = {"fault": line}
        if disk_full(error):
            said = {"mend": f"the disk took no more ({line}): make room, then run the same command"}
    if said:
        write_json(Path(answer), said)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if said else 0)  # threads of vLLM must not keep the device


if __name__ == "__main__":
    main()
