"""Settings of DeepSpeed's engine: those of the run, and those that a user adds under `deepspeed`.

The run's own follow from its keys. What a user adds goes under them: no key of DeepSpeed has two
sources, so a value that another key of the configuration decides is refused by that key's name.
"""

import copy
from collections.abc import Mapping
from typing import Any, Literal

__all__ = ["engine_problem", "engine_settings", "offload_settings"]

_INSTEAD = {
    "train_batch_size": "training.batch_size",
    "train_micro_batch_size_per_gpu": "training.micro_batch_size or training.micro_batch_tokens",
    "gradient_accumulation_steps": "training.batch_size and training.micro_batch_tokens",
    "gradient_clipping": "training.max_grad_norm",
    "optimizer": "training.optim",
    "scheduler": "training.lr_scheduler_type",
    "bf16.enabled": "training.dtype",
    "fp16": "training.dtype",
    "amp": "training.dtype",
    "torch_autocast": "training.dtype",
    "zero_optimization.stage": "zero_stage",
    "zero_optimization.offload_optimizer.device": "offload.optimizer",
    "zero_optimization.offload_param.device": "offload.parameters",
}
"""Keys of DeepSpeed that a key of the run decides."""

_FIXED = {
    "zero_allow_untested_optimizer": "RMSprop, the published optimiser, needs it",
    "zero_force_ds_cpu_optimizer": "DeepSpeed's own optimisers are compiled on first use",
    "zero_optimization.stage3_gather_16bit_weights_on_model_save": "a policy is saved whole",
    "checkpoint.load_universal": "the same command resumes by itself",
}
"""Keys that a run needs as they are, and why."""


def engine_settings(
    zero_stage: Literal[0, 1, 2, 3],
    *,
    dtype: str = "float32",
    offload: Mapping[str, str | None] | None = None,
    further: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Make the settings of a training stage, for `TrainingArguments(deepspeed=...)`.

    `dtype` is that of the weights, `offload` the section of that name, and `further` the key
    `deepspeed`. Gradients of bfloat16 are summed over micro-batches in float32 under ZeRO 2 and 3:
    DeepSpeed has no other place for them under ZeRO 0, and another optimiser under ZeRO 1.

    Examples
    --------
    >>> engine_settings(3, further={"zero_optimization": {"overlap_comm": True}})[
    ...     "zero_optimization"
    ... ]
    {'overlap_comm': True, 'stage': 3, 'stage3_gather_16bit_weights_on_model_save': True}
    """
    zero: dict[str, Any] = {"stage": zero_stage} | offload_settings(offload)
    if zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    ours = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
    }
    usual = {}
    if dtype == "bfloat16" and zero_stage >= 2:
        usual["data_types"] = {"grad_accum_dtype": "fp32"}
    return _over(_over(usual, further or {}), ours)


def offload_settings(offload: Mapping[str, str | None] | None) -> dict[str, Any]:
    """Name in DeepSpeed's words what is kept in main memory, for `zero_optimization`."""
    words = {"optimizer": "offload_optimizer", "parameters": "offload_param"}
    return {words[key]: {"device": place} for key, place in (offload or {}).items() if place}


def engine_problem(
    zero_stage: int, offload: Mapping[str, str | None] | None, further: Mapping[str, Any]
) -> str | None:
    """Say what contradicts the rest of a configuration in `offload` or `deepspeed`, or None.

    Examples
    --------
    >>> engine_problem(2, None, {"gradient_clipping": 1.0})
    'deepspeed.gradient_clipping is decided by training.max_grad_norm: set that instead'
    """
    if offload and offload.get("optimizer") and zero_stage == 0:
        return "offload.optimizer needs the shares of ZeRO; set zero_stage to 1, 2 or 3"
    if offload and offload.get("parameters") and zero_stage != 3:
        return "offload.parameters needs shares of the weights; set zero_stage: 3"
    for key in _dotted(further):
        for name, instead in _INSTEAD.items():
            if key == name or key.startswith(f"{name}."):
                return f"deepspeed.{key} is decided by {instead}: set that instead"
        if key in _FIXED:
            return f"deepspeed.{key} cannot be changed: {_FIXED[key]}"
    for name in {name.partition(".")[0] for name in (*_INSTEAD, *_FIXED) if "." in name}:
        if name in further and not isinstance(further[name], Mapping):
            return f"deepspeed.{name} must be a mapping, got {further[name]!r}"
    return None


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the keys of all values, in the order given."""
    found: list[str] = []
    for key, value in settings.items():
        inner = _dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else []
        found += inner or [f"{prefix}{key}"]
    return found


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one tree of settings over another; where both have a value, the upper one counts."""
    merged = copy.deepcopy(dict(below))
    for key, value in above.items():
        under = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(under, Mapping)
        merged[key] = _over(under, value) if both else value  # type: ignore[arg-type]
    return merged
