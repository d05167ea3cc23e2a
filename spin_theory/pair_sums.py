"""Expected penalties over independent pairs of responses, without the matrix of pairs.

For SPIN the score of a response is beta times its log-ratio, for T-SPIN beta times its log-prob.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from spin_theory.logistic_sums import logistic_pair_sum
from spin_theory.losses import penalty_named

__all__ = ["dense_expected_penalty", "expected_penalty"]


def expected_penalty(
    scores: Tensor, log_real: Tensor, log_generated: Tensor, *, loss_type: str = "logistic"
) -> Tensor:
    r"""Average the penalty over independent pairs of a real and a generated response.

    Parameters
    ----------
    scores : Tensor, shape (X, Y)
        Score :math:`f_y` of each of Y responses to each of X prompts, in nats, finite, float64.
    log_real, log_generated : Tensor, shape (X, Y)
        Log-probs of the real and of the generated response, in nats, float64; constants, only
        the scores are differentiated.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`.

    Returns
    -------
    Tensor, shape (X,)
        :math:`\sum_{y, y'} p(y) q(y') \ell(f_y - f_{y'})` per prompt, differentiable once in
        the scores.

    Raises
    ------
    ValueError
        If the tensors are not float64 of one shape (X, Y), a log-prob requires a gradient, or
        `loss_type` is unknown.

    Notes
    -----
    The inner sum of (4.7) of [1]_, and of both terms of (7) of [2]_. Memory O(Y). Exponential and
    correlation factorise, O(Y); hinge sorts, O(Y log Y); logistic by :func:`logistic_pair_sum`.
    Rounding is relative to the sum itself, as no step subtracts what it has added; that of a
    gradient to the terms :math:`y \neq y'` that it sums. The exponential penalty works in log
    space: infinite only where the sum is.

    References
    ----------
    .. [1] Chen et al., "Self-Play Fine-Tuning Converts Weak Language Models to Strong
       Language Models", ICML 2024, arXiv:2401.01335v3.
    .. [2] Wang et al., "Triplets Better Than Pairs", NeurIPS 2025, arXiv:2601.08198v1.

    Examples
    --------
    >>> log_real = torch.tensor([[0.75, 0.25]], dtype=torch.float64).log()
    >>> log_generated = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    >>> scores = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    >>> expected_penalty(scores, log_real, log_generated, loss_type="correlation")
    tensor([0.5000], dtype=torch.float64)
    >>> many = torch.zeros(1, 100_000, dtype=torch.float64)  # 10^10 pairs
    >>> expected_penalty(many, many.log_softmax(-1), many.log_softmax(-1))
    tensor([0.6931], dtype=torch.float64)
    """
    _require_tables(scores, log_real, log_generated)
    penalty_named(loss_type)
    if log_real.requires_grad or log_generated.requires_grad:
        raise ValueError("log_real and log_generated must be constants, got one with a gradient")
    values: Tensor = _PairSum.apply(scores, log_real, log_generated, loss_type)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return values


def dense_expected_penalty(
    scores: Tensor, log_real: Tensor, log_generated: Tensor, *, loss_type: str = "logistic"
) -> Tensor:
    r"""Average the penalty pair by pair: what :func:`expected_penalty` is checked against.

    Parameters
    ----------
    scores, log_real, log_generated : Tensor, shape (X, Y)
        As for :func:`expected_penalty`; here the log-probs are differentiated too.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`.

    Returns
    -------
    Tensor, shape (X,)
        :math:`\sum_{y, y'} p(y) q(y') \ell(f_y - f_{y'})` per prompt.

    Raises
    ------
    ValueError
        If the tensors are not float64 of one shape (X, Y), or `loss_type` is unknown.

    Notes
    -----
    O(Y^2) time and memory. The margin of y with itself is the constant 0, not f_y - f_y, whose
    two gradients cancel but leave their rounding.

    Examples
    --------
    >>> log_probs = torch.tensor([[0.75, 0.25]], dtype=torch.float64).log()
    >>> dense_expected_penalty(torch.zeros_like(log_probs), log_probs, log_probs)  # log 2
    tensor([0.6931], dtype=torch.float64)
    """
    _require_tables(scores, log_real, log_generated)
    penalty = penalty_named(loss_type)
    itself = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    margins = (scores[:, :, None] - scores[:, None, :]).masked_fill(itself, 0.0)  # (X, Y, Y)
    if loss_type == "exponential":  # in log space, as one pair's loss may overflow
        log_terms = log_real[:, :, None] + log_generated[:, None, :] - margins
        return torch.logsumexp(log_terms, dim=(-2, -1)).exp()
    return torch.einsum("xi,xij,xj->x", log_real.exp(), penalty(margins), log_generated.exp())


def _require_tables(scores: Tensor, log_real: Tensor, log_generated: Tensor) -> None:
    tables = {"scores": scores, "log_real": log_real, "log_generated": log_generated}
    for name, table in tables.items():
        if table.dim() != 2 or table.numel() == 0 or table.shape != scores.shape:
            shapes = ", ".join(f"{name} {tuple(table.shape)}" for name, table in tables.items())
            raise ValueError(f"tables must have one shape (X, Y), got {shapes}")
        if table.dtype != torch.float64:
            raise ValueError(f"{name} must be float64, got {table.dtype}")


class _PairSum(torch.autograd.Function):
    """Expected penalty (X,) whose gradient in the scores is computed beside it, not recorded."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, scores: Tensor, log_real: Tensor, log_generated: Tensor, loss_type: str
    ) -> Tensor:
        values, gradient = _SUMS[loss_type](scores, log_real, log_generated)
        ctx.save_for_backward(scores, gradient)
        return values

    @staticmethod
    def backward(ctx: FunctionCtx, outer: Tensor) -> tuple[Tensor | None, ...]:
        scores, gradient = ctx.saved_tensors  # type: ignore[attr-defined]
        gradient = _LastDerivative.apply(scores, gradient)  # type: ignore[no-untyped-call]
        # A sum that overflows where nobody asks for it must not make 0 * inf.
        chained = torch.where(outer[:, None] == 0, 0.0, outer[:, None] * gradient)
        return chained, None, None, None


class _LastDerivative(torch.autograd.Function):
    """The gradient, as a function of the scores that refuses to be differentiated.

    `once_differentiable` does not do: where the chain before the scores is curved, as a softmax
    is, it would leave this part out of the second derivative and say nothing.
    """

    @staticmethod
    def forward(_: FunctionCtx, scores: Tensor, gradient: Tensor) -> Tensor:
        return gradient.view_as(scores)

    @staticmethod
    def backward(_: FunctionCtx, outer: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            "expected_penalty can be differentiated once; "
            "dense_expected_penalty has second derivatives"
        )


def _logistic_sum(scores: Tensor, log_real: Tensor, log_generated: Tensor) -> tuple[Tensor, Tensor]:
    return logistic_pair_sum(scores, log_real.exp(), log_generated.exp())


def _exponential_sum(
    scores: Tensor, log_real: Tensor, log_generated: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum p exp(-f) times sum q exp(f): values (X,) and gradient (X, Y), in log space."""
    # From the response that counts most, so that a shift of all scores costs no digits.
    anchor = (log_real - scores).argmax(dim=-1, keepdim=True)
    shifted = scores - scores.gather(-1, anchor)
    log_real, log_generated = log_real - shifted, log_generated + shifted
    totals = [logs.logsumexp(dim=-1, keepdim=True) for logs in (log_real, log_generated)]
    log_value = totals[0] + totals[1]
    shares = [log_real - totals[0], log_generated - totals[1]]
    # d/df_y: sum of the pairs (y', y) minus sum of the pairs (y, y'), y' != y
    rise = shares[1] + _log_of_the_others(shares[0])
    fall = shares[0] + _log_of_the_others(shares[1])
    excess = torch.where(rise == fall, 0.0, rise - fall)  # one response: both -inf
    log_size = torch.maximum(rise, fall) + torch.log(-torch.expm1(-excess.abs()))
    gradient = excess.sign() * (log_value + log_size).exp()
    return log_value.exp().squeeze(-1), torch.where(excess == 0, 0.0, gradient)


def _correlation_sum(
    scores: Tensor, log_real: Tensor, log_generated: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum of p_y q_y' (1 - f_y + f_y'): values (X,) and gradient (X, Y)."""
    real, generated = log_real.exp(), log_generated.exp()
    mass_real, mass_generated = (part.sum(dim=-1, keepdim=True) for part in (real, generated))
    real_centre, generated_centre = _centre(scores, real), _centre(scores, generated)
    values = (
        mass_real * mass_generated * (1 - (real_centre - generated_centre))
        - mass_generated * (real * (scores - real_centre)).sum(dim=-1, keepdim=True)
        + mass_real * (generated * (scores - generated_centre)).sum(dim=-1, keepdim=True)
    ).squeeze(-1)
    return values, generated * _sum_of_the_others(real) - real * _sum_of_the_others(generated)


def _centre(scores: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of scores (X, Y), or the score with more than half of the weight: (X, 1)."""
    mass = weights.sum(dim=-1, keepdim=True)
    largest, heaviest = weights.max(dim=-1, keepdim=True)
    mean = (weights * scores).sum(dim=-1, keepdim=True) / mass
    return torch.where(largest > mass / 2, scores.gather(-1, heaviest), mean)


def _hinge_sum(scores: Tensor, log_real: Tensor, log_generated: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of p_y q_y' max(0, 1 - f_y + f_y'): values (X,) and gradient (X, Y)."""
    ranked, order = scores.sort(dim=-1)
    real, generated = log_real.exp().gather(-1, order), log_generated.exp().gather(-1, order)
    responses = scores.shape[-1]
    # Sorted, y' counts from `first` on: the others are more than 1 below. All terms are >= 0.
    first = _first_within_one(ranked)
    gaps = ranked.diff(dim=-1)
    mass = _suffix_sums(generated)
    lift = torch.cat([_suffix_sums(gaps * mass[:, 1:]), torch.zeros_like(mass[:, :1])], dim=-1)
    short = 1 - (ranked - ranked.gather(-1, first))  # of the margin to the lowest that counts
    values = (real * (lift.gather(-1, first) + mass.gather(-1, first) * short)).sum(dim=-1)
    # y counts for y' up to `last`: the mirror image of `first`.
    last = responses - 1 - _first_within_one(-ranked.flip(dims=(-1,))).flip(dims=(-1,))
    here = torch.arange(responses, device=scores.device).expand_as(order)
    after = torch.cat([mass[:, 1:], torch.zeros_like(mass[:, :1])], dim=-1)
    before = torch.cat([torch.zeros_like(mass[:, :1]), real.cumsum(dim=-1)[:, :-1]], dim=-1)
    pull = _window_sums(generated, first, here - first) + after
    push = _window_sums(real, here + 1, last - here) + before
    gradient = torch.empty_like(scores).scatter_(-1, order, generated * push - real * pull)
    return values, gradient


def _first_within_one(ranked: Tensor) -> Tensor:
    """First of the sorted scores (X, Y) that is not more than 1 below each, by bisection.

    With the rounding of the margin that the pair's own loss has, so that ties at the kink agree.
    """
    responses = ranked.shape[-1]
    first = torch.zeros_like(ranked, dtype=torch.long)
    step = 1 << responses.bit_length()
    while step := step >> 1:
        trial = first + step
        below = ranked.gather(-1, (trial - 1).clamp(max=responses - 1))
        further = (trial <= responses) & (ranked - below > 1)
        first = torch.where(further, trial, first)
    return first


def _window_sums(values: Tensor, start: Tensor, length: Tensor) -> Tensor:
    """Sum values (X, Y) over [start, start + length), adding blocks of 1, 2, 4, ... only."""
    responses = values.shape[-1]
    total, size = torch.zeros_like(values), 1
    blocks = values  # sums over [i, i + size)
    while size <= responses:
        taken = (length & size) > 0
        block = blocks.gather(-1, start.clamp(max=responses - 1))
        total = total + torch.where(taken, block, 0.0)
        start = torch.where(taken, start + size, start)
        blocks = torch.cat([blocks[:, :-size] + blocks[:, size:], blocks[:, -size:]], dim=-1)
        size *= 2
    return total


def _suffix_sums(values: Tensor) -> Tensor:
    return values.flip(dims=(-1,)).cumsum(dim=-1).flip(dims=(-1,))


def _sum_of_the_others(weights: Tensor) -> Tensor:
    """Sum of a row's weights (X, Y) without each itself, to full accuracy."""
    heaviest = weights.argmax(dim=-1, keepdim=True)
    others = weights.sum(dim=-1, keepdim=True) - weights  # loses digits above half the sum
    rest = weights.scatter(-1, heaviest, 0.0).sum(dim=-1, keepdim=True)
    return others.scatter(-1, heaviest, rest)


def _log_of_the_others(log_shares: Tensor) -> Tensor:
    """Log of the sum of a row's shares (X, Y) without each itself; the shares sum to one."""
    heaviest = log_shares.argmax(dim=-1, keepdim=True)
    others = torch.log1p(-log_shares.exp().scatter(-1, heaviest, 0.0))
    rest = log_shares.scatter(-1, heaviest, -math.inf).logsumexp(dim=-1, keepdim=True)
    return others.scatter(-1, heaviest, rest)


_SUMS: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "logistic": _logistic_sum,
    "hinge": _hinge_sum,
    "exponential": _exponential_sum,
    "correlation": _correlation_sum,
}
"""Values and gradients of the sums by penalty."""
