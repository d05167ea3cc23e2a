"""Loading and saving models and tokenizers: safetensors only, no remote code unless asked for."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
)

from spin_train.config.schema import Config
from spin_train.errors import DivergedError, UserError, disk_full, one_line, out_of_memory
from spin_train.model.adapters import is_adapter, quantisation, with_adapter
from spin_train.model.checkpoint import (
    refuse_checkpoint,
    refuse_other_weights,
    refuse_quantised,
)
from spin_train.model.frequencies import longest_with_fixed_frequencies
from spin_train.model.trials import context_of
from spin_train.model.written import compare_with_disk
from spin_train.system.files import write_directory

__all__ = [
    "disk_message",
    "diverged_message",
    "empty_model",
    "ends_of_text",
    "load_model",
    "load_policy",
    "load_tokenizer",
    "model_limits",
    "save_policy",
    "teach_ends",
]

_LOG = logging.getLogger(__name__)

_NOISE_ENDINGS = ("dropout", "pdrop", "dropout_prob", "drop_rate", "layerdrop")


def _source(config: Config) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained` for `config.model`: revision and trust."""
    return {"revision": config.model_revision, "trust_remote_code": config.trust_remote_code}


def load_tokenizer(config: Config) -> Any:
    """Tokenizer of the model a run starts from, the same in all its stages (else UserError)."""
    with _reading("tokenizer", config.model):
        return AutoTokenizer.from_pretrained(config.model, **_source(config))


def load_model(
    path: str | Path, *, dtype: str, quantised: dict[str, Any] | None = None, **source: Any
) -> Any:
    """Causal language model from a directory or the hub, on the CPU, without noise in training.

    `dtype` is ``float32`` or ``bfloat16``; `source` comes from the configuration, and `quantised`
    holds the arguments that load its weights in 4 bits. UserError if no such model can be loaded,
    or the checkpoint lacks weights, holds others or is quantised itself.
    """
    refuse_checkpoint(path)
    with _reading("causal language model", path):
        settings = AutoConfig.from_pretrained(path, **source)
        refuse_quantised(path, settings.to_dict())
        _without_noise(settings)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            config=settings,
            dtype=getattr(torch, dtype),
            attn_implementation=_attention(settings),
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
            **(quantised or {}),
            **source,
        )
    model, report = loaded
    refuse_other_weights(
        path,
        missing=report["missing_keys"],
        unexpected=report["unexpected_keys"],
        mismatched=report["mismatched_keys"],
    )
    if getattr(model, "_hf_peft_config_loaded", False):  # a hub name; from_pretrained adds the base
        raise UserError(f"model: {path} is an adapter: merge it into its base first")
    _tell_whether_tied(model)
    return without_noise_in_training(model)


def empty_model(config: Config, *, device: str = "meta", layers: int | None = None) -> Any:
    """Model of a run without its weights; only `config.json` is read.

    On torch's meta device its tensors have shapes and types and no memory. On another device they
    hold random numbers, and `layers` cuts the model down. UserError if there is no `config.json`.
    """
    refuse_checkpoint(config.model)
    with _reading("causal language model", config.model):
        settings = AutoConfig.from_pretrained(config.model, **_source(config))
        refuse_quantised(config.model, settings.to_dict())
        _without_noise(settings)
        text = settings.get_text_config()
        if layers is not None:
            text.num_hidden_layers = layers
            if getattr(text, "layer_types", None):
                text.layer_types = text.layer_types[:layers]
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(
                settings,
                dtype=getattr(torch, config.training.dtype),
                attn_implementation=_attention(settings),
                trust_remote_code=config.trust_remote_code,
            )
    return without_noise_in_training(model.eval())


def _attention(settings: Any) -> str | None:
    """Name the attention to load: before transformers 5.21 Gemma 2's default leaves its cap out."""
    capped = getattr(settings.get_text_config(), "attn_logit_softcapping", None)
    return "eager" if capped else None


def _without_noise(settings: Any) -> None:
    """Set every dropout of a configuration to zero, in its parts too."""
    for name, value in list(vars(settings).items()):
        if name.endswith(_NOISE_ENDINGS) and isinstance(value, float):
            setattr(settings, name, 0.0)
        elif isinstance(value, PreTrainedConfig):
            _without_noise(value)


def _tell_whether_tied(model: Any) -> None:
    """Correct a configuration that ties a head which the checkpoint holds apart.

    transformers loads such a head as it is; other readers of the saved policy would tie it.
    """
    head, words = model.get_output_embeddings(), model.get_input_embeddings()
    config = model.config.get_text_config()
    if getattr(config, "tie_word_embeddings", False) and head is not None and words is not None:
        tied = getattr(head, "weight", None) is getattr(words, "weight", None)
        if not tied and not getattr(model, "all_tied_weights_keys", None):
            model.config.tie_word_embeddings = config.tie_word_embeddings = False


