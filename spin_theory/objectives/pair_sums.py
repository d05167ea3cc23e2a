"""Expected penalties over independent pairs of responses, without the matrix of pairs.

For SPIN the score of a response is beta times its log-ratio, for T-SPIN beta times its log-prob.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from spin_theory.losses import penalty_named
from spin_theory.objectives.derivatives import PairSum
from spin_theory.objectives.logistic_sums import logistic_pair_sum
from spin_theory.objectives.window_sums import (
    running_sums,
    running_sums_of_the_others,
    sorted_order,
)
from spin_theory.policies import pair_log_probs, pairwise_differences

__all__ = ["dense_expected_penalty", "expected_penalty", "small_expected_penalty"]

CHUNK = 2**16
"""Responses worked on together, so that what is used again is still in the cache."""


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
        :math:`\sum_{y, y'} p(y) q(y') \ell(f_y - f_{y'})` per prompt, differentiable twice in
        the scores; the second derivative takes O(Y^2) time.

    Raises
    ------
    ValueError
        If the tensors are not float64 of one shape (X, Y), a log-prob requires a gradient, or
        `loss_type` is unknown.

    Notes
    -----
    The inner sum of (4.7) of [1]_, and of both terms of (7) of [2]_. Memory O(Y). Exponential and
    correlation factorise, O(Y); hinge and logistic sort, O(Y log Y), and then add up from below and
    from above (logistic by :func:`logistic_pair_sum`), whatever the range of the scores.
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
    if loss_type not in _SUMS:
        return dense_expected_penalty(scores, log_real, log_generated, loss_type=loss_type)
    values: Tensor = PairSum.apply(scores, log_real, log_generated, loss_type, _SUMS[loss_type])  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return values


def small_expected_penalty(
    scores: Tensor, log_real: Tensor, log_generated: Tensor, *, loss_type: str
) -> Tensor:
    """Average the penalty pair by pair, with the derivatives of :func:`expected_penalty`.

    Parameters
    ----------
    scores, log_real, log_generated : Tensor, shape (X, Y)
        As for :func:`expected_penalty`.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}
        The penalty.

    Returns
    -------
    Tensor, shape (X,)
        The expected penalty of each prompt, differentiable twice in the scores.
    """
    constant = not (log_real.requires_grad or log_generated.requires_grad)
    if constant and scores.requires_grad:
        _require_tables(scores, log_real, log_generated)
        values: Tensor = PairSum.apply(
            scores, log_real, log_generated, loss_type, partial(_dense_sum, loss_type=loss_type)
        )  # type: ignore[no-untyped-call]
        return values
    return dense_expected_penalty(scores, log_real, log_generated, loss_type=loss_type)


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
    margins = pairwise_differences(scores).masked_fill(itself, 0.0)  # (X, Y, Y)
    if loss_type in _LOG_PENALTIES:
        log_terms = pair_log_probs(log_real, log_generated) + _LOG_PENALTIES[loss_type](margins)
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


def _dense_sum(
    scores: Tensor, log_real: Tensor, log_generated: Tensor, *, loss_type: str
) -> tuple[Tensor, Tensor]:
    """Values (X,) and gradient (X, Y) by automatic differentiation of the dense sum."""
    with torch.enable_grad():
        at = scores.detach().requires_grad_()
        values = dense_expected_penalty(at, log_real, log_generated, loss_type=loss_type)
        (gradient,) = torch.autograd.grad(values.sum(), at)
    return values.detach(), gradient


def _logistic_sum(scores: Tensor, log_real: Tensor, log_generated: Tensor) -> tuple[Tensor, Tensor]:
    return logistic_pair_sum(scores, log_real.exp(), log_generated.exp())


def _exponential_sum(
    scores: Tensor, log_real: Tensor, log_generated: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum p exp(-f) times sum q exp(f): values (X,) and gradient (X, Y), in log space.

    exp(-(f_y - f_y')) is a product, so that the double sum is one as well. The gradient is
    q_y exp(f_y) sum p exp(-f) - p_y exp(-f_y) sum q exp(f), a difference of two logarithms.
    """
    # Scores are taken from the response that counts most: a shift of all of them costs no digits.
    anchor = (log_real - scores).argmax(dim=-1, keepdim=True)
    shifted = scores - scores.gather(-1, anchor)
    log_real, log_generated = log_real - shifted, shifted.add_(log_generated)  # log p e^-f, q e^f
    places = torch.cat([anchor, log_generated.argmax(dim=-1, keepdim=True)], dim=-1)  # (X, 2)
    log_reals, others_real = _log_sums(log_real, places[:, :1], places)
    log_generateds, others_generated = _log_sums(log_generated, places[:, 1:], places)
    # d/df_y: sum of the pairs (y', y) minus sum of the pairs (y, y'). The pair (y, y) is in both
    # and is left out only where it is more than half of a sum: elsewhere it costs no digits.
    others_real += log_generated.gather(-1, places)
    others_generated += log_real.gather(-1, places)
    rise = log_generated.add_(log_reals).scatter_(-1, places, others_real)
    fall = log_real.add_(log_generateds).scatter_(-1, places, others_generated)
    excess, even = rise - fall, rise == fall  # one response: both -inf
    # e^rise - e^fall = sign * e^max * (1 - e^-|rise - fall|), which subtracts no large numbers.
    size = torch.maximum(rise, fall, out=rise).exp_()
    gradient = excess.abs().neg_().expm1_().copysign_(excess).mul_(size).masked_fill_(even, 0.0)
    return (log_reals + log_generateds).exp().squeeze(-1), gradient


