"""The part of vLLM 0.30's interface that spin_train calls, its shapes recorded from its source.

Arguments, their checks and what comes back are vLLM's; the model behind them is transformers' own,
run token by token. `FAKE_VLLM` in the environment makes it go wrong in one way.
"""

import math
import os
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM

__version__ = "0.30.0"
WRONG = os.environ.get("FAKE_VLLM", "")
if WRONG == "no import":
    raise OSError("Could not load this library: libtorchcodec_image.so")


@dataclass
class SamplingParams:
    """Arguments by their names and defaults there, and the values it refuses."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True

    def __post_init__(self):
        if not 0.0 <= self.temperature <= 2.0:
            raise ValueError(f"temperature must be in [0, 2], got {self.temperature}.")
        if 0 < self.temperature < 0.01:
            self.temperature = 0.01
        if self.top_k < -1:
            raise ValueError(f"top_k must be 0 (disable), or at least 1, got {self.top_k}.")
        if self.seed == -1:
            self.seed = None


@dataclass
class CompletionOutput:
    """One response."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    cumulative_logprob: float | None
    logprobs: list | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    """What comes back for one prompt."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int] | None
    prompt_logprobs: None
    outputs: list[CompletionOutput]
    finished: bool


class LLM:
    """Engine arguments by name; no tokenizer where its loading is skipped."""

    def __init__(
        self,
        model,
        *,
        revision=None,
        trust_remote_code=False,
        skip_tokenizer_init=False,
        dtype="auto",
        max_model_len=None,
        gpu_memory_utilization=0.9,
        generation_config="auto",
        logprobs_mode="raw_logprobs",
        seed=0,
        enable_chunked_prefill=None,
        max_num_seqs=None,
    ):
        if WRONG == "no device":
            raise RuntimeError("No available memory\nfor the cache blocks.")
        if WRONG == "refused":
            raise ValueError("Model architectures ['Mamba9'] are not supported for now.")
        if "RANK" in os.environ or "MASTER_ADDR" in os.environ:
            raise RuntimeError("taken for a rank of the launcher")
        if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") != "0":
            raise RuntimeError("would start processes of its own")
        if logprobs_mode not in ("raw_logprobs", "processed_logprobs"):
            raise ValueError(logprobs_mode)
        self.raw = logprobs_mode == "raw_logprobs"
        self.tokenizer = not skip_tokenizer_init
        self.max_model_len = max_model_len
        self.share, self.chunked = gpu_memory_utilization, enable_chunked_prefill
        # What the model's file of settings would add, unless it is told not to look.
        self.own_stops = [] if generation_config == "vllm" else [4]
        model = AutoModelForCausalLM.from_pretrained(
            model, revision=revision, trust_remote_code=trust_remote_code, dtype=dtype
        )
        self.model = model.eval()

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True):
        """Outputs in the order of the prompts, as `LLM.generate` sorts them."""
        if WRONG == "no kernel":
            raise RuntimeError("Unsupported CPU attention configuration: head_dim=16 isa=2")
        if WRONG == "broken":
            raise RuntimeError("shape '[1, 2]' is invalid for input of size 3")
        outputs = []
        for number, (prompt, params) in enumerate(zip(prompts, sampling_params, strict=True)):
            assert set(prompt) == {"prompt_token_ids"}
            if params.detokenize and not self.tokenizer:
                raise ValueError("detokenize=True needs the tokenizer")
            ids = list(prompt["prompt_token_ids"])
            if len(ids) + 1 > self.max_model_len:
                raise ValueError("The decoder prompt is longer than the maximum model length")
            completion = self._complete(ids, params)
            outputs.append(RequestOutput(str(number), None, ids, None, [completion], True))
        return outputs

    @torch.inference_mode()
    def _complete(self, prompt, params):
        stops = [*params.stop_token_ids, *([] if params.ignore_eos else self.own_stops)]
        generator = torch.Generator().manual_seed(params.seed)
        ids, logps, reason = [], 0.0, None
        while reason is None:
            logits = self.model(input_ids=torch.tensor([prompt + ids])).logits[0, -1].float()
            narrowed = logits / params.temperature
            token = torch.multinomial(narrowed.softmax(-1), 1, generator=generator).item()
            logps += (logits if self.raw else narrowed).log_softmax(-1)[token].item()
            ids.append(token)
            if token in stops:
                reason = "stop"
            elif len(ids) == params.max_tokens or len(prompt + ids) == self.max_model_len:
                reason = "length"
        if WRONG == "stop left out" and reason == "stop":
            ids = ids[:-1]
        if WRONG == "cut short" and reason == "length":
            ids = ids[:-1]
        if WRONG == "aborted":
            reason = "abort"
        if WRONG == "other distribution":
            logps += 0.3 * len(ids)
        stop_reason = ids[-1] if reason == "stop" and ids else None
        given = None if params.logprobs is None else logps
        assert given is None or math.isfinite(given)
        return CompletionOutput(0, "", tuple(ids), given, None, reason, stop_reason)
