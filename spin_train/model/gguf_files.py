"""GGUF files: their weights, taken out of their few bits, as a model directory to train from."""

import importlib.util
import logging
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from spin_train.errors import UserError, disk_full, one_line
from spin_train.model.checkpoint import refuse_other_weights
from spin_train.system.files import write_directory

__all__ = ["convert"]

_LOG = logging.getLogger(__name__)


def convert(file: Path, out: Path) -> Path:
    """Write the model of a GGUF file as a directory: float32 safetensors, config, tokenizer.

    The numbers are those that the file's few bits stand for; the digits that it does not hold are
    lost. UserError if `out` exists, the package gguf is missing, or transformers cannot read the
    file.
    """
    if out.exists():
        raise UserError(f"{out} exists already: give a new directory, or use it as it is")
    if not file.is_file():
        raise UserError(f"there is no file {file}")
    if importlib.util.find_spec("gguf") is None:
        raise UserError(
            "to read a GGUF file the package gguf is needed, which is not installed: "
            "pip install 'spin-toolkit[gguf]'"
        )
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    # Where transformers can keep the few bits as they are, it is told not to.
    keeps = getattr(transformers, "GgufConfig", None)
    more = {"quantization_config": keeps(dequantize=True)} if keeps else {}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            **source, **more, dtype=torch.float32, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(**source)
    except (OSError, ValueError, LookupError, TypeError, NotImplementedError) as error:
        raise UserError(f"{file}: transformers cannot read it ({one_line(error, 300)})") from None
    model, report = loaded
    refuse_other_weights(
        file,
        missing=report["missing_keys"],
        unexpected=report["unexpected_keys"],
        mismatched=report["mismatched_keys"],
    )
    _take_end_of_text(tokenizer, file)
    if tokenizer.chat_template is None:
        _LOG.warning("%s has no chat template: set template in the config of a run", file)
    # A run refuses a config that says that the weights are quantised; they are so no longer.
    vars(model.config).pop("quantization_config", None)
    try:
        with write_directory(out) as partial:
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
    except OSError as error:
        if not disk_full(error):
            raise
        raise UserError(f"the disk is full: cannot write {out}; free some space") from error
    return out


def _take_end_of_text(tokenizer: Any, file: Path) -> None:
    """Let the tokenizer end a text as the file says: transformers before 5.18 may not."""
    from gguf import GGUFReader

    field = GGUFReader(file).get_field("tokenizer.ggml.eos_token_id")
    if field is not None and tokenizer.eos_token_id != int(field.contents()):
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(int(field.contents()))
