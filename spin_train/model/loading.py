"""Loading and saving models and tokenizers: safetensors only, no remote code unless asked for."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from spin_train.config.schema import Config
from spin_train.errors import DivergedError, UserError, disk_full, one_line
from spin_train.model.adapters import is_adapter, quantisation, with_adapter
from spin_train.system.files import write_directory

__all__ = [
    "ends_of_text",
    "load_model",
    "load_policy",
    "load_tokenizer",
    "model_limits",
    "save_policy",
    "teach_ends",
]

_DROPOUT_ENDINGS = ("dropout", "pdrop", "dropout_prob", "drop_rate")


def _source(config: Config) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained` for `config.model`: revision and trust."""
    return {"revision": config.model_revision, "trust_remote_code": config.trust_remote_code}


def load_tokenizer(config: Config) -> Any:
    """Tokenizer of the model a run starts from, the same in all its stages (else UserError)."""
    try:
        return AutoTokenizer.from_pretrained(config.model, **_source(config))
    except (OSError, ValueError) as error:
        raise UserError(_not_at("tokenizer", config.model, error)) from None


def load_model(path: str | Path, *, dtype: str, **source: Any) -> Any:
    """Causal language model from a directory or the hub, on the CPU, every dropout at zero.

    `dtype` is ``float32`` or ``bfloat16``; `source` comes from the configuration. UserError if no
    such model can be loaded.
    """
    try:
        settings = AutoConfig.from_pretrained(path, **source)
        dropouts = {
            name: 0.0
            for name, value in settings.to_dict().items()
            if name.endswith(_DROPOUT_ENDINGS) and isinstance(value, float)
        }
        # Before transformers 5.21 Gemma 2 takes torch's own attention, which leaves its cap out.
        capped = getattr(settings.get_text_config(), "attn_logit_softcapping", None)
        return AutoModelForCausalLM.from_pretrained(
            path,
            dtype=getattr(torch, dtype),
            attn_implementation="eager" if capped else None,
            use_safetensors=True,
            **dropouts,
            **source,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(_not_at("causal language model", path, error)) from None


def load_policy(path: str | Path, config: Config) -> Any:
    """Model that a run starts from (`config.model`) or one that it has made (a policy directory).

    It is on the CPU in evaluation mode; a quantised one is on its device. An adapter is merged into
    `config.model`; a quantised model keeps it apart from its weights, frozen. UserError if no such
    model can be loaded.
    """
    dtype, quantised = config.training.dtype, quantisation(config.adapter)
    if path == config.model:
        return load_model(path, dtype=dtype, **_source(config), **quantised)
    if is_adapter(path):
        base = load_model(config.model, dtype=dtype, **_source(config), **quantised)
        return with_adapter(base, path, merge=not quantised)
    return load_model(path, dtype=dtype, trust_remote_code=config.trust_remote_code)


def model_limits(config: Config) -> tuple[int, int]:
    """Longest sequence of `config.model` in tokens, and its number of token ids."""
    try:
        settings = AutoConfig.from_pretrained(config.model, **_source(config))
    except (OSError, ValueError) as error:
        raise UserError(_not_at("model", config.model, error)) from None
    text = settings.get_text_config()
    context = getattr(text, "max_position_embeddings", None)
    return int(context or 1_000_000), int(text.vocab_size)


def ends_of_text(config: Config) -> list[int]:
    """Token ids with which `config.model` ends a text, by its tokenizer and both of its settings.

    A chat model often has several, and its tokenizer names one.
    """
    ends = [load_tokenizer(config).eos_token_id]
    settings = AutoConfig.from_pretrained(config.model, **_source(config))
    sources: list[Any] = [settings.get_text_config(), settings]
    with suppress(OSError):  # a model without settings for generation
        sources.append(GenerationConfig.from_pretrained(config.model, **_source(config)))
    for source in sources:
        found = getattr(source, "eos_token_id", None)
        ends += found if isinstance(found, list) else [found]
    return sorted({int(end) for end in ends if end is not None})


def teach_ends(model: Any, ends: Sequence[int]) -> None:
    """Let a model's settings for generation name the tokens that end a text, as servers read them.

    A base model that has learnt the end of a chat template's turn would never stop otherwise.
    """
    settings = getattr(model, "generation_config", None)
    if settings is None:
        return
    settings.eos_token_id = ends[0] if len(ends) == 1 else list(ends)
    try:
        settings.validate(strict=True)
    except ValueError:  # a temperature or top-p without sampling, which could not be saved
        settings.do_sample = True


def save_policy(model: Any, state_dict: dict[str, Any], tokenizer: Any, path: Path) -> None:
    """Write a policy directory whole or not at all: safetensors, configuration, tokenizer.

    `state_dict` holds the full weights of the unwrapped model; where one is not finite, that is a
    DivergedError. A full disk is a UserError.
    """
    broken = [name for name, value in state_dict.items() if not value.isfinite().all()]
    if broken:
        raise DivergedError(
            f"training ended with weights that are not finite ({broken[0]}): lower learning_rate "
            "(or beta), then start in a new output_dir"
        )
    try:
        with write_directory(path) as partial:
            model.save_pretrained(partial, state_dict=state_dict)
            tokenizer.save_pretrained(partial)
    except Exception as error:
        if disk_full(error):
            raise UserError(_disk_message(path)) from error
        raise


def _disk_message(path: Path) -> str:
    free = shutil.disk_usage(path.parent).free
    return (
        f"the disk is full: cannot write {path} ({free / 2**30:.2f} GiB free, or a file-size "
        "limit); free some space, then run the same command again"
    )


def _not_at(what: str, path: str | Path, error: BaseException) -> str:
    """Say on one line what could not be loaded, and why."""
    place = Path(path)
    local = str(path).startswith(("/", "./", "../", "~")) or isinstance(path, Path)
    if local and not place.is_dir():
        return f"model: there is no directory {path}"
    if place.is_dir() and not (place / "config.json").is_file():
        return f"model: {path} is not a model directory: it has no config.json"
    return f"model: no {what} at {path} ({one_line(error, 300)})"
