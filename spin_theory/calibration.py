"""What margins say about the step that a policy took: the beta that would explain them."""

import math
from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from torch import Tensor

from spin_theory.inputs import tensor

__all__ = ["MarginBeta", "beta_of_margins"]


@dataclass(frozen=True)
class MarginBeta:
    """The beta that explains margins.

    Attributes
    ----------
    beta : float
        No unit. Infinite where no margin is below 0, and minus infinity where some are and none is
        above 0: no finite factor calibrates these.
    standard_error : float
        Over prompts; nan for one prompt, or where `beta` is infinite.
    """

    beta: float
    standard_error: float


def beta_of_margins(
    margins: Tensor, *, prompts: Tensor | None = None, weights: Tensor | None = None
) -> MarginBeta:
    r"""Find the beta of the exact iteration whose margins these could be.

    Parameters
    ----------
    margins : Tensor, shape (B,)
        Log-ratio of the real response minus that of the generated one, nats; the log-ratios are of
        a policy to the opponent that drew the generated responses. The pairs are held out.
    prompts : Tensor of int, shape (B,), optional
        Which prompt each pair belongs to; pairs of one prompt depend on each other. If not given,
        each pair has a prompt of its own.
    weights : Tensor, shape (B,), optional
        How much each pair counts, >= 0; all 1 if not given.

    Returns
    -------
    MarginBeta
        Estimate and standard error; negative where real responses lost more than generated ones.

    Raises
    ------
    ValueError
        If shapes differ, a number is not finite, or a weight is below 0.

    Notes
    -----
    Of a pair in random order, :math:`\log\frac{p_{data}(y)}{p_t(y)} -
    \log\frac{p_{data}(y')}{p_t(y')}` is the log of the odds that the real response is y. Exact
    SPIN with the logistic penalty has :math:`1/\beta` of it as its margin d (Theorem 5.4), so beta
    is the factor that calibrates the margins: the root in s of :math:`E[d\,\sigma(-s d)] = 0`, as
    in a logistic regression without intercept. Few optimiser steps take a smaller step, which is
    that of a larger beta. With the exponential penalty the factor is :math:`2\beta`. The standard
    error is the sandwich of that regression, over prompts.

    Examples
    --------
    >>> margins = torch.tensor([1.0, 2.0, 0.5, -0.5], dtype=torch.float64)
    >>> found = beta_of_margins(margins)
    >>> print(f"{found.beta:.2f} +- {found.standard_error:.2f}")
    1.75 +- 1.39
    >>> beta_of_margins(2 * margins).beta == found.beta / 2
    True
    """
    margins = tensor("margins", margins).double()
    counts = torch.ones_like(margins) if weights is None else tensor("weights", weights).double()
    if margins.ndim != 1 or counts.shape != margins.shape or not len(margins):
        raise ValueError(
            "margins and weights must have one shape (B,) with B >= 1, got "
            f"{tuple(margins.shape)} and {tuple(counts.shape)}"
        )
    if not bool(margins.isfinite().all() & counts.isfinite().all() & (counts >= 0).all()):
        raise ValueError("margins and weights must be finite, and weights >= 0")
    if prompts is not None and prompts.shape != margins.shape:
        raise ValueError(f"prompts must have shape (B,), got {tuple(prompts.shape)}")
    used = counts > 0
    margins, counts = margins[used], counts[used]
    owners = torch.arange(len(used)) if prompts is None else prompts
    ordered = {bool((margins > 0).any()), bool((margins < 0).any())}
    if ordered != {True}:  # none is wrong, none is right, or none says anything
        wrong = bool((margins < 0).any())
        return MarginBeta(-math.inf if wrong else math.inf, math.nan)
    unit = float(margins.abs().max())
    scaled = margins / unit

    def slope(s: float) -> float:
        return float((counts * scaled * torch.sigmoid(-s * scaled)).sum())

    far = 1.0 if slope(0.0) > 0 else -1.0
    while far * slope(far) > 0:
        far *= 2
    s = float(brentq(slope, min(0.0, far), max(0.0, far), xtol=1e-300, rtol=1e-14))
    return MarginBeta(s / unit, _standard_error(scaled, counts, owners[used], s) / unit)


def _standard_error(scaled: Tensor, counts: Tensor, owners: Tensor, s: float) -> float:
    chance = torch.sigmoid(-s * scaled)  # that a pair is ordered wrongly
    curvature = float((counts * scaled.square() * chance * (1 - chance)).sum())
    names, places = torch.unique(owners, return_inverse=True)
    scores = torch.zeros(len(names), dtype=scaled.dtype)
    scores.index_add_(0, places, counts * scaled * chance)
    if len(names) < 2:
        return math.nan
    return math.sqrt(len(names) / (len(names) - 1) * float(scores.square().sum())) / curvature