def _log_sums(logs: Tensor, heaviest: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Log of the sum of exp(logs) (X, 1), and without each of some places, (X, 2)."""
    rest = logs.scatter(-1, heaviest, -math.inf).logsumexp(dim=-1, keepdim=True)
    log_sum = torch.logaddexp(rest, logs.gather(-1, heaviest))
    others = log_sum + torch.log1p(-(logs.gather(-1, places) - log_sum).exp())
    return log_sum, torch.where(places == heaviest, rest, others)


def _correlation_sum(
    scores: Tensor, log_real: Tensor, log_generated: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum of p_y q_y' (1 - f_y + f_y'): values (X,) and gradient (X, Y).

    The sum separates into |p| |q| - |q| sum p f + |p| sum q f, with |p| the sum of p. Scores are
    taken from a centre of each table, so that these three do not cancel.
    """
    real, generated = log_real.exp(), log_generated.exp()
    places = torch.cat([part.argmax(dim=-1, keepdim=True) for part in (real, generated)], dim=-1)
    mass_real, others_real = _sums(real, places[:, :1], places)
    mass_generated, others_generated = _sums(generated, places[:, 1:], places)
    real_centre = _centre(scores, real, mass_real, places[:, :1])
    generated_centre = _centre(scores, generated, mass_generated, places[:, 1:])
    values = (
        mass_real * mass_generated * (1 - (real_centre - generated_centre))
        - mass_generated * (scores - real_centre).mul_(real).sum(dim=-1, keepdim=True)
        + mass_real * (scores - generated_centre).mul_(generated).sum(dim=-1, keepdim=True)
    ).squeeze(-1)
    # The pair of y with itself is in both products, and left out where it would cost digits.
    others_real *= generated.gather(-1, places)
    others_generated *= real.gather(-1, places)
    gradient = generated.mul_(mass_real).sub_(real.mul_(mass_generated))
    return values, gradient.scatter_(-1, places, others_real - others_generated)


def _sums(weights: Tensor, heaviest: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of a row's weights (X, 1), and without each of some places, (X, 2)."""
    rest = weights.scatter(-1, heaviest, 0.0).sum(dim=-1, keepdim=True)
    mass = rest + weights.gather(-1, heaviest)
    return mass, torch.where(places == heaviest, rest, mass - weights.gather(-1, places))


def _centre(scores: Tensor, weights: Tensor, mass: Tensor, heaviest: Tensor) -> Tensor:
    """Weighted mean of scores (X, Y), or the score with more than half of the weight: (X, 1)."""
    mean = (weights * scores).sum(dim=-1, keepdim=True) / mass
    dominant = weights.gather(-1, heaviest) > mass / 2
    return torch.where(dominant, scores.gather(-1, heaviest), mean)


def _hinge_sum(scores: Tensor, log_real: Tensor, log_generated: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of p_y q_y' max(0, 1 - f_y + f_y'): values (X,) and gradient (X, Y)."""
    order = sorted_order(scores)
    ranked = scores.gather(-1, order)  # (X, Y), rising
    real, generated = log_real.gather(-1, order).exp_(), log_generated.gather(-1, order).exp_()
    # Sorted, y' counts for y from `first` on, as the others are more than 1 below ...
    first = _first_within_one(ranked)
    # ... so that y counts for y' up to `last`. All terms are >= 0.
    last = _running_counts(first).sub_(1)
    # The costs of y' are sum over y <= last of p_y (1 - f_y + f_y'), added up gap by gap: p of all
    # y up to `last` pays for the highest of them, p of all below a gap pays for the gap.
    mass = running_sums(real)
    lift = torch.zeros_like(ranked)
    torch.mul(ranked.diff(dim=-1), mass[:, :-1], out=lift[:, 1:])
    costs = ranked.gather(-1, last).neg_().add_(ranked).add_(1)  # of the highest y that counts
    costs.mul_(mass.gather(-1, last)).add_(running_sums(lift).gather(-1, last))
    values = costs.mul_(generated).sum(dim=-1)
    del mass, lift, costs
    # A pair that counts adds p_y q_y' to the gradient of y' and takes it from that of y.
    push = running_sums_of_the_others(real, last)
    # Seen from above, y' counts up to `first`.
    first = first.flip(dims=(-1,)).neg_().add_(scores.shape[-1] - 1)
    pull = running_sums_of_the_others(generated.flip(dims=(-1,)), first).flip(dims=(-1,))
    gradient = generated.mul_(push).sub_(real.mul_(pull))
    return values, torch.empty_like(scores).scatter_(-1, order, gradient)


def _first_within_one(ranked: Tensor) -> Tensor:
    """First of the sorted scores (X, Y) that is not more than 1 below each.

    With the rounding of the margin that the pair's own loss has, so that ties at the kink agree:
    1 + 2^-53 still rounds to 1.
    """
    up, down = ranked.new_tensor(math.inf), ranked.new_tensor(-math.inf)
    first = []
    for part in torch.split(ranked, CHUNK, dim=-1):
        lowest = (part - 1).sub_(2**-53).nextafter_(down)
        for _ in range(2):  # the lowest to count is this number, or one of the next two
            lowest = torch.where(part - lowest > 1, lowest.nextafter(up), lowest)
        first.append(torch.searchsorted(ranked, lowest))
    return torch.cat(first, dim=-1)


def _running_counts(places: Tensor) -> Tensor:
    """How many of a row's places (X, Y), each in [0, Y), are at most 0, 1, ..., Y - 1."""
    prompts, responses = places.shape
    rows = torch.arange(prompts, device=places.device)[:, None] * responses
    counts = torch.bincount((rows + places).flatten(), minlength=places.numel())
    return counts.view(prompts, responses).cumsum_(dim=-1)


_SUMS: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "logistic": _logistic_sum,
    "hinge": _hinge_sum,
    "exponential": _exponential_sum,
    "correlation": _correlation_sum,
}
"""Values and gradients of the sums by penalty; a penalty that is not here is summed densely."""

FACTORISED = frozenset({"exponential", "correlation"})
"""Penalties whose sum is a product of two, and so faster than the dense one at every size."""

_LOG_PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {"exponential": torch.neg}
"""Logarithms of penalties that may overflow for one pair although the sum does not."""
