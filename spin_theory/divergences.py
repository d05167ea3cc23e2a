"""Distances between two tabular policies, per prompt, computed from log-probs.

All are differentiable. Differences of probabilities are taken from log-ratios, so policies that
nearly agree keep their digits, and nothing overflows unless the value itself does.
"""

import math

import torch
from torch import Tensor

from spin_theory.inputs import number
from spin_theory.policies import TabularPolicy, require_same_shape

__all__ = [
    "bhattacharyya",
    "chi_square",
    "entropy",
    "hilbert",
    "js",
    "kl",
    "renyi",
    "tv",
]

SMALL_RATIO = 0.25
"""Log-ratio in nats below which a relative entropy is summed as a series, without cancellation."""

TAYLOR_TERMS = 14  # of it: the next one is below a rounding error


def kl(p: TabularPolicy, q: TabularPolicy) -> Tensor:
    r"""Kullback-Leibler divergence KL(p || q).

    Parameters
    ----------
    p, q : TabularPolicy, shape (X, Y)
        The two policies; the expectation is under `p`.

    Returns
    -------
    Tensor, shape (X,)
        :math:`\sum_y p(y) \log [p(y)/q(y)]` per prompt, in nats.

    Raises
    ------
    ValueError
        If the shapes differ.

    Notes
    -----
    Summed as :math:`\sum_y [p \log(p/q) - p + q]`, whose terms are all nonnegative, so that
    close policies do not lose their divergence to cancellation.

    Examples
    --------
    >>> half = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> kl(half, TabularPolicy.from_probs([[0.25, 0.75]]))  # log(2/sqrt(3))
    tensor([0.1438], dtype=torch.float64)
    """
    require_same_shape(p=p, q=q)
    return _relative_entropy(p.log_probs, q.log_probs, p.log_probs - q.log_probs)


def tv(p: TabularPolicy, q: TabularPolicy) -> Tensor:
    r"""Total variation distance.

    Parameters
    ----------
    p, q : TabularPolicy, shape (X, Y)
        The two policies.

    Returns
    -------
    Tensor, shape (X,)
        :math:`\frac12 \sum_y |p(y) - q(y)|` per prompt, in [0, 1], no unit.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> half = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> tv(half, TabularPolicy.from_probs([[0.25, 0.75]]))
    tensor([0.2500], dtype=torch.float64)
    """
    require_same_shape(p=p, q=q)
    return _difference(p.log_probs, q.log_probs).abs().sum(dim=-1) / 2


def js(p: TabularPolicy, q: TabularPolicy) -> Tensor:
    r"""Jensen-Shannon divergence.

    Parameters
    ----------
    p, q : TabularPolicy, shape (X, Y)
        The two policies.

    Returns
    -------
    Tensor, shape (X,)
        :math:`\frac12 KL(p \| m) + \frac12 KL(q \| m)`, :math:`m = (p + q)/2`, per prompt, in
        nats; at most log 2.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> p = TabularPolicy.from_probs([[1 - 1e-12, 1e-12]])
    >>> js(p, TabularPolicy.from_probs([[1e-12, 1 - 1e-12]]))  # log 2 for disjoint policies
    tensor([0.6931], dtype=torch.float64)
    """
    require_same_shape(p=p, q=q)
    middle = torch.logaddexp(p.log_probs, q.log_probs) - math.log(2)
    log_ratio = p.log_probs - q.log_probs
    # log(m / max(p, q)): the ratios to the middle are not differences of rounded log-probs.
    below = torch.log1p(torch.expm1(-log_ratio.abs()) / 2)
    parts = (
        _relative_entropy(p.log_probs, middle, log_ratio.clamp(max=0) - below),
        _relative_entropy(q.log_probs, middle, (-log_ratio).clamp(max=0) - below),
    )
    return (parts[0] + parts[1]) / 2


def chi_square(p: TabularPolicy, q: TabularPolicy) -> Tensor:
    r"""Pearson's chi-square divergence.

    Parameters
    ----------
    p, q : TabularPolicy, shape (X, Y)
        The two policies; the expectation is under `q`.

    Returns
    -------
    Tensor, shape (X,)
        :math:`\sum_y [p(y) - q(y)]^2 / q(y)` per prompt, no unit; infinite where that exceeds
        float64.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> half = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> chi_square(half, TabularPolicy.from_probs([[0.25, 0.75]]))  # 1/4 + 1/12
    tensor([0.3333], dtype=torch.float64)
    """
    require_same_shape(p=p, q=q)
    # p - q = max(p, q) * (something in [-1, 1]): half of q's logarithm is taken off beforehand.
    shift = q.log_probs / 2
    return _difference(p.log_probs - shift, q.log_probs - shift).square().sum(dim=-1)


