"""Log-probs without logits: the language-model head in chunks, value and gradient exact.

Of T scored tokens and V words no more than a chunk of the (T, V) logits is ever alive. For a hidden
state h with logits z = W h and target token t, d log p_t / d z = onehot(t) - p, so that

    grad h = g (W[t] - p W)          grad W = sum over tokens of g (onehot(t) - p) h^T

need nothing but the probabilities p and the factor g that the loss puts on this token. The chunk
that the forward pass ended with is kept for the backward pass; others are computed again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["chunked_token_logps", "replaced_forward"]

# Logits alive at once, as float32: 512 MiB on CPUs, 1 GiB where memory is quick. What fits into one
# chunk is not computed again: four triplets of benchmarks.train_step took 1.51 s at 2**25, 1.32 at
# 2**27, mixed lengths 1.55 and 1.34. Fewer tokens a micro-batch take less, whatever this says.
_CHUNK_ELEMENTS = {"cpu": 2**27, "cuda": 2**28}
# Rows of logits made probabilities at a time on CPUs: few enough to stay in the cache meanwhile.
_CACHED_ROWS = 64


def chunked_token_logps(module: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """Log-prob of each target token under the head of a model.

    Parameters
    ----------
    module : PreTrainedModel
        Whose output embeddings, soft cap and logit scale are applied.
    hidden : Tensor, shape (T, W)
        Last hidden states that predict the targets.
    targets : Tensor, shape (T,)
        Token ids.

    Returns
    -------
    Tensor, shape (T,)
        In nats; float32, or float64 for a float64 model.
    """
    head, (scale, cap) = module.get_output_embeddings(), _logit_settings(module.config)
    rows = max(1, _CHUNK_ELEMENTS.get(hidden.device.type, 2**28) // head.weight.shape[0])
    if type(head) is nn.Linear:

        def forward(hidden: Tensor) -> Tensor:
            settings = targets, scale, cap, rows
            logps: Tensor = _apply(_LinearLogps, hidden, head.weight, head.bias, *settings)
            return logps

        # Through the module's own call, whose hooks gather the weight under ZeRO-3.
        with replaced_forward(head, forward):
            logps: Tensor = head(hidden)
        return logps

    def token_logps(hidden: Tensor, targets: Tensor) -> Tensor:
        logits = _wide(head(hidden)) * scale
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        return logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)

    parameters = [parameter for parameter in head.parameters() if parameter.requires_grad]
    return _apply(_RecomputedLogps, hidden, targets, token_logps, rows, *parameters)


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a call of the module do something else, its hooks and those of engines unchanged.

    Parameters
    ----------
    module : nn.Module
        Whose `forward` is replaced within the block.
    forward : callable
        What stands in for it.

    Yields
    ------
    None
        While it is replaced.
    """
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def _apply(function: Any, *arguments: Any) -> Tensor:
    """Call an autograd function, whose `apply` torch leaves untyped."""
    out: Tensor = function.apply(*arguments)
    return out


def _logit_settings(config: Any) -> tuple[float, float | None]:
    """Factor and soft cap on the logits: Cohere multiplies, Granite divides, Gemma caps."""
    config = config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", 0) or 1)
    return float(scale), getattr(config, "final_logit_softcapping", None)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


