"""The auxiliary loss that keeps the experts of a mixture equally busy.

Without it training sends more and more tokens to few experts. It is the model's own: the function
of its module (Switch Transformers, equations 4 to 6), on the logits of its routers.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["RouterLoss", "has_experts", "router_loss"]

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "moe_k", "moe_top_k", "top_k_experts")
_FUNCTION = "load_balancing_loss_func"


def has_experts(settings: Any) -> bool:
    """Say whether a text configuration is that of a mixture of experts."""
    return (_first(settings, _EXPERTS) or 0) > 1


def router_loss(module: Any, weight: float | None = None) -> "RouterLoss | None":
    """Give the auxiliary loss of a model; None where it has none, or its weight is 0.

    `weight` is that of the configuration; None takes the model's own coefficient.
    """
    settings = module.config.get_text_config()
    experts, chosen = _first(settings, _EXPERTS), _first(settings, _CHOSEN)
    function = getattr(sys.modules[type(module).__module__], _FUNCTION, None)
    recorded = "router_logits" in (getattr(module.base_model, "_can_record_outputs", None) or {})
    if not (function and recorded and has_experts(settings) and chosen):
        return None
    own = getattr(settings, "router_aux_loss_coef", 0.0) or 0.0
    weight = own if weight is None else weight
    return RouterLoss(weight, experts, chosen, function) if weight > 0 else None


def _first(settings: Any, names: tuple[str, ...]) -> int:
    found = (getattr(settings, name, None) for name in names)
    return next((value for value in found if isinstance(value, int)), 0)


class RouterLoss:
    """The auxiliary loss of one model, taken from each forward pass that trains."""

    def __init__(
        self, weight: float, experts: int, chosen: int, function: Callable[..., Any]
    ) -> None:
        self.weight = weight
        self._experts = experts
        self._chosen = chosen
        self._function = function
        self._loss: Tensor | None = None

    def take(self, logits: Sequence[Tensor | None], lengths: Sequence[int]) -> None:
        """Compute it from the logits (tokens, experts) of each layer that has a router.

        `lengths` are those of padded rows, whose padding counts for nothing; none where tokens
        share one row.
        """
        routed = tuple(each.flatten(0, -2) for each in logits if each is not None)
        if routed[0].dtype != torch.float64:  # in bfloat16 counts above 256 are rounded
            routed = tuple(each.float() for each in routed)
        mask = None
        if lengths:
            places = torch.arange(max(lengths), device=routed[0].device)
            mask = places < torch.tensor(lengths, device=places.device)[:, None]
        loss: Tensor = self._function(routed, self._experts, self._chosen, attention_mask=mask)
        self._loss = self.weight * loss

    def taken(self) -> Tensor:
        """Give the weighted loss of the last forward pass, a scalar with its graph, once."""
        loss, self._loss = self._loss, None
        assert loss is not None, "no forward pass before"
        return loss
