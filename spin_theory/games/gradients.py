"""The gradient of an iteration's objective in the logits, for many small tables at once."""

from collections.abc import Callable

import torch
from torch import Tensor

from spin_theory.losses import Penalty
from spin_theory.minima.problems import InnerProblem

__all__ = ["logit_gradient"]

_SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "logistic": lambda margin: torch.sigmoid(-margin),
    "hinge": lambda margin: (margin <= 1).to(margin.dtype),
    "correlation": torch.ones_like,
}
"""|l'|, for speed: that of another penalty is differentiated automatically."""


def logit_gradient(
    problem: InnerProblem, *, betas: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    r"""Write the gradient of an iteration's objective as a function of the logits.

    Parameters
    ----------
    problem : InnerProblem
        The iteration.
    betas : Tensor, shape (X,), optional
        A beta for each prompt, > 0, no unit, in place of the problem's.

    Returns
    -------
    callable
        From logits, shape (Y, X), one column per prompt, to the gradient of each prompt's
        objective in them, of the same shape, no unit. It is differentiable in the logits and in
        the tables of the problem.

    Notes
    -----
    The objective is :math:`\sum_{i < j} W_{ij} \, \ell(t_{ij}) + W_{ji} \, \ell(-t_{ij})` with
    the margins :math:`t = D f` of scores f, D the matrix that takes differences of all pairs
    i < j; normalisers cancel. So the gradient in the logits is :math:`\beta D^T (W_{ij}
    \ell'(t_{ij}) - W_{ji} \ell'(-t_{ij}))`: two products with D and one elementwise pass, in
    which a thousand small tables cost little more than one. An SFT term of weight w adds :math:`w
    (p - p_{data})`, p the policy of the logits.

    Examples
    --------
    >>> from spin_theory.policies import TabularPolicy
    >>> data, half = (TabularPolicy.from_probs([[p, 1 - p]]) for p in (0.8, 0.5))
    >>> problem = InnerProblem(data=data, sampler=half, reference=half, beta=2.0)
    >>> logit_gradient(problem)(half.log_probs.T).T  # beta l'(0) (p_data - p_t)
    tensor([[-0.3000,  0.3000]], dtype=torch.float64)
    """
    log_weights = problem.log_pair_weights().movedim(0, -1).contiguous()  # (Y, Y, X)
    responses = len(log_weights)
    first, second = torch.triu_indices(responses, responses, 1)  # (P,) each, i < j
    pull = _pull(problem.penalty, log_weights[first, second])
    push = _pull(problem.penalty, log_weights[second, first])
    eye = torch.eye(responses, dtype=log_weights.dtype)
    differences = eye[first] - eye[second]  # D, (P, Y)
    beta = problem.beta if betas is None else betas  # (X,), along the last axis
    reference = 0.0 if problem.reference is None else problem.reference.log_probs.T

    def gradient(logits: Tensor) -> Tensor:
        margins = differences @ (beta * (logits - reference))  # (P, X)
        slope = beta * (differences.T @ (push(-margins) - pull(margins)))
        if problem.sft_weight > 0:
            slope = slope + problem.sft_weight * (
                torch.softmax(logits, dim=0) - problem.data.probs.T
            )
        return slope

    return gradient


def _pull(penalty: Penalty, log_weights: Tensor) -> Callable[[Tensor], Tensor]:
    """Weights times |l'|, as a function of the margins, all (P, X)."""
    if penalty.name == "exponential":  # which may overflow where its weight makes up for it
        return lambda margins: (log_weights - margins).exp()
    weights = log_weights.exp()
    slope = _SLOPES.get(penalty.name) or _automatic_slope(penalty)
    return lambda margins: weights * slope(margins)


def _automatic_slope(penalty: Penalty) -> Callable[[Tensor], Tensor]:
    def slope(margins: Tensor) -> Tensor:
        further = margins.requires_grad  # whether the slope is to be differentiated again
        with torch.enable_grad():
            at = margins if further else margins.detach().requires_grad_()
            values = penalty(at).sum()
            (derivative,) = torch.autograd.grad(values, at, create_graph=further)
        return -derivative

    return slope
