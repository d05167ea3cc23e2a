"""LoRA: low-rank adapters on a policy, merged into it or stacked after every iteration.

Whatever is kept on disk, the model that plays iteration K is p_K with all it has learnt, and never
the base. `load_policy` loads either kind of policy directory, and the step-0 check compares it with
the stored scores.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spin_train.config.sections import AdapterConfig
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
# Adapters of a stacked policy: learnt before, learnt now, both together (peft's default name).
_BEFORE, _NEW, _BOTH = "before", "new", "default"


def require_adapters(adapter: AdapterConfig) -> None:
    """Refuse (UserError) adapters that cannot work here, before anything starts.

    They need peft; on a quantised base also bitsandbytes and a CUDA device.
    """
    try:
        import peft  # noqa: F401
    except ImportError:
        raise UserError("adapter needs peft: pip install 'spin-toolkit[peft]'") from None
    if not adapter.quantised:
        return
    import torch

    if not (torch.cuda.is_available() and find_spec("bitsandbytes")):
        raise UserError(
            "adapter.quantised needs a CUDA device and bitsandbytes (pip install bitsandbytes); "
            "remove it to train LoRA on unquantised weights"
        )


def is_adapter(path: str | Path) -> bool:
    """Say whether a policy directory holds an adapter, not whole weights."""
    return (Path(path) / _CONFIG).is_file()


def quantisation(adapter: AdapterConfig | None) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained` that load a quantised base in 4 bits, else none.

    Not run on a device yet.
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
    """Add what an adapter directory has learnt to the model it was trained on, which is used up.

    With `merge` the weights change; a quantised base keeps the adapter apart from its weights,
    frozen.
    """
    from peft import PeftModel

    if merge:
        return PeftModel.from_pretrained(base, str(path)).merge_and_unload()
    base.load_adapter(str(path), adapter_name=_BEFORE)
    return base.requires_grad_(False)


def attach(model: Any, adapter: AdapterConfig) -> None:
    """Put a new adapter on a policy, in place, and train nothing else.

    It changes no log-prob yet: its B is zero. UserError if no module has the name asked for.
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

    Merging: `start` is the policy at the start of the stage, and the result has whole weights.
    Stacking: `start` is the base of all stages (used up), `before` the adapter at the start of the
    stage if there was one, and the result has one adapter, as wide as those of all stages so far
    together. `state_dict` holds the weights at the end of the stage, adapters among them.
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