def without_noise_in_training(model: Any) -> Any:
    """Let `model.train()` change nothing that is computed; returns the model.

    Dropout is one noise of many: router jitter, sampled experts, skipped layers. What they have in
    common is that they ask for `module.training`. So training mode reaches only the model itself
    and layers under activation checkpointing, which ask it whether to keep activations.
    """
    model.train = MethodType(_train, model)
    return model


def _train(model: Any, mode: bool = True) -> Any:
    for module in model.modules():
        module.training = mode and bool(getattr(module, "gradient_checkpointing", False))
    model.training = mode
    return model


def load_policy(path: str | Path, config: Config) -> Any:
    """Model that a run starts from (`config.model`) or one that it has made (a policy directory).

    It is on the CPU in evaluation mode; a quantised one is on its device. An adapter is merged into
    `config.model`; a quantised model keeps it apart from its weights, frozen. UserError if no such
    model can be loaded.
    """
    dtype, quantised = config.training.dtype, quantisation(config.adapter)
    if path == config.model:
        return load_model(path, dtype=dtype, quantised=quantised, **_source(config))
    if is_adapter(path):
        base = load_model(config.model, dtype=dtype, quantised=quantised, **_source(config))
        return with_adapter(base, path, merge=not quantised)
    return load_model(path, dtype=dtype, trust_remote_code=config.trust_remote_code)


def model_limits(config: Config) -> tuple[int, int]:
    """Longest sequence of `config.model` in tokens, and its number of token ids.

    Where frequencies follow the length of a row, a sequence ends before they do: what a token's
    log-prob is must not depend on what comes after it.
    """
    with _reading("model", config.model):
        settings = AutoConfig.from_pretrained(config.model, **_source(config))
    text = settings.get_text_config()
    context = context_of(text) or 1_000_000
    fixed = longest_with_fixed_frequencies(text)
    if fixed is not None and fixed < context:
        _LOG.warning(
            "model: the rotary frequencies of %s depend on the length of a row beyond %d tokens, "
            "and with them the log-probs of its first tokens; rows may have so many tokens at most",
            config.model,
            fixed,
        )
        context = fixed
    return context, int(text.vocab_size)


def ends_of_text(config: Config) -> list[int]:
    """Token ids with which `config.model` ends a text, by its tokenizer and both of its settings.

    A chat model often has several, and its tokenizer names one.
    """
    ends = [load_tokenizer(config).eos_token_id]
    with _reading("model", config.model):
        settings = AutoConfig.from_pretrained(config.model, **_source(config))
        sources: list[Any] = [settings.get_text_config(), settings]
        try:
            sources.append(GenerationConfig.from_pretrained(config.model, **_source(config)))
        except OSError as error:
            if "not a valid JSON" in str(error):  # else a model without settings for generation
                raise
        for source in sources:
            found = getattr(source, "eos_token_id", None)
            ends += found if isinstance(found, list) else [found]
        # Some models write -1 where they have none.
        return sorted({int(end) for end in ends if end is not None and int(end) >= 0})


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
        raise DivergedError(diverged_message(broken[0]))
    try:
        with write_directory(path) as partial:
            model.save_pretrained(partial, state_dict=dict(state_dict))
            tokenizer.save_pretrained(partial)
            compare_with_disk(partial, model, state_dict)
    except Exception as error:
        if disk_full(error):
            raise UserError(disk_message(path)) from error
        raise


def diverged_message(name: str) -> str:
    """Say what to do about a weight that is not finite."""
    return (
        f"training ended with weights that are not finite ({name}): lower learning_rate "
        "(or beta), then start in a new output_dir"
    )


def disk_message(path: Path) -> str:
    """Say what to do about a policy that does not fit on the disk."""
    free = shutil.disk_usage(path.parent).free
    return (
        f"the disk is full: cannot write {path} ({free / 2**30:.2f} GiB free, or a file-size "
        "limit); free some space, then run the same command again"
    )


@contextmanager
def _reading(what: str, path: str | Path) -> Iterator[None]:
    """Make a UserError of whatever transformers says about files that it cannot use.

    A wrong value in them shows as an error of any type. Full memory and disks are not theirs.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if out_of_memory(error) or disk_full(error):
            raise
        raise UserError(_not_at(what, path, error)) from error


def _not_at(what: str, path: str | Path, error: BaseException) -> str:
    """Say on one line what could not be loaded, and why."""
    place = Path(path)
    local = str(path).startswith(("/", "./", "../", "~")) or isinstance(path, Path)
    if local and not place.is_dir():
        return f"model: there is no directory {path}"
    if place.is_dir() and not (place / "config.json").is_file():
        return f"model: {path} is not a model directory: it has no config.json"
    said = one_line(error, 300)
    if not isinstance(error, OSError | ValueError):  # the message of a KeyError is the key
        said = f"{type(error).__name__}: {said}"
    return f"model: no {what} at {path} ({said})"
