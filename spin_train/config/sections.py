"""The sections of a run's config: every key with its default and meaning."""

import re
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from spin_train.config.arguments import MANAGED_ARGUMENTS, VLLM_ARGUMENTS
from spin_train.config.keys import Free, Play, Start, Training
from spin_train.config.paths import Located

__all__ = [
    "ROW_FORMATS",
    "AdapterConfig",
    "AnswersConfig",
    "DataConfig",
    "EvaluationConfig",
    "GenerationConfig",
    "LmEvalConfig",
    "Section",
    "SelectionConfig",
    "SftConfig",
    "TrainingConfig",
]

ROW_FORMATS = (
    "messages",
    "conversations",
    "real/generated",
    "chosen/rejected",
    "prompt/response",
    "prompt/completion",
    "instruction/output",
    "question/answer",
)
"""Formats that SFT rows come in, by name; `spin_train.data.formats` reads each."""


class Section(BaseModel):
    """A section refuses keys that it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class DataConfig(Section):
    """Where the SFT rows come from."""

    path: Start[Located]
    """JSONL, JSON, CSV or Parquet file, a folder of them, a `datasets` folder, or a hub name."""
    split: Start[str] = "train"
    """Split of a hub dataset or a folder; ignored for files."""
    subset: Start[str | None] = None
    """Configuration of a hub dataset, such as `main` of openai/gsm8k."""
    revision: Start[str | None] = None
    """Commit or tag of a hub dataset."""
    shape: Start[str | None] = None
    """Shape of the rows: `messages`, `conversations`, `real/generated`, `chosen/rejected`,
    `prompt/response`, `prompt/completion`, `instruction/output` or `question/answer`; null infers
    it from the keys of each row. Set it if several fit."""
    turn: Start[Literal["last", "first"]] = "last"
    """Which assistant turn is the response; the published runs use the first one of a chat."""
    malformed: Start[Literal["error", "drop"]] = "error"
    """What to do with a row that fits no shape, lacks a prompt or a response, or is refused by the
    chat template: refuse the data, or drop the row and count it."""
    ignore: Start[list[str]] = []
    """Keys of rows to read as if they were not there, such as `source`, `images`, `label` or, in
    turns, `messages[].name`. Without it, keys that nothing uses are counted and named."""
    deduplicate: Start[Literal["none", "row", "prompt"]] = "none"
    """Keep the first of several rows with the same `prompt`, or with the same prompt and response
    (`row`). `none` keeps all, as how often a response occurs is part of p_data."""
    held_out: Start[float] = Field(default=0.02, gt=0)
    """Prompts kept out of training: a fraction below 1, or a number of prompts >= 1. Rows of one
    conversation stay together, so it may be a few less."""
    shared_responses: Start[Literal["keep", "drop"]] = "keep"
    """What to do with training rows whose response is also held out, word for word: keep them, and
    say how many held-out responses that concerns, or leave them out of training."""
    rows: Start[int | None] = Field(default=None, ge=1)
    """Training prompts taken at random, with all their rows; null uses all, and so do more than
    there are, which is said. A smaller number selects a subset of a larger one, and the held-out
    prompts stay the same."""
    max_prompt_tokens: Start[int] = Field(default=1024, ge=1)
    """Longest prompt, tokens, template included."""
    max_response_tokens: Start[int] = Field(default=1024, ge=1)
    """Longest real (or given) response, tokens, end of text included."""
    too_long: Start[Literal["error", "drop", "truncate"]] = "error"
    """What to do with a row beyond these limits or the model's context: refuse the data, drop the
    row, or truncate it. A truncated prompt keeps its end. A truncated response keeps its beginning
    and gets no end of text."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.held_out >= 1 and self.held_out != int(self.held_out):
            raise ValueError(
                f"held_out must be a whole number if it is over 1, got {self.held_out}"
            )
        if self.shape is not None and self.shape not in ROW_FORMATS:
            raise ValueError(f"shape must be one of {', '.join(ROW_FORMATS)}, got {self.shape!r}")
        return self


class SftConfig(Section):
    """The supervised stage before self-play; its result is p_0."""

    epochs: Training[float] = Field(default=1.0, gt=0)
    """Passes over the training prompts."""
    learning_rate: Training[float] = Field(gt=0)
    """Peak learning rate, per step."""


