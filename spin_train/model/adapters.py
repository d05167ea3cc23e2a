"""LoRA: low-rank adapters on a policy, merged into it or stacked after every iteration.

Whatever is kept on disk, the model that plays iteration K is p_K with all it has learnt, and never
the base: `load_policy` loads either kind of policy directory, and the step-0 check holds it to the
stored scores.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spin_train.config.schema import AdapterConfig
from spin_train.errors import UserError, one_line

if TYPE_CHECKING:  # the driver asks for `require_adapters` alone, and starts without torch
    from torch import Tensor

__all__ = [
    "attach",
    "is_adapter",
    "quantisation",
    "require_adapters",
    "with_adapter",
    "write_learnt",
]

_CONFIG = "adapter_config.json"
# What a stacked policy had learnt, what it learns now, and both: peft's name for the only one.
_BEFORE, _NEW, _BOTH = "before", "new", "default"


def require_adapters(adapter: AdapterConfig) -> None:
    """Refuse adapters that cannot be had here, before anything starts.

    Parameters
    ----------
    adapter : AdapterConfig
        The run's.

    Raises
    ------
    UserError
        If peft is missing; for a quantised base, if bitsandbytes or a CUDA device is.
    """
    try:
        import peft  # noqa: F401
    except ImportError:
        raise UserError("adapter: needs peft; pip install -e '.[peft]'") from None
    if not adapter.quantised:
        return
    import torch

    if not (torch.cuda.is_available() and find_spec("bitsandbytes")):
        raise UserError(
            "adapter.quantised needs a CUDA device and bitsandbytes (pip install bitsandbytes); "
            "leave it out for LoRA on whole weights"
        )


def is_adapter(path: str | Path) -> bool:
    """Say whether a policy directory holds an adapter, not whole weights.

    Parameters
    ----------
    path : str or Path
        A policy directory, or a hub name.

    Returns
    -------
    bool
        Whether peft's configuration lies there.
    """
    return (Path(path) / _CONFIG).is_file()


def quantisation(adapter: AdapterConfig | None) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained` that load the base in 4 bits. Not run here.

    Parameters
    ----------
    adapter : AdapterConfig or None
        The run's.

    Returns
    -------
    dict
        Empty unless `quantised`.
    """
    if adapter is None or not adapter.quantised:
        return {}
    import torch
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {
        "quantization_config": settings,
        "device_map": {"": torch.cuda.current_device()},
    }


def with_adapter(base: Any, path: str | Path, *, merge: bool = True) -> Any:
    """Model with what an adapter directory has learnt.

    Parameters
    ----------
    base : PreTrainedModel
        The model the adapter was trained on; used up.
    path : str or Path
        The adapter.
    merge : bool, default True
        Add it to the weights; a quantised base keeps it beside them, frozen.

    Returns
    -------
    PreTrainedModel
        Computes the adapted policy.
    """
    from peft import PeftModel

    if merge:
        return PeftModel.from_pretrained(base, str(path)).merge_and_unload()
    base.load_adapter(str(path), adapter_name=_BEFORE)
    return base.requires_grad_(False)


def attach(model: Any, adapter: AdapterConfig) -> None:
    """Put a new adapter on a model, in place; nothing else is trained.

    Parameters
    ----------
    model : PreTrainedModel
        The policy at the start of a training stage.
    adapter : AdapterConfig
        Its rank, scale and places. A new adapter changes no log-prob: its B is zero.

    Raises
    ------
    UserError
        If the model has no module of that name.
    """
    try:
        model.add_adapter(_lora(adapter), _NEW)
    except ValueError as error:
        raise UserError(f"adapter.target_modules: {one_line(error)}") from None
    if _BEFORE in model.peft_config:
        model.set_adapter([_BEFORE, _NEW])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(f".{_NEW}." in name)


def write_learnt(
    start: Any,
    before: str | Path | None,
    adapter: AdapterConfig,
    state_dict: "dict[str, Tensor]",
) -> Any:
    """Put what a stage has learnt on the model it started from.

    Parameters
    ----------
    start : PreTrainedModel
        Merging: the policy at the start of the stage, merged. Stacking: the base of all; used up.
    before : str, Path or None
        Stacking: the adapter at the start of the stage, if there was one.
    adapter : AdapterConfig
        The run's.
    state_dict : dict
        Weights at the end of the stage, adapters among them.

    Returns
    -------
    PreTrainedModel or PeftModel
        Merging: whole weights. Stacking: one adapter, as wide as all stages so far together.
    """
    from peft import PeftModel, get_peft_model, set_peft_model_state_dict

    stacked = before is not None
    if stacked:
        model = PeftModel.from_pretrained(start, str(before), adapter_name=_BEFORE)
        model.add_adapter(_NEW, _lora(adapter))
    else:
        model = get_peft_model(start, _lora(adapter), adapter_name=_BOTH)
    learnt = {
        f"base_model.model.{name.replace(f'.{_NEW}.', '.')}": tensor
        for name, tensor in state_dict.items()
        if f".{_NEW}." in name
    }
    outcome: Any = set_peft_model_state_dict(model, learnt, _NEW if stacked else _BOTH)
    if not learnt or outcome.unexpected_keys:
        raise RuntimeError(f"adapter weights do not fit: {outcome.unexpected_keys[:3]}")
    if adapter.between == "merge":
        return model.merge_and_unload()
    if stacked:
        model.add_weighted_adapter([_BEFORE, _NEW], [1.0, 1.0], _BOTH, combination_type="cat")
        model.delete_adapter(_BEFORE)
        model.delete_adapter(_NEW)
        model.set_adapter(_BOTH)
    return model


def _lora(adapter: AdapterConfig) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        target_modules=adapter.target_modules,
        lora_dropout=0.0,  # the opponent's scores hold no dropout either
        bias="none",
        task_type="CAUSAL_LM",
    )
