"""One schema for a run: YAML in, ``key=value`` overrides, every mistake refused by name."""

import re
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spin_train.errors import UserError

__all__ = [
    "Config",
    "DataConfig",
    "GenerationConfig",
    "SftConfig",
    "TrainingConfig",
    "changed_keys",
    "flatten",
    "load_config",
    "override",
    "parse_config",
]

Schedule = float | list[float]
LossType = Literal["logistic", "hinge", "exponential", "correlation"]

# TrainingArguments that the run itself decides; given under `training` they contradict it.
_MANAGED_ARGUMENTS = {
    "bf16": "training.dtype",
    "fp16": "training.dtype",
    "data_seed": "seed",
    "deepspeed": "zero_stage",
    "eval_strategy": "data.held_out (evaluation follows every iteration)",
    "gradient_accumulation_steps": "training.batch_size and training.micro_batch_tokens",
    "learning_rate": "learning_rate at the top level",
    "max_steps": "epochs at the top level",
    "num_train_epochs": "epochs at the top level",
    "output_dir": "output_dir at the top level",
    "per_device_train_batch_size": "training.batch_size and training.micro_batch_tokens",
    "resume_from_checkpoint": "nothing: the same command resumes",
    "save_strategy": "training.save_steps",
    "save_total_limit": "nothing: the last complete checkpoint is kept",
    "seed": "seed at the top level",
    "train_sampling_strategy": "nothing: the order follows from the seed",
    "ignore_data_skip": "nothing: resuming goes on where it stopped",
    "save_only_model": "nothing: resuming needs all of a checkpoint",
    "auto_find_batch_size": "training.micro_batch_tokens",
    "remove_unused_columns": "nothing: there are none",
    "accelerator_config": "nothing: the run shares its batches out itself",
    "fsdp": "zero_stage",
    "use_cpu": "CUDA_VISIBLE_DEVICES, empty for the CPU",
}
# What may differ between a run and its resumption without changing its result.
_FREE_KEYS = {
    "iterations",
    "ranks",
    "zero_stage",
    "training.micro_batch_size",
    "training.micro_batch_tokens",
    "training.save_steps",
    "training.logging_steps",
    "training.report_to",
}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class DataConfig(_Section):
    """Where the SFT rows come from."""

    path: str
    """JSONL, JSON or Parquet file, or the name of a dataset on the hub."""
    split: str = "train"
    """Split of a hub dataset; ignored for files."""
    held_out: float = Field(default=0.02, gt=0)
    """Prompts kept out of training: a fraction below 1, or a number of prompts from 1 on."""
    max_prompt_tokens: int = Field(default=1024, ge=1)
    """Longest prompt, tokens, template included."""
    max_response_tokens: int = Field(default=1024, ge=1)
    """Longest real response, tokens, end of text included."""
    too_long: Literal["error", "drop"] = "error"
    """What happens to a row beyond these limits: refuse the data, or drop the row and count it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.held_out >= 1 and self.held_out != int(self.held_out):
            raise ValueError(f"held_out from 1 on is a number of prompts, got {self.held_out}")
        return self


class SftConfig(_Section):
    """The supervised stage before self-play; its result is p_0."""

    epochs: float = Field(default=1.0, gt=0)
    """Passes over the training prompts."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate, per step."""


class GenerationConfig(_Section):
    """How the opponent plays."""

    engine: Literal["hf"] = "hf"
    """`hf`: transformers' `generate`, one worker per rank."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature; anything but 1 is not p_t and is named in the results."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Longest generated response, tokens; a response cut here gets no end of text."""
    batch_size: int = Field(default=32, ge=1)
    """Prompts sampled together; also the rows of one shard on disk."""


