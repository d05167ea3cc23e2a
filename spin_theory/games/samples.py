"""Samples that one iteration needs: how far the update from n pairs is from the exact one."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spin_theory.games.sampling import sampled_update
from spin_theory.inputs import generator, number, numbers, whole
from spin_theory.losses import require_beta
from spin_theory.minima.closed_forms import closed_form_update
from spin_theory.policies import (
    TabularPolicy,
    pair_log_probs,
    pairwise_differences,
    require_same_shape,
)

__all__ = ["SampleComplexity", "predicted_tv", "sample_complexity", "samples_for"]


@dataclass(frozen=True)
class SampleComplexity:
    """Distance of one iteration on n pairs from the exact one.

    Attributes
    ----------
    pairs : tuple of int
        Each n.
    tv : Tensor, shape (N,)
        Total variation distance of the sampled from the exact update, averaged over the draws
        that have one; nan where none has.
    deviation : Tensor, shape (N,)
        Standard deviation of that distance over the draws; nan where fewer than two have one.
    predicted_tv : Tensor, shape (N,)
        What the central limit theorem predicts for large n.
    failed : tuple of int
        Draws without a minimum: a response that always, or never, won.
    """

    pairs: tuple[int, ...]
    tv: Tensor
    deviation: Tensor
    predicted_tv: Tensor
    failed: tuple[int, ...]


def sample_complexity(
    opponent: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    pairs: tuple[int, ...] = (100, 1_000, 10_000, 100_000),
    draws: int = 20,
    seed: int = 0,
) -> SampleComplexity:
    r"""Measure the total variation distance after one iteration against the number of pairs.

    Parameters
    ----------
    opponent, data : TabularPolicy, shape (1, Y)
        p_t and p_data, of one prompt.
    beta : float
        Pull towards the opponent, > 0, no unit.
    pairs : tuple of int
        Each n to try.
    draws : int, default 20
        How many independent sets of n pairs.
    seed : int, default 0
        Of the draws.

    Returns
    -------
    SampleComplexity
        Distances from the exact update, observed and predicted.

    Raises
    ------
    ValueError
        As :func:`sampled_update`, or if `draws` < 1 or `pairs` is empty.

    Examples
    --------
    >>> opponent, data = (TabularPolicy.random(1, 3, seed=seed, smallest=0.2) for seed in (0, 1))
    >>> result = sample_complexity(opponent, data, beta=1.0, pairs=(4_000,), draws=50)
    >>> bool((result.tv / result.predicted_tv - 1).abs() < 0.2)
    True
    """
    draws = whole("draws", draws, least=1)
    sizes = [whole("pairs", size, least=1) for size in numbers("pairs", pairs)]
    if not sizes:
        raise ValueError("pairs must hold at least one number, got none")
    source = generator(seed)
    exact = closed_form_update(opponent, data, beta=beta).probs
    means, deviations, failures = [], [], []
    for size in sizes:
        found = [
            sampled_update(opponent, data, beta=beta, pairs=size, generator=source)
            for _ in range(draws)
        ]
        distances = torch.tensor(
            [
                float((policy.probs - exact).abs().sum()) / 2
                for policy in found
                if policy is not None
            ],
            dtype=torch.float64,
        )
        means.append(distances.mean())
        deviations.append(distances.std() if len(distances) > 1 else distances.new_tensor(math.nan))
        failures.append(draws - len(distances))
    return SampleComplexity(
        pairs=tuple(sizes),
        tv=torch.stack(means),
        deviation=torch.stack(deviations),
        predicted_tv=predicted_tv(opponent, data, beta=beta)
        / torch.tensor(sizes, dtype=torch.float64).sqrt(),
        failed=tuple(failures),
    )


def predicted_tv(opponent: TabularPolicy, data: TabularPolicy, *, beta: float) -> Tensor:
    r"""Predict the distance of :func:`sampled_update` from the exact one, times root n.

    Parameters
    ----------
    opponent, data : TabularPolicy, shape (1, Y)
        p_t and p_data, of one prompt.
    beta : float
        Pull towards the opponent, > 0, no unit.

    Returns
    -------
    Tensor, shape ()
        Expected total variation distance times :math:`\sqrt{n}`, for large n.

    Raises
    ------
    ValueError
        If there is more than one prompt, shapes differ, or `beta` is not > 0.

    Notes
    -----
    The scores of n pairs are asymptotically normal around the exact ones, with the sandwich
    covariance :math:`H^+ S H^+ / n`, H the Hessian and S the covariance of one pair's gradient.
    Probabilities follow by the delta method, and :math:`E |N(0, v)| = \sqrt{2 v / \pi}`.

    Examples
    --------
    >>> half = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> predicted_tv(half, half, beta=1.0)  # each probability has variance 1/(2 n): sqrt(1/pi)
    tensor(0.5642, dtype=torch.float64)
    """
    require_same_shape(opponent=opponent, data=data)
    beta = require_beta(beta)
    if len(data.log_probs) != 1:
        raise ValueError(f"data must have one prompt, got {len(data.log_probs)}")
    log_ratios = (data.log_probs - opponent.log_probs)[0]
    margins = pairwise_differences(log_ratios)  # (Y, Y)
    weights = pair_log_probs(data.log_probs[0], opponent.log_probs[0]).exp()
    hessian = _laplacian(weights * torch.sigmoid(-margins) * torch.sigmoid(margins))
    noise = _laplacian(weights * torch.sigmoid(-margins).square())
    # The sandwich H^+ S H^+; the pseudoinverse leaves out constants, which the policy ignores.
    inverse = torch.linalg.pinv(hessian, hermitian=True)
    covariance = inverse @ noise @ inverse / beta**2  # of the log-probs, up to a constant
    probs = closed_form_update(opponent, data, beta=beta).probs[0]
    jacobian = _laplacian(probs[:, None] * probs[None, :] / 2)  # of the softmax
    variances = (jacobian @ covariance @ jacobian).diagonal()
    expected: Tensor = (2 / math.pi * variances).clamp(min=0).sqrt().sum() / 2
    return expected


def samples_for(opponent: TabularPolicy, data: TabularPolicy, *, tv: float, beta: float) -> int:
    r"""Find how many pairs bring one iteration within a distance of the exact one.

    Parameters
    ----------
    opponent, data : TabularPolicy, shape (1, Y)
        p_t and p_data, of one prompt.
    tv : float
        Expected total variation distance of the sampled from the exact update, > 0.
    beta : float
        Pull towards the opponent, > 0, no unit.

    Returns
    -------
    int
        The fewest pairs, at least 1, whose predicted distance is at most `tv`.

    Raises
    ------
    ValueError
        As :func:`predicted_tv`, or if `tv` is not > 0 or so small that the number overflows.

    Notes
    -----
    The inverse of :func:`predicted_tv`, which is for large n: :math:`(\hat t / t)^2`. With few
    pairs an update may not exist at all.

    Examples
    --------
    >>> half = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> samples_for(half, half, tv=0.01, beta=1.0)  # 1 / (pi 0.01^2)
    3184
    """
    tv = number("tv", tv)
    if not tv > 0:
        raise ValueError(f"tv must be > 0, got {tv!r}")
    ratio = float(predicted_tv(opponent, data, beta=beta)) / tv
    if not ratio < 1e150:
        raise ValueError(f"tv must not be so small that its square vanishes, got {tv!r}")
    return max(1, math.ceil(ratio**2))


def _laplacian(weights: Tensor) -> Tensor:
    """Sum over pairs of weight times (e_i - e_j)(e_i - e_j)^T: (Y, Y)."""
    both = weights + weights.T
    both.fill_diagonal_(0.0)
    return both.sum(dim=-1).diag() - both