class GenerationConfig(Section):
    """How the opponent plays."""

    engine: Play[Literal["hf", "vllm", "given"]] = "hf"
    """`hf`: the transformers model itself, in the workers. `vllm`: vLLM (needs the extra `vllm`) in
    a separate process next to each worker, which frees the device's memory before training.
    `given`: nothing is sampled; the other response that comes with each row (`generated`,
    `rejected`) is used."""
    temperature: Play[float] = Field(default=1.0, gt=0)
    """Sampling temperature. At any value but 1 samples are not from p_t, and the results say so."""
    max_new_tokens: Start[int] = Field(default=256, ge=1)
    """Longest generated response, tokens; a response cut here gets no end of text."""
    samples_per_prompt: Play[int] = Field(default=1, ge=1)
    """Responses sampled per prompt; each makes a pair (SPIN) or a triplet (T-SPIN)."""
    batch_size: Play[int] = Field(default=32, ge=1)
    """`hf`: responses sampled together. `vllm` chooses by itself how many fit."""
    parity: Free[Literal["refuse", "warn"]] = "refuse"
    """What to do if the engine's own log-prob of a sample and the score used in training differ
    beyond rounding: refuse to train, or warn in the log. Both are computed at temperature 1
    whatever the sampling temperature is, so they are always comparable."""
    vllm_memory: Free[float] = Field(default=0.85, gt=0, le=1)
    """`vllm`: share of the free memory of the device that it may use. On CPUs ranks divide it."""
    vllm: Play[dict[str, Any]] = Field(default={})
    """`vllm`: further arguments of its engine, such as `{max_num_seqs: 64}`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in self.vllm:
            if self.engine != "vllm":
                raise ValueError(f"vllm.{name} needs engine: vllm, got {self.engine}")
            if name in VLLM_ARGUMENTS:
                raise ValueError(f"remove vllm.{name}: {VLLM_ARGUMENTS[name]}")
        # vLLM raises lower temperatures to 0.01.
        if self.engine == "vllm" and not 0.01 <= self.temperature <= 2:
            raise ValueError(
                f"engine vllm needs a temperature of 0.01 to 2, got {self.temperature}"
            )
        return self


class TrainingConfig(BaseModel):
    """The optimisation; any further TrainingArguments key passes through."""

    model_config = ConfigDict(
        frozen=True, extra="allow", use_attribute_docstrings=True, allow_inf_nan=False
    )

    batch_size: Training[int] = Field(default=64, ge=1)
    """Pairs (SPIN), triplets (T-SPIN) or rows (SFT) per optimiser step over all ranks."""
    micro_batch_tokens: Free[int] = Field(default=4096, ge=1)
    """Tokens that one rank takes through the model at once, each prompt counted once. A longer
    example goes alone. This changes memory and the order of rounding, but not what is trained."""
    micro_batch_size: Free[int | None] = Field(default=None, ge=1)
    """Most examples in one micro-batch, whatever their tokens; null sets no limit."""
    dtype: Start[Literal["float32", "bfloat16"]] = "float32"
    """Type of weights and activations; with bfloat16 DeepSpeed keeps float32 master weights."""
    optim: Training[str] = "rmsprop"
    """Optimiser, by its name in TrainingArguments."""
    lr_scheduler_type: Training[str] = "linear"
    """Learning-rate schedule within an iteration, by its name in TrainingArguments."""
    warmup_steps: Training[float] = Field(default=0.1, ge=0)
    """Warm-up: a fraction of the steps below 1, or a number of steps."""
    weight_decay: Training[float] = Field(default=0.0, ge=0)
    """Weight decay, per step."""
    router_loss: Training[float | None] = Field(default=None, ge=0)
    """Weight of the auxiliary loss that keeps the experts of a mixture equally busy. null takes the
    model's own coefficient (router_aux_loss_coef), and 0 leaves the loss out."""
    save_steps: Free[int] = Field(default=200, ge=1)
    """Optimiser steps between checkpoints; the last complete one is kept."""
    logging_steps: Free[int] = Field(default=10, ge=1)
    """Most optimiser steps between lines of metrics.jsonl; a stage has at least ten, or one per
    step."""

    @model_validator(mode="after")
    def _refuse_managed_arguments(self) -> Self:
        for key in self.model_extra or {}:
            if key in MANAGED_ARGUMENTS:
                raise ValueError(f"remove training.{key}: {MANAGED_ARGUMENTS[key]}")
        return self


class AdapterConfig(Section):
    """LoRA: train low-rank adapters, not the weights."""

    rank: Training[int] = Field(default=16, ge=1)
    """Rank of each adapter."""
    alpha: Training[int] = Field(default=32, ge=1)
    """LoRA's scale: the low-rank product is multiplied by alpha / rank."""
    target_modules: Training[str | list[str]] = "all-linear"
    """Modules that get an adapter, by the end of their name. `all-linear` is all linear layers
    except the head."""
    between: Training[Literal["merge", "stack"]] = "merge"
    """After each training stage, `merge` adds the adapter to the weights, so each policy is a whole
    model. `stack` keeps one adapter on `model`, and its rank grows by `rank` each stage. Either way
    the next iteration starts from, and plays against, everything learnt so far."""
    quantised: Start[bool] = False
    """QLoRA: `model` in 4 bits (needs CUDA, bitsandbytes and between: stack)."""