class TrainingConfig(BaseModel):
    """The optimisation; any further TrainingArguments key passes through."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    batch_size: int = Field(default=64, ge=1)
    """Pairs (SPIN), triplets (T-SPIN) or rows (SFT) per optimiser step over all ranks."""
    micro_batch_tokens: int = Field(default=4096, ge=1)
    """Of these, how many tokens one rank takes through the model at once, a prompt counted once; a
    longer example goes alone. Changes memory, not meaning (but the order of rounding)."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """How many examples at most, whatever their tokens; null is no limit."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of weights and activations; with bfloat16 DeepSpeed keeps float32 master weights."""
    optim: str = "rmsprop"
    """Optimiser, by its name in TrainingArguments."""
    lr_scheduler_type: str = "linear"
    """Learning-rate schedule within an iteration, by its name in TrainingArguments."""
    warmup_steps: float = Field(default=0.1, ge=0)
    """Warm-up: a fraction of the steps below 1, or a number of steps."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay, per step."""
    save_steps: int = Field(default=200, ge=1)
    """Optimiser steps between checkpoints; the last complete one is kept."""
    logging_steps: int = Field(default=10, ge=1)
    """Optimiser steps between lines of metrics.jsonl."""

    @model_validator(mode="after")
    def _refuse_managed_arguments(self) -> Self:
        for key in self.model_extra or {}:
            if key in _MANAGED_ARGUMENTS:
                raise ValueError(f"{key} is decided by {_MANAGED_ARGUMENTS[key]}; leave it out")
        return self


class Config(_Section):
    """A whole run."""

    model: str
    """Causal language model to start from: a directory or a hub name."""
    model_revision: str | None = None
    """Commit or tag of a hub model."""
    trust_remote_code: bool = False
    """Run code that comes with a hub model. Off unless asked for."""
    template: str | None = None
    """Prompt template with one `{prompt}`; null takes the tokenizer's chat template."""
    data: DataConfig
    output_dir: str
    """Directory of the run; made, or resumed."""
    seed: int = Field(default=42, ge=0)
    """Of everything random."""
    algorithm: Literal["spin", "tspin"] = "spin"
    """`spin`: pairs, log-ratios to the opponent. `tspin`: triplets, no reference."""
    loss_type: LossType = "logistic"
    """Penalty of the loss."""
    iterations: int = Field(default=3, ge=1)
    """Self-play iterations."""
    beta: Schedule = 0.1
    """Scale on log-prob differences: SPIN's lambda, T-SPIN's alpha. Scalar or one per iteration."""
    history_weight: Schedule | None = None
    """T-SPIN's beta. Scalar or one per iteration; null is the published 0 at first, 0.1 after."""
    learning_rate: Schedule = 5e-7
    """Peak learning rate. Scalar or one per iteration."""
    epochs: Schedule = 2.0
    """Passes over the pairs. Scalar or one per iteration."""
    mixing: int = Field(default=0, ge=0)
    """How many earlier iterations' samples are added to an iteration's own (official SPIN: 1)."""
    sft: SftConfig | None = None
    """Supervised stage before self-play; null starts from `model` as it is."""
    control: bool = False
    """Train continued SFT beside every iteration: same rows, steps, optimiser, learning rate."""
    generation: GenerationConfig = GenerationConfig()
    training: TrainingConfig = TrainingConfig()
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed ZeRO stage."""
    ranks: int = Field(default=1, ge=1)
    """Worker processes, one per device."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("beta", "history_weight", "learning_rate", "epochs"):
            value = getattr(self, name)
            if isinstance(value, list) and len(value) != self.iterations:
                raise ValueError(
                    f"{name} has {len(value)} values for {self.iterations} iterations; "
                    "give one number or exactly one per iteration"
                )
            numbers = value if isinstance(value, list) else [] if value is None else [value]
            if name == "history_weight" and not all(number >= 0 for number in numbers):
                raise ValueError(f"history_weight must be >= 0, got {value!r}")
            if name != "history_weight" and not all(number > 0 for number in numbers):
                raise ValueError(f"{name} must be > 0, got {value!r}")
        if self.history_weight is not None and self.algorithm != "tspin":
            raise ValueError("history_weight belongs to algorithm: tspin; leave it out for spin")
        if self.control and self.algorithm != "spin":
            raise ValueError("control is matched to algorithm: spin alone; leave it out for tspin")
        if self.template is not None and self.template.count("{prompt}") != 1:
            raise ValueError("template must contain {prompt} exactly once")
        return self

    def at(self, name: str, iteration: int) -> float:
        """Value of a schedule (`beta`, `history_weight`, `learning_rate`, `epochs`).

        Parameters
        ----------
        name : str
            Key of the schedule.
        iteration : int
            Self-play iteration, from 0.

        Returns
        -------
        float
            The value that holds in this iteration.
        """
        value = getattr(self, name)
        if name == "history_weight" and value is None:
            return 0.0 if iteration == 0 or self.algorithm != "tspin" else 0.1
        return float(value[iteration] if isinstance(value, list) else value)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key given twice; YAML itself keeps the last, silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise UserError(f"key {key!r} is given twice (line {line}); keep one")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


