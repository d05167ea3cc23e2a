"""Log-probs without logits: the language-model head in chunks, value and gradient exact.

Of T scored tokens and V words no more than one chunk of the (T, V) logits is ever alive. For a
hidden state h with logits z = W h and target token t, d log p_t / d z = onehot(t) - p, so that

    grad h = g (W[t] - p W)          grad W = sum over tokens of g (onehot(t) - p) h^T

need only the probabilities p and the factor g that the loss puts on this token. The loss of an
example depends on the log-probs of its own responses alone. So where a block of whole examples fits
into a chunk, g is known while the probabilities are there, and `chunked_loss` takes the gradient at
once: logits are computed once, unless an example is longer than a chunk may be or the head is not
plainly linear. `chunked_token_logps`, for any loss, learns g only in the backward pass: it keeps
the probabilities of its last chunk and computes the others again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spin_train.model.linear_head import linear_logps, linear_loss, most_rows, wide

__all__ = ["chunked_loss", "chunked_token_logps", "replaced_forward"]


def chunked_token_logps(module: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """Log-probs (T,) of the targets under the head of a model, with its soft cap and logit scale.

    `hidden` (T, W) are the last hidden states that predict the targets. The result is in nats and
    float32, or float64 for a float64 model.
    """
    head, (scale, cap) = module.get_output_embeddings(), _logit_settings(module.config)
    if type(head) is nn.Linear:

        def forward(hidden: Tensor) -> Tensor:
            return linear_logps(head, hidden, targets, scale, cap)

        # Through the module's own call, whose hooks gather the weight under ZeRO-3.
        with replaced_forward(head, forward):
            logps: Tensor = head(hidden)
        return logps

    def token_logps(hidden: Tensor, targets: Tensor) -> Tensor:
        logits = wide(head(hidden)) * scale  # (rows, V)
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        return logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)

    parameters = [parameter for parameter in head.parameters() if parameter.requires_grad]
    apply: Any = _RecomputedLogps.apply
    out: Tensor = apply(hidden, targets, token_logps, most_rows(head, hidden), *parameters)
    return out


def chunked_loss(
    module: Any,
    hidden: Tensor,
    targets: Tensor,
    stops: Sequence[int],
    loss: Callable[[Tensor, slice], Tensor],
) -> Tensor:
    """Sum of the losses of examples on their tokens' log-probs, its gradient taken chunk by chunk.

    `hidden` (T, W) predicts `targets` (T,), example after example; `stops` says where each
    example's tokens stop. `loss(logps, block)` is called for every block of examples, in order,
    with the log-probs (T',) of its tokens and the slice of examples that it is. It gives the sum of
    their losses, a scalar, differentiable in the log-probs and in nothing else. The result can be
    backpropagated through once.
    """
    head, (scale, cap) = module.get_output_embeddings(), _logit_settings(module.config)
    if type(head) is not nn.Linear or not torch.is_grad_enabled():
        return loss(chunked_token_logps(module, hidden, targets), slice(0, len(stops)))

    def forward(hidden: Tensor) -> Tensor:
        return linear_loss(head, hidden, targets, scale, cap, stops, loss)

    with replaced_forward(head, forward):
        total: Tensor = head(hidden)
    return total


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace what a call of the module does within the block; all hooks stay."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def _logit_settings(config: Any) -> tuple[float, float | None]:
    """Factor and soft cap on the logits: Cohere multiplies, Granite divides, Gemma caps."""
    config = config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", 0) or 1)
    return float(scale), getattr(config, "final_logit_softcapping", None)


class _RecomputedLogps(torch.autograd.Function):
    """Any other head, such as one with adapters; the backward pass calls it again."""

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
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, targets, *parameters = ctx.saved_tensors
        token_logps, rows = ctx.settings
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        of_hidden = []
        chunks = zip(*(torch.split(x, rows) for x in (hidden, targets, grads[0])), strict=True)
        for states, wanted, grad in chunks:
            # Chunk by chunk: the graph of one chunk's logits lives at a time.
            with torch.enable_grad():
                states = states.detach().requires_grad_()
                logps = token_logps(states, wanted)
            mine, *rest = torch.autograd.grad(logps, [states, *parameters], grad, allow_unused=True)
            of_hidden.append(mine)
            for total, term in zip(sums, rest, strict=True):
                if term is not None:
                    total += term
        return torch.cat(of_hidden), None, None, None, *sums