class OffloadConfig(Section):
    """What ranks keep in main memory, so that their devices have room for more."""

    optimizer: Free[Literal["cpu"] | None] = None
    """`cpu`: this rank's share of the master weights, gradients and optimiser states, and the step
    itself. Needs zero_stage 1, 2 or 3."""
    parameters: Free[Literal["cpu"] | None] = None
    """`cpu`: this rank's share of the weights, in training and with sharded_inference. Needs
    zero_stage 3."""


class SelectionConfig(Section):
    """Which policy is the best (best.json), and when to stop."""

    metric: Free[
        Literal[
            "real_nll_per_token",
            "real_logps",
            "loss",
            "margin",
            "accuracy",
            "opponent_kl",
            "meter",
            "tv_lower_bound",
        ]
    ] = "real_nll_per_token"
    """Number in evaluation.json by which policies are ranked (docs/metrics.md). `loss` and those
    listed after it are measured against a different opponent in each iteration, so they do not
    compare iterations."""
    goal: Free[Literal["min", "max"] | None] = None
    """Whether lower (`min`) or higher (`max`) is better; null means `max` for real_logps, margin
    and accuracy, and `min` for the others."""
    patience: Free[int | None] = Field(default=None, ge=1)
    """Stop after this many iterations in a row without a better policy; null plays them all."""

    @property
    def better(self) -> Literal["min", "max"]:
        """The goal, given or not.

        Returns
        -------
        str
            ``min`` or ``max``.
        """
        usual = self.metric in ("real_logps", "margin", "accuracy")
        return self.goal or ("max" if usual else "min")


class LmEvalConfig(Section):
    """Benchmarks of lm-evaluation-harness for every policy; needs the extra `eval`."""

    leaderboard: Start[Literal["v1", "tspin"] | None] = None
    """`v1`: Open LLM Leaderboard v1, as reported for SPIN. `tspin`: the ten tasks of T-SPIN. Both
    with their few-shot counts."""
    tasks: Start[list[str] | None] = None
    """Names of lm-eval tasks or groups, instead of a leaderboard."""
    num_fewshot: Start[int | None] = Field(default=None, ge=0)
    """Few-shot examples before each question of `tasks`; null uses each task's own number."""
    limit: Start[float | None] = Field(default=None, gt=0)
    """Questions per task: a number >= 1, or a fraction below 1; null uses all."""
    include_path: Start[Located | None] = None
    """Directory with your own task files (YAML)."""
    batch_size: Free[int] = Field(default=8, ge=1)
    """Questions taken through the model at once."""
    chat_template: Start[bool] = False
    """Put each question into the tokenizer's chat template."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.leaderboard is None) == (not self.tasks):
            raise ValueError("give either tasks or a leaderboard")
        if self.num_fewshot is not None and self.leaderboard:
            raise ValueError("num_fewshot belongs to tasks; a leaderboard has its own")
        return self


class AnswersConfig(Section):
    """Greedy answers of every policy to held-out prompts, by the transformers model itself."""

    final: Start[str | None] = None
    """Regular expression whose first group is the final answer, such as `#### *(.+)` for GSM8K. The
    last match in the policy's answer and in the human response must be equal, apart from spaces,
    commas, $ and a full stop. null compares nothing."""
    prompts: Start[int | None] = Field(default=None, ge=1)
    """Held-out prompts to answer; null answers all."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            groups = 1 if self.final is None else re.compile(self.final).groups
        except re.error as error:
            raise ValueError(
                f"final is not a regular expression ({error}), got {self.final!r}"
            ) from None
        if groups < 1:
            raise ValueError(f"final needs a group in brackets for the answer, got {self.final!r}")
        return self


class EvaluationConfig(Section):
    """What is measured for every policy in addition to its held-out numbers."""

    answers: Free[AnswersConfig | None] = None
    """Greedy answers to the held-out prompts, and how many are right; null decodes none. Their
    length is at most generation.max_new_tokens."""
    samples: Free[bool] = True
    """Let the last policy sample the held-out prompts as its opponents did, to be read next to
    them. It costs what the held-out part of one `generate` costs. With selection.patience, a run
    that stops early leaves it out."""
    lm_eval: Free[LmEvalConfig | None] = None
    """Benchmarks of lm-eval; null runs none."""