# YAML 1.1, as PyYAML reads it, takes 1e-8 for a word: its numbers need a point.
_UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file and apply ``key=value`` overrides.

    Parameters
    ----------
    path : str or Path
        YAML file with the keys of `Config`.
    overrides : iterable of str, optional
        Such as ``training.batch_size=8``; the value is YAML.

    Returns
    -------
    Config
        The checked configuration.

    Raises
    ------
    UserError
        If the file is missing or no YAML, or a key is unknown, given twice, of the wrong type
        or contradicts another; the message names the key.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no config file at {path}; give the path of a YAML file")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold key: value lines, got {type(content).__name__}")
    override(content, overrides)
    return parse_config(content, source=str(path))


def parse_config(content: dict[str, Any], *, source: str = "config") -> Config:
    """Check a mapping against the schema.

    Parameters
    ----------
    content : dict
        Nested keys and values, as read from YAML.
    source : str, optional
        Where it came from, for messages.

    Returns
    -------
    Config
        The checked configuration.

    Raises
    ------
    UserError
        If a key is unknown, of the wrong type or contradicts another.
    """
    if "alpha" in content:
        raise UserError(
            f"{source}: no key alpha: T-SPIN's alpha is beta here, its beta is history_weight"
        )
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{source}: {_first_line(error)}") from None


def flatten(config: Config) -> dict[str, Any]:
    """Dotted keys and values of a configuration, defaults included.

    Parameters
    ----------
    config : Config
        A configuration.

    Returns
    -------
    dict
        Such as ``{"training.batch_size": 64}``.
    """

    def walk(prefix: str, value: Any) -> Iterable[tuple[str, Any]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            yield prefix, value

    return dict(walk("", config.model_dump()))


def changed_keys(old: Config, new: Config) -> list[str]:
    """Name the keys whose change would change what a run has already done.

    Parameters
    ----------
    old, new : Config
        The configuration of the run so far, and the one to go on with.

    Returns
    -------
    list of str
        One ``key: old -> new`` a key. More iterations, longer schedules with the same beginning,
        logging, checkpoint spacing, ranks and ZeRO stage may change; the rest may not.
    """
    before, after = flatten(old), flatten(new)
    changes = []
    for key in sorted(before.keys() | after.keys()):
        if key in _FREE_KEYS or before.get(key) == after.get(key):
            continue
        if key in ("beta", "history_weight", "learning_rate", "epochs") and all(
            old.at(key, k) == new.at(key, k) for k in range(min(old.iterations, new.iterations))
        ):
            continue
        changes.append(f"{key}: {before.get(key)!r} -> {after.get(key)!r}")
    if new.iterations < old.iterations:
        changes.append(f"iterations: {old.iterations} -> {new.iterations} (more are allowed)")
    return changes


def override(content: dict[str, Any], overrides: Iterable[str]) -> None:
    """Put ``key=value`` overrides into a mapping, in place.

    Parameters
    ----------
    content : dict
        Nested keys and values, as read from YAML.
    overrides : iterable of str
        Such as ``training.batch_size=8``; the value is YAML.

    Raises
    ------
    UserError
        If one is not key=value, or its value is no YAML.

    Examples
    --------
    >>> content = {"beta": 0.1}
    >>> override(content, ["beta=5.0", "training.batch_size=8"])
    >>> content
    {'beta': 5.0, 'training': {'batch_size': 8}}
    """
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"override {text!r} is not key=value")
        *parents, last = key.split(".")
        section = content
        for parent in parents:
            if not isinstance(section.get(parent), dict):
                section[parent] = {}
            section = section[parent]
        try:
            section[last] = yaml.load(value, Loader=_UniqueKeyLoader)
        except yaml.YAMLError:
            raise UserError(f"the value of override {text!r} is no YAML") from None


def _first_line(error: ValidationError) -> str:
    """Turn pydantic's report into one line, the most telling problem first."""
    problems = error.errors()
    for problem in problems:
        if problem["type"] == "extra_forbidden":
            key = ".".join(map(str, problem["loc"]))
            return f"unknown key {key}; `spin-train keys` lists all keys"
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"] if not str(part).startswith("list["))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"key {key} is missing"
    got = "" if first["type"] == "value_error" else f", got {first['input']!r}"
    return f"{key}: {message}{got}" if key else f"{message}{got}"