class _LinearLogps(torch.autograd.Function):
    """A linear head, its gradients by hand."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        cap: float | None,
        rows: int,
    ) -> Tensor:
        keep = any(ctx.needs_input_grad)
        logps = []
        starts = range(0, len(hidden), rows)
        for start in starts:
            chunk = slice(start, start + rows)
            of_chunk, ctx.kept = _probs(
                hidden[chunk],
                weight,
                bias,
                targets[chunk],
                scale,
                cap,
                keep=keep and start == starts[-1],
            )
            logps.append(of_chunk)
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.settings = scale, cap, rows
        return torch.cat(logps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        scale, cap, rows = ctx.settings
        kept, ctx.kept = ctx.kept, None
        grad_hidden = torch.empty_like(hidden)
        grad_weight: Tensor | None = None
        grad_bias = None if bias is None else torch.zeros_like(bias)
        starts = range(0, len(hidden), rows)
        for start in reversed(starts):
            chunk = slice(start, start + rows)
            if kept is None:
                _, kept = _probs(hidden[chunk], weight, bias, targets[chunk], scale, cap, keep=True)
            (probs, slope), kept = kept, None
            of_target = grads[0][chunk, None] * slope * scale  # (C, 1), on the target's logit
            grad = (grads[0][chunk, None] * scale).to(hidden.dtype)
            grad_hidden[chunk] = of_target * weight[targets[chunk]] - grad * (probs @ weight)
            if ctx.needs_input_grad[1]:
                few = len(starts) == 1
                grad_weight = _minus_product(grad_weight, probs, grad * hidden[chunk], few=few)
                add = (of_target * hidden[chunk]).to(grad_weight.dtype)
                grad_weight.index_add_(0, targets[chunk], add)
            if grad_bias is not None:
                grad_bias -= (grad.T @ probs)[0]
                grad_bias.index_add_(0, targets[chunk], of_target[:, 0].to(grad_bias.dtype))
            del probs  # before the next chunk's
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def _probs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    scale: float,
    cap: float | None,
    *,
    keep: bool,
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Log-probs (C,) of the targets; if they are kept, probabilities (C, V), and the cap's slopes.

    Probabilities come times the slope of the soft cap, with that slope at the targets, (C, 1).
    """
    logits = hidden @ weight.T if bias is None else torch.addmm(bias, hidden, weight.T)
    logps, slopes = [], []
    rows = _CACHED_ROWS if logits.device.type == "cpu" else len(logits)
    for start in range(0, len(logits), rows):
        block, chosen = logits[start : start + rows], targets[start : start + rows, None]
        values = _wide(block)
        if scale != 1:
            values *= scale
        slope = None
        if cap is not None:
            slope = torch.tanh(values / cap)
            values = cap * slope
            slope = 1 - slope * slope
        largest, logit = values.amax(-1, keepdim=True), values.gather(-1, chosen)
        probs = torch.softmax(values, -1, out=values)
        # log sum exp = largest - log p(largest), and p(largest) >= 1 / V is far from underflow.
        logps.append((logit - largest + probs.amax(-1, keepdim=True).log()).squeeze(-1))
        slopes.append(torch.ones_like(logit) if slope is None else slope.gather(-1, chosen))
        if keep:
            block.copy_(probs if slope is None else probs.mul_(slope))
    return torch.cat(logps), (logits, torch.cat(slopes)) if keep else None


def _minus_product(total: Tensor | None, probs: Tensor, grads: Tensor, *, few: bool) -> Tensor:
    """Subtract probs^T grads (V, W) from a sum that is float32 at least where it has many terms."""
    if total is None and (few or probs.dtype in (torch.float32, torch.float64)):
        return (probs.T @ grads).neg_()
    if total is None:
        return -(probs.T @ grads).float()
    if total.dtype == probs.dtype:
        return total.addmm_(probs.T, grads, alpha=-1)
    return total.sub_(probs.T @ grads)


class _RecomputedLogps(torch.autograd.Function):
    """Any other head, such as one with adapters: called again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        targets: Tensor,
        token_logps: Callable[[Tensor, Tensor], Tensor],
        rows: int,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(hidden, targets, *parameters)
        ctx.settings = token_logps, rows
        pairs = zip(*(torch.split(x, rows) for x in (hidden, targets)), strict=True)
        return torch.cat([token_logps(*pair) for pair in pairs])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, targets, *parameters = ctx.saved_tensors
        token_logps, rows = ctx.settings
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        of_hidden = []
        chunks = zip(*(torch.split(x, rows) for x in (hidden, targets, grads[0])), strict=True)
        for states, wanted, grad in chunks:
            with torch.enable_grad():
                states = states.detach().requires_grad_()
                logps = token_logps(states, wanted)
            mine, *rest = torch.autograd.grad(logps, [states, *parameters], grad, allow_unused=True)
            of_hidden.append(mine)
            for total, term in zip(sums, rest, strict=True):
                if term is not None:
                    total += term
        return torch.cat(of_hidden), None, None, None, *sums
