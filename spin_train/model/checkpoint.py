"""Which checkpoints a run can start from: said of the files alone, before any weight is read."""

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from spin_train.errors import UserError

__all__ = ["QUANTISED", "refuse_checkpoint", "refuse_other_weights", "refuse_quantised"]

QUANTISED = ("quantization_config", "compression_config", "quantization")  # the last: MLX
"""Keys of a configuration that say that the weights are quantised."""

_TRAINED_TYPES = {"F64", "F32", "F16", "BF16"}  # as safetensors calls them
_NAMED = 3  # tensors of a kind that a message names


def refuse_checkpoint(path: str | Path) -> None:
    """Raise UserError if a local `path` holds what no run can start from; a hub name passes.

    That is a GGUF file, an adapter without its base, or quantised weights.
    """
    place = Path(path)
    if place.suffix == ".gguf":
        raise UserError(_gguf_message(place))
    if not place.is_dir():
        return
    config = place / "config.json"
    if (place / "adapter_config.json").is_file():
        raise UserError(
            f"model: {path} is an adapter, not a whole model; merge it first: python -c "
            f"\"from peft import AutoPeftModelForCausalLM as M; M.from_pretrained('{path}')"
            ".merge_and_unload().save_pretrained('MERGED')\", and copy the tokenizer"
        )
    files = sorted(place.glob("*.gguf"))
    if files and not any(place.glob("*.safetensors")):
        raise UserError(_gguf_message(files[0]))
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # loading says what is wrong with it
        return
    if isinstance(settings, dict):
        refuse_quantised(path, settings)
        _refuse_attention(path, settings)
    if (place / "hf_quant_config.json").is_file():  # as NVIDIA's ModelOpt writes it
        raise UserError(_quantised_message(path, "hf_quant_config.json"))
    _refuse_narrow_weights(place)


def refuse_quantised(path: str | Path, settings: Mapping[str, Any]) -> None:
    """Raise UserError if a model's configuration, or a part of it, says that it is quantised."""
    for key in QUANTISED:
        if settings.get(key):
            method = settings[key].get("quant_method", "") if _is_mapping(settings[key]) else ""
            raise UserError(_quantised_message(path, method or key))
    for part in settings.values():
        if _is_mapping(part):
            refuse_quantised(path, part)


def refuse_other_weights(
    path: str | Path,
    *,
    missing: Iterable[str],
    unexpected: Iterable[str],
    mismatched: Iterable[tuple[str, Any, Any]],
) -> None:
    """Raise UserError unless a checkpoint holds a model's weights, no more and no fewer.

    The names are those that `from_pretrained` reports: tied weights and buffers that are computed
    do not count. `mismatched` holds name, shape in the checkpoint and shape in the model.
    """
    shapes = [
        f"{name} is {tuple(there)} and the model needs {tuple(wanted)}"
        for name, there, wanted in sorted(mismatched, key=str)
    ]
    problems = [
        f"{what} {_named(names)}"
        for what, names in (
            ("it lacks", sorted(missing)),
            ("it holds, and the model does not use,", sorted(unexpected)),
            ("of another shape:", shapes),
        )
        if names
    ]
    if problems:
        raise UserError(
            f"model: the weights at {path} are not those of its config.json: {'; '.join(problems)}."
            " Training would start from random numbers or leave weights out; give a whole causal "
            "language model with its own config.json"
        )


def _quantised_message(path: str | Path, method: str) -> str:
    return (
        f"model: {path} is quantised ({method}): its weights cannot be trained and saved as they "
        "are; start from the checkpoint that it was quantised from, or from a copy in bfloat16 "
        "(for LoRA on 4 bits: adapter.quantised=true on such a one)"
    )


def _refuse_attention(path: str | Path, settings: Mapping[str, Any]) -> None:
    """Raise UserError if config.json asks for attention that no run takes."""
    for key in ("attn_implementation", "_attn_implementation"):
        if settings.get(key) not in (None, "eager", "sdpa"):
            raise UserError(
                f"model: the config.json of {path} asks for {key}={settings[key]!r}, and runs "
                f"choose the attention themselves: remove {key} from it"
            )


def _refuse_narrow_weights(folder: Path) -> None:
    """Raise UserError if weights are stored in fewer bits than they are trained in.

    Without their scales, and whatever config.json says, their numbers are not the model's. Buffers,
    such as masks, may have any type.
    """
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - no mapping
                    kind = tensors.get_slice(name).get_dtype()
                    if name.endswith("weight") and kind not in _TRAINED_TYPES:
                        raise UserError(_quantised_message(folder, f"{name} is stored as {kind}"))
        except (OSError, SafetensorError):  # loading says what is wrong with it
            continue


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _gguf_message(file: Path) -> str:
    return (
        f"model: {file} is a GGUF file, whose weights cannot be trained as they are; convert it: "
        f"spin-train convert {shlex.quote(str(file))} MODEL, then model=MODEL"
    )
