"""First and second derivatives of sums over pairs, as automatic differentiation takes them."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from spin_theory.losses import penalty_named

__all__ = ["PairSum"]

HESSIAN_CELLS = 2**22
"""Pairs of responses whose second derivatives are held at a time."""


class PairSum(torch.autograd.Function):
    """Expected penalty (X,); forward computes the gradient in the scores too, in closed form."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        scores: Tensor,
        log_real: Tensor,
        log_generated: Tensor,
        loss_type: str,
        sums: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Return the values; keep the gradient for backward."""
        values, gradient = sums(scores, log_real, log_generated)
        ctx.save_for_backward(scores, gradient, log_real, log_generated)
        ctx.loss_type = loss_type  # type: ignore[attr-defined]
        return values

    @staticmethod
    def backward(ctx: FunctionCtx, outer: Tensor) -> tuple[Tensor | None, ...]:
        """Chain the gradient, which can be differentiated once more."""
        scores, *rest = ctx.saved_tensors  # type: ignore[attr-defined]
        gradient = _Gradient.apply(scores, *rest, ctx.loss_type)  # type: ignore[attr-defined, no-untyped-call]
        # A prompt of outer gradient 0 must not make 0 * inf where its sum overflows.
        chained = (outer[:, None] * gradient).masked_fill_(outer[:, None] == 0, 0.0)
        return chained, None, None, None, None


class _Gradient(torch.autograd.Function):
    """The gradient as a function of the scores, (X, Y); backward multiplies by the Hessian."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        scores: Tensor,
        gradient: Tensor,
        log_real: Tensor,
        log_generated: Tensor,
        loss_type: str,
    ) -> Tensor:
        ctx.save_for_backward(scores, log_real, log_generated)
        ctx.loss_type = loss_type  # type: ignore[attr-defined]
        return gradient.view_as(scores)

    @staticmethod
    def backward(ctx: FunctionCtx, outer: Tensor) -> tuple[Tensor | None, ...]:
        scores, *tables = ctx.saved_tensors  # type: ignore[attr-defined]
        name: str = ctx.loss_type  # type: ignore[attr-defined]
        product = _hessian_product(scores, tables[0], tables[1], outer.detach(), name)
        last: Tensor = _LastDerivative.apply(scores, outer, product)  # type: ignore[no-untyped-call]
        return last, None, None, None, None


class _LastDerivative(torch.autograd.Function):
    """A second derivative as a function of its inputs; differentiating it raises an error.

    `once_differentiable` does not do: where the chain before the scores is curved, as a softmax
    is, it would leave this part out of the next derivative and say nothing.
    """

    @staticmethod
    def forward(_: FunctionCtx, scores: Tensor, outer: Tensor, product: Tensor) -> Tensor:
        return product.view_as(scores)

    @staticmethod
    def backward(_: FunctionCtx, outer: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError("an expected penalty can be differentiated only twice")


def _hessian_product(
    scores: Tensor, log_real: Tensor, log_generated: Tensor, vector: Tensor, loss_type: str
) -> Tensor:
    """Multiply the Hessian in the scores by a vector, (X, Y): O(Y^2) time, O(Y) memory.

    A pair curves the sum by C_ij = p_i q_j l''(f_i - f_j), and the Hessian is the graph Laplacian
    of C + C^T. Penalties state l'' to all digits, which automatic differentiation loses at far
    margins; at a kink it counts as 0.
    """
    penalty, products = penalty_named(loss_type), []
    rows = max(1, HESSIAN_CELLS // scores.numel())
    for part in torch.split(torch.arange(scores.shape[-1]), rows):
        margins = scores[:, part, None] - scores[:, None, :]  # (X, rows, Y)
        pairs = log_real[:, part, None] + log_generated[:, None, :]
        reverse = log_generated[:, part, None] + log_real[:, None, :]
        curvature = (pairs + penalty.log_derivatives(margins)[1]).exp()
        curvature += (reverse + penalty.log_derivatives(-margins)[1]).exp()
        products.append((curvature * (vector[:, part, None] - vector[:, None, :])).sum(dim=-1))
    return torch.cat(products, dim=-1)
