"""Newton's method for expected penalties over pairs: the scores that minimise them."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spin_theory.losses import PENALTIES, penalty_named
from spin_theory.minima.circuits import potentials
from spin_theory.minima.sft_term import SftTerm
from spin_theory.policies import pairwise_differences
from spin_theory.tolerances import NEWTON_STALL, NEWTON_STEP

__all__ = ["Stationary", "UnsolvedError", "log_pulls", "newton", "require_newton"]

Array = NDArray[np.float64]

MAX_STEPS = 2000  # Newton takes about one step per nat of log-ratio: 59 at probabilities of 1e-12
LARGEST_STEP = 3.0  # of a margin in one step, in nats; undamped steps stay below it in practice
SMALLEST_PIVOT = 1e-2  # of a Hessian with diagonal 1: at 1e-4 rounding moved scores by 2e-10
CACHED_PAIRS = 2**15  # that prompts are solved together for: what stays in a core's cache


class UnsolvedError(ValueError):
    """A minimum that a search did not reach, or that does not exist."""


@dataclass(frozen=True)
class Stationary:
    """Where :func:`newton` ended.

    Attributes
    ----------
    scores : Tensor, shape (X, Y)
        The scores, of mean 0 per prompt.
    gradient : Tensor, shape (X, Y)
        Gradient of the sum in the scores; 0 at a minimum.
    steps : int
        Steps taken for the prompt that needed most.
    solved : bool, default True
        Whether every prompt ended because its steps became rounding, not because there were too
        many of them or numbers outgrew float64.
    """

    scores: Tensor
    gradient: Tensor
    steps: int
    solved: bool = True

    def require_solved(self) -> "Stationary":
        """Return itself, or raise UnsolvedError where the search stopped early."""
        if not self.solved:
            raise UnsolvedError(
                f"Newton's method did not reach the minimum in {self.steps} steps: the "
                "probabilities are too far apart for float64"
            )
        return self


def newton(
    log_weights: Tensor,
    *,
    loss_type: str,
    start: Tensor | None = None,
    sft: SftTerm | None = None,
) -> Stationary:
    r"""Minimise an expected penalty over all scores.

    Parameters
    ----------
    log_weights : Tensor, shape (X, Y, Y)
        Log of the weight :math:`W_{ij}` of the margin :math:`f_i - f_j`, in nats, float64;
        minus infinity where a pair does not occur.
    loss_type : {'logistic', 'exponential'}
        The penalty :math:`\ell`; any that is bounded below and has no kinks.
    start : Tensor, shape (X, Y), optional
        Scores to start from, no unit; 0 by default.
    sft : SftTerm, optional
        What is added to the sum, if anything.

    Returns
    -------
    Stationary
        Minimising scores of :math:`\sum_{ij} W_{ij} \, \ell(f_i - f_j)`. The solver raises
        nothing when it stops early; `solved` says so, and the gradient how far it came.

    Raises
    ------
    ValueError
        If the penalty does not suit Newton's method.

    Notes
    -----
    The sum is convex in the scores. The Hessian, a weighted graph Laplacian, is scaled to a
    unit diagonal; where that is still singular up to rounding, as with two groups of responses
    that hardly meet, :func:`potentials` solves it. The pairs i = j are left out of the gradient,
    where they would cancel and cost digits. Each prompt stops by itself; the method knows the
    penalties' derivatives and no closed form.

    Examples
    --------
    >>> weights = torch.tensor([[[0.0, 0.8], [0.2, 0.0]]], dtype=torch.float64)
    >>> newton(weights.log(), loss_type="logistic").scores  # +- log(0.8/0.2) / 2
    tensor([[ 0.6931, -0.6931]], dtype=torch.float64)
    """
    require_newton(loss_type)
    prompts, responses = log_weights.shape[:2]
    if start is None:
        start = log_weights.new_zeros(prompts, responses)
    rows = max(1, CACHED_PAIRS // responses**2)
    groups = [slice(first, first + rows) for first in range(0, prompts, rows)]
    with torch.no_grad(), np.errstate(all="ignore"):  # `solved` says what left float64
        parts = [
            _newton(
                log_weights[group].detach().clone(),
                start[group].detach().clone(),
                loss_type,
                None if sft is None else sft.rows(group),
            )
            for group in groups
        ]
    return Stationary(
        scores=torch.cat([part.scores for part in parts]),
        gradient=torch.cat([part.gradient for part in parts]),
        steps=max(part.steps for part in parts),
        solved=all(part.solved for part in parts),
    )


def _newton(log_weights: Tensor, scores: Tensor, loss_type: str, sft: SftTerm | None) -> Stationary:
    """Minimise for some prompts; the tensors are overwritten."""
    log_weights.diagonal(dim1=-2, dim2=-1).fill_(-math.inf)
    prompts, responses = scores.shape
    active, solved = torch.arange(prompts if responses > 1 else 0), True
    last, steps = np.full(prompts, math.inf), 0  # reach of the step before, (A,)
    # The SFT term bends where log-probs do, which are the scores over beta.
    longest = LARGEST_STEP if sft is None else LARGEST_STEP * min(1.0, sft.beta)
    # Of the active prompts: (A, Y), (A, Y, Y).
    at, kept, term = scores, log_weights, sft
    both = torch.logaddexp(kept, kept.mT)
    while steps < MAX_STEPS and len(active) > 0:
        direction = _direction(at, kept, both, loss_type, term)
        reach = direction.max(axis=-1) - direction.min(axis=-1)  # the most a margin moves
        lost = ~np.isfinite(reach)  # beyond float64: such a prompt stays where it is
        if lost.any():
            solved, direction[lost], reach[lost] = False, 0.0, 0.0
        at += torch.from_numpy(direction * np.minimum(longest / reach, 1.0)[:, None])
        # Where a small step does not halve the last one it is no longer quadratic: only
        # rounding is left.
        halved = np.where(last < NEWTON_STALL, last / 2, math.inf)
        unfinished = (reach > NEWTON_STEP) & (reach <= halved)
        last, steps = reach, steps + 1
        if not unfinished.all():
            if at is not scores:
                scores[active] = at
            still = torch.from_numpy(unfinished)
            active, at, last = active[still], at[still], last[unfinished]
            kept, both = kept[still], both[still]
            term = None if term is None else term.rows(still)
    if at is not scores:
        scores[active] = at
    scores -= scores.mean(dim=-1, keepdim=True)
    pulls = log_pulls(scores, log_weights, loss_type, sft)[0].exp()
    gradient = pulls.sum(dim=-2) - pulls.sum(dim=-1)
    solved = solved and len(active) == 0 and bool(gradient.isfinite().all())
    return Stationary(scores, gradient, steps, solved)


def log_pulls(
    scores: Tensor, log_weights: Tensor, loss_type: str, sft: SftTerm | None = None
) -> tuple[Tensor, Tensor]:
    r"""First and second derivatives of each pair's term.

    Parameters
    ----------
    scores : Tensor, shape (X, Y)
        No unit.
    log_weights : Tensor, shape (X, Y, Y)
        Log of the pairs' weights, in nats.
    loss_type : {'logistic', 'exponential'}
        The penalty :math:`\ell`.
    sft : SftTerm, optional
        What is added to the sum, if anything.

    Returns
    -------
    log_pull, log_curvature : Tensor, shape (X, Y, Y)
        Log of :math:`W_{ij} |\ell'(f_i - f_j)|` and of :math:`W_{ij} \, \ell''(f_i - f_j)`,
        with the pairs of an SFT term and half of its curvature, as a pair counts both ways.
    """
    margins = pairwise_differences(scores)
    log_slope, log_curvature = penalty_named(loss_type).log_derivatives(margins)
    log_pull, log_curvature = log_weights + log_slope, log_weights + log_curvature
    if sft is not None:
        log_pull = torch.logaddexp(log_pull, sft.log_pulls(scores))
        log_half = sft.log_curvatures(scores) - math.log(2)
        log_curvature = torch.logaddexp(log_curvature, log_half)
    return log_pull, log_curvature


def require_newton(loss_type: str) -> None:
    """Raise ValueError unless a penalty is bounded below and has no kinks."""
    if not penalty_named(loss_type).suits_newton:
        suited = [name for name, penalty in PENALTIES.items() if penalty.suits_newton]
        raise ValueError(f"loss_type must be {' or '.join(suited)}, got {loss_type!r}")


def _direction(
    scores: Tensor, log_weights: Tensor, log_both: Tensor, loss_type: str, sft: SftTerm | None
) -> Array:
    """Solve Hessian * direction = -gradient, scaled so that the Hessian's diagonal is 1.

    `log_both` is the log of W + W^T, (X, Y, Y).
    """
    penalty = penalty_named(loss_type)
    log_slope, log_curvature = penalty.log_derivatives(pairwise_differences(scores))
    log_pull = log_weights + log_slope
    # Each pair of responses curves the sum by W_ij l''(t) + W_ji l''(-t): `both_ways` says whether
    # log_curvature is of that already.
    both_ways = penalty.even_curvature or sft is not None
    log_curvature = (log_both if penalty.even_curvature else log_weights) + log_curvature
    if sft is not None:
        if not penalty.even_curvature:
            log_curvature = torch.logaddexp(log_curvature, log_curvature.mT)
        log_pull = torch.logaddexp(log_pull, sft.log_pulls(scores))
        log_curvature = torch.logaddexp(log_curvature, sft.log_curvatures(scores))
    direction, singular = _scaled_solution(log_pull.numpy(), log_curvature.numpy(), both_ways)
    if singular.any():
        which = torch.from_numpy(singular)
        pull, curvature = log_pull[which], log_curvature[which]
        if not both_ways:
            curvature = torch.logaddexp(curvature, curvature.mT)
        ratio = (pull - curvature).exp() - (pull.mT - curvature).exp()
        ratio = torch.where(curvature > -math.inf, ratio, 0.0)
        direction[singular] = potentials(curvature, ratio).numpy()
    return direction


def _scaled_solution(log_pull: Array, log_curvature: Array, both_ways: bool) -> tuple[Array, Array]:
    """Newton's step (A, Y), and for which prompts rounding decides it, (A,), bool.

    In numpy, which takes a third of torch's time per operation where tables are small.
    """
    # The Hessian is a Laplacian: its diagonal holds the sums of rows. Dividing row and column y by
    # the root of entry y makes the diagonal 1, whatever the range of the weights.
    log_row = _log_sum(log_curvature, axis=-1)  # (A, Y)
    if not both_ways:
        log_row = np.logaddexp(log_row, _log_sum(log_curvature, axis=-2))
    log_scale = -0.5 * log_row
    rows = log_scale[..., None]  # (A, Y, 1)
    pulls = log_pull + rows  # scaled by the row's response: each y is pulled up ...
    pushes = log_pull.swapaxes(-1, -2) + rows  # ... as real and pushed down as generated
    negative_gradient = np.subtract(np.exp(pulls, out=pulls), np.exp(pushes, out=pushes), out=pulls)
    laplacian = log_curvature + rows
    laplacian += log_scale[:, None]
    np.negative(np.exp(laplacian, out=laplacian), out=laplacian)
    if not both_ways:
        laplacian = laplacian + laplacian.swapaxes(-1, -2)
    # Constants per prompt are free: the null vector, scaled, gets eigenvalue 1 instead of 0.
    free = np.exp(log_row - log_row.max(axis=-1, keepdims=True))
    free = np.sqrt(free / free.sum(axis=-1, keepdims=True))  # unit norm
    np.einsum("aii->ai", laplacian)[...] = 1.0  # a view, whatever the order in memory
    laplacian += free[:, :, None] * free[:, None]
    factor, info = torch.linalg.cholesky_ex(torch.from_numpy(laplacian))
    right = torch.from_numpy(negative_gradient.sum(axis=-1))[..., None]
    direction: Array = torch.cholesky_solve(right, factor).numpy()[..., 0]
    direction *= np.exp(log_scale)
    # A small pivot says that rounding decides; a row that is not finite has no answer at all.
    roots = factor.diagonal(dim1=-2, dim2=-1).numpy().min(axis=-1)
    singular = (info.numpy() > 0) | ~(roots >= SMALLEST_PIVOT**0.5)
    if singular.any():
        lost = ~np.isfinite(log_row).all(axis=-1)
        direction[lost] = math.nan
        singular &= ~lost
    return direction, singular


def _log_sum(logs: Array, *, axis: int) -> Array:
    """Logarithm of sums of exponentials; nan where nothing is finite."""
    top = logs.max(axis=axis, keepdims=True)
    total: Array = np.log(np.exp(logs - top).sum(axis=axis)) + top.squeeze(axis)
    return total