def bhattacharyya(p: TabularPolicy, q: TabularPolicy) -> Tensor:
    r"""Bhattacharyya coefficient BC: an overlap, 1 where the policies agree.

    Parameters
    ----------
    p, q : TabularPolicy, shape (X, Y)
        The two policies.

    Returns
    -------
    Tensor, shape (X,)
        :math:`\sum_y \sqrt{p(y) q(y)}` per prompt, in (0, 1], no unit.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> half = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> bhattacharyya(half, TabularPolicy.from_probs([[0.1, 0.9]]))  # sqrt(.05) + sqrt(.45)
    tensor([0.8944], dtype=torch.float64)
    """
    require_same_shape(p=p, q=q)
    return torch.logsumexp((p.log_probs + q.log_probs) / 2, dim=-1).exp()


def renyi(p: TabularPolicy, q: TabularPolicy, *, order: float) -> Tensor:
    r"""Renyi divergence.

    Parameters
    ----------
    p, q : TabularPolicy, shape (X, Y)
        The two policies.
    order : float
        The order :math:`\alpha > 0`, not 1, where it would be :func:`kl`; no unit.

    Returns
    -------
    Tensor, shape (X,)
        :math:`\frac{1}{\alpha - 1} \log \sum_y p(y)^\alpha q(y)^{1 - \alpha}` per prompt, in
        nats. Rounding grows like one over the distance of the order from 1.

    Raises
    ------
    ValueError
        If the shapes differ, or `order` is not finite, > 0 and other than 1.

    Examples
    --------
    >>> half = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> renyi(TabularPolicy.from_probs([[0.75, 0.25]]), half, order=2.0)  # log(5/4)
    tensor([0.2231], dtype=torch.float64)
    """
    require_same_shape(p=p, q=q)
    order = number("order", order)
    if not 0 < order < math.inf or order == 1:
        raise ValueError(f"order must be finite, > 0 and not 1, got {order!r}")
    log_ratios = p.log_probs - q.log_probs
    far = torch.logsumexp(q.log_probs + order * log_ratios, dim=-1)
    # Where the two are close: sum q [r^order - 1 - order (r - 1)], of terms of one sign.
    limit = 0.5 / max(1.0, order)
    near = log_ratios.clamp(-limit, limit)
    excess = q.probs * (torch.expm1(order * near) - order * torch.expm1(near))
    is_near = log_ratios.abs().amax(dim=-1) <= limit
    return torch.where(is_near, torch.log1p(excess.sum(dim=-1)), far) / (order - 1)


def hilbert(p: TabularPolicy, q: TabularPolicy) -> Tensor:
    r"""Hilbert's projective metric: the range of the log-ratio.

    Parameters
    ----------
    p, q : TabularPolicy, shape (X, Y)
        The two policies.

    Returns
    -------
    Tensor, shape (X,)
        :math:`\max_y \log [p(y)/q(y)] - \min_y \log [p(y)/q(y)]` per prompt, in nats.

    Raises
    ------
    ValueError
        If the shapes differ.

    Notes
    -----
    Total variation is at most :math:`\tanh(d/4)`. An exact iteration of SPIN multiplies this
    distance from the data by :math:`|1 - 1/\beta|`, however far away it is.

    Examples
    --------
    >>> half = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> hilbert(TabularPolicy.from_probs([[0.75, 0.25]]), half)  # log 3
    tensor([1.0986], dtype=torch.float64)
    """
    require_same_shape(p=p, q=q)
    log_ratios = p.log_probs - q.log_probs
    return log_ratios.amax(dim=-1) - log_ratios.amin(dim=-1)


def entropy(p: TabularPolicy) -> Tensor:
    r"""Shannon entropy.

    Parameters
    ----------
    p : TabularPolicy, shape (X, Y)
        The policy.

    Returns
    -------
    Tensor, shape (X,)
        :math:`-\sum_y p(y) \log p(y)` per prompt, in nats.

    Examples
    --------
    >>> entropy(TabularPolicy.from_probs([[0.5, 0.5]]))
    tensor([0.6931], dtype=torch.float64)
    """
    require_same_shape(p=p)
    return -(p.probs * p.log_probs).sum(dim=-1)


def _difference(log_p: Tensor, log_q: Tensor) -> Tensor:
    """exp(log_p) - exp(log_q), elementwise, accurate also where the two are close."""
    log_ratio = log_p - log_q
    sign = torch.where(log_ratio >= 0, 1.0, -1.0).to(log_p)
    return -sign * torch.maximum(log_p, log_q).exp() * torch.expm1(-sign * log_ratio)


def _relative_entropy(log_p: Tensor, log_q: Tensor, log_ratio: Tensor) -> Tensor:
    """Sum of p log(p/q) - p + q over the last dimension, of tables that each sum to one."""
    far = log_p.exp() * log_ratio - _difference(log_p, log_q)
    # p (r + e^-r - 1) with r the log-ratio: where it is small, by its Taylor series.
    small = log_ratio.clamp(-SMALL_RATIO, SMALL_RATIO)
    series = torch.zeros_like(small)
    for power in range(TAYLOR_TERMS, 1, -1):
        series = (1 - series) * small / (power + 1)
    near = log_p.exp() * (small**2 / 2) * (1 - series)
    terms = torch.where(log_ratio.abs() < SMALL_RATIO, near, far)
    return terms.clamp(min=0).sum(dim=-1)  # below 0 by rounding alone
