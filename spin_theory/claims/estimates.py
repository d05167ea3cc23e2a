"""What finite samples give: an iteration's minimum, its distance, and the convergence meter."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.claims.instances import Draw
from spin_theory.divergences import tv
from spin_theory.games.samples import predicted_tv, sample_complexity
from spin_theory.games.sampling import sampled_update
from spin_theory.meter import convergence_meter
from spin_theory.minima.closed_forms import closed_form_update
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import FEW_TERMS, LIMIT, REPEATED, ROUNDING, STATIONARY

__all__ = ["CLAIMS", "check_meter", "check_predicted_tv", "check_sampled_update"]

Numbers = NDArray[np.float64]

SCALES, CLIPS = 2.0 ** np.arange(-12, 7), 2.0 ** np.arange(-1, 4)


def check_sampled_update(
    opponent: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    pairs: int = 100,
    seed: int = 0,
    tolerance: float = STATIONARY,
) -> Evidence:
    r"""Check the minimiser of a sample's loss, and the distances averaged over samples.

    Parameters
    ----------
    opponent, data : TabularPolicy, shape (1, Y)
        p_t and p_data, of one prompt.
    beta : float
        Pull towards the opponent, > 0, no unit.
    pairs : int, default 100
        Pairs per sample, at least 1.
    seed : int, default 0
        Of the samples.
    tolerance : float, default 1e-10
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the gradient of the sample's mean loss at the minimiser; the error of the mean
        and of the deviation of its distance from the exact iteration over two samples, and of the
        number of samples that have no minimiser; infinite where a minimiser is there although a
        set of responses never lost, or never won, against the others, or the other way round.

    Raises
    ------
    ValueError
        If there is more than one prompt, shapes differ, or a number is out of its range.

    Notes
    -----
    A sample of wins has a minimiser where every response can be reached from every other by
    wins, which powers of the matrix of wins say.

    Examples
    --------
    >>> opponent, data = (TabularPolicy.random(1, 3, seed=seed, smallest=0.2) for seed in (0, 1))
    >>> check_sampled_update(opponent, data, beta=1.0).holds
    True
    """
    generator, again = (torch.Generator().manual_seed(seed) for _ in range(2))
    exact = closed_form_update(opponent, data, beta=beta)
    joint = (data.probs[0, :, None] * opponent.probs[0, None, :]).flatten()
    responses = data.log_probs.shape[1]
    errors, distances = [], []
    for _ in range(2):
        drawn = torch.multinomial(joint, pairs, replacement=True, generator=again)
        wins = np.bincount(drawn.numpy(), minlength=responses**2).reshape(responses, -1)
        reached = np.linalg.matrix_power((wins + np.eye(responses)) / (1 + wins.sum()), responses)
        found = sampled_update(opponent, data, beta=beta, pairs=pairs, generator=generator)
        if (found is not None) != bool((reached > 0).all()):
            errors.append(math.inf)
        if found is None:
            continue
        scores = beta * (found.log_probs - opponent.log_probs)[0].numpy()
        pulls = wins / pairs * np.exp(-np.logaddexp(0, scores[:, None] - scores[None, :]))
        errors.append(float(np.abs(pulls.sum(axis=1) - pulls.sum(axis=0)).max()))
        distances.append(float(tv(found, exact).max()))
    summary = sample_complexity(opponent, data, beta=beta, pairs=(pairs,), draws=2, seed=seed)
    errors.append(0.0 if summary.pairs == (pairs,) else math.inf)
    errors.append(float(summary.failed[0] != 2 - len(distances)))
    if distances:
        errors.append(abs(float(summary.tv) - sum(distances) / len(distances)))
    if len(distances) == 2:
        deviation = abs(distances[0] - distances[1]) / math.sqrt(2)
        errors.append(abs(float(summary.deviation) - deviation))
    elif not summary.deviation.isnan().all():
        errors.append(math.inf)
    scaled = float(predicted_tv(opponent, data, beta=beta)) / math.sqrt(pairs)
    errors.append(abs(float(summary.predicted_tv) / scaled - 1) if scaled > 0 else 0.0)
    return Evidence(largest_error(errors), tolerance, {"found": float(len(distances))})


def check_predicted_tv(
    opponent: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    tolerance: float = STATIONARY,
) -> Evidence:
    r"""Check the predicted distance of a sampled iteration, in coordinates of its own.

    Parameters
    ----------
    opponent, data : TabularPolicy, shape (1, Y)
        p_t and p_data, of one prompt.
    beta : float
        Pull towards the opponent, > 0, no unit.
    tolerance : float, default 1e-10
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the relative error of the prediction.

    Raises
    ------
    ValueError
        If there is more than one prompt, shapes differ, or `beta` is not > 0.

    Notes
    -----
    The score of the last response is fixed at 0, so that the Hessian has an inverse; gradients
    are summed pair by pair, and the softmax is differentiated by its formula.

    Examples
    --------
    >>> opponent, data = (TabularPolicy.random(1, 4, seed=seed, smallest=0.1) for seed in (0, 1))
    >>> check_predicted_tv(opponent, data, beta=0.5).holds
    True
    """
    log_ratio = (data.log_probs - opponent.log_probs)[0].numpy()
    margins = log_ratio[:, None] - log_ratio[None, :]
    weights = data.probs[0].numpy()[:, None] * opponent.probs[0].numpy()[None, :]
    responses = len(log_ratio)
    basis = np.eye(responses)[:, :-1]
    steps = basis[:, None, :] - basis[None, :, :]  # (Y, Y, Y - 1): of the margin
    lose = np.exp(-np.logaddexp(0, margins))
    win = np.exp(-np.logaddexp(0, -margins))
    hessian = np.einsum("ij,ijk,ijl->kl", weights * lose * win, steps, steps)
    noise = np.einsum("ij,ijk,ijl->kl", weights * lose**2, steps, steps)
    scale = 1 / np.sqrt(hessian.diagonal())  # a unit diagonal costs the inverse fewer digits
    inverse = np.linalg.inv(hessian * np.outer(scale, scale)) * np.outer(scale, scale)
    covariance = inverse @ noise @ inverse / beta**2
    probs = closed_form_update(opponent, data, beta=beta).probs[0].numpy()
    others = (1 - np.eye(responses)) @ probs  # 1 - p, with all its digits
    slopes = np.diag(probs * others) - np.outer(probs, probs) * (1 - np.eye(responses))
    slopes = slopes[:, :-1]
    variances = np.einsum("yk,kl,yl->y", slopes, covariance, slopes)
    expected = float(np.sqrt(2 / math.pi * np.maximum(variances, 0)).sum() / 2)
    found = float(predicted_tv(opponent, data, beta=beta))
    return Evidence(abs(found - expected) / expected, tolerance, {"predicted": found})


def check_meter(
    margins: Tensor, prompts: Tensor, *, confidence: float = 0.95, tolerance: float = LIMIT
) -> Evidence:
    r"""Check every number of the convergence meter on a sample of margins.

    Parameters
    ----------
    margins : Tensor, shape (B,)
        Margins of held-out pairs, in nats.
    prompts : Tensor of int, shape (B,)
        Which prompt each belongs to; at least four.
    confidence : float, default 0.95
        Of the lower bound, in (0, 1).
    tolerance : float, default 1e-7
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual, in nats: the largest error of the estimate, of its standard error and of the
        bound, all on the second half of the prompts; infinite where scale and clip are not those
        that promise most on the first half. `lower_bound` is the bound.

    Raises
    ------
    ValueError
        As :func:`convergence_meter`.

    Notes
    -----
    The bound is the root of the bettor's capital, found by another method. That it covers the
    truth as often as it says is a matter of many samples, and of the tests.

    Examples
    --------
    >>> margins = torch.linspace(-1.0, 3.0, 40, dtype=torch.float64)
    >>> check_meter(margins, torch.arange(40)).holds
    True
    """
    found = convergence_meter(margins, prompts=prompts, confidence=confidence)
    numbers, ranks = margins.numpy(), np.unique(prompts.numpy(), return_inverse=True)[1]
    level = math.log(1 / (1 - confidence))
    owns = (ranks[:, None] == np.arange(ranks.max() + 1)).astype(float)  # (B, prompts)
    means = owns / owns.sum(axis=0)

    def values(scale: Numbers, clip: Numbers, half: int) -> Numbers:  # (..., prompts of the half)
        margin = np.clip(scale[..., None] * numbers, -clip[..., None], clip[..., None])
        gains: Numbers = (math.log(2) - np.logaddexp(0, -margin)) @ means[:, half::2]
        return gains

    scale, clip = np.meshgrid(SCALES, CLIPS)
    tuned = values(scale, clip, 0)
    count, variance = tuned.shape[-1], tuned.var(axis=-1, ddof=1)
    largest = 0.9 / np.log1p(np.exp(clip))
    stake = np.minimum(np.sqrt(2 * level / (count * np.maximum(variance, 1e-300))), largest)
    promise = tuned.mean(axis=-1) - level / (count * stake) - stake * variance / 2
    chosen = (scale == found.scale) & (clip == found.clip)
    errors = [float(promise.max() - promise[chosen].max(initial=-np.inf))]
    errors.append(0.0 if found.confidence == confidence else math.inf)
    if not chosen.any():
        return Evidence(math.inf, tolerance)
    gains = values(np.array(found.scale), np.array(found.clip), 1)
    error = float(gains.std(ddof=1)) / math.sqrt(len(gains))
    errors += [abs(found.estimate - gains.mean()), abs(found.standard_error - error)]

    def capital(mean: float) -> float:
        return float(np.log1p(stake[chosen] * (gains - mean)).sum()) - level

    bound = brentq(capital, 0.0, math.log(2), xtol=1e-15) if capital(0.0) > 0 else 0.0
    errors += [
        abs(found.lower_bound - bound),
        abs(found.tv_lower_bound - bound / (2 * math.log(2))),
        0.0 if found.prompts == len(gains) else math.inf,
    ]
    return Evidence(largest_error(errors), tolerance, {"lower_bound": found.lower_bound})


def _meter(draw: Draw) -> Evidence:
    """Margins of 80 pairs of 60 prompts, most of which prove a difference."""
    generator = torch.Generator().manual_seed(draw.instance.seed)
    noise = torch.randn(80, generator=generator, dtype=torch.float64)
    return check_meter(noise + 2 + draw.parameters[0, 0], torch.arange(80) % 60)


CLAIMS = (
    Claim(
        name="minimiser of a sample",
        statement="The update from n sampled pairs minimises their mean loss, and it exists where "
        "every response reaches every other by wins.",
        source="derived",
        function=check_sampled_update,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: check_sampled_update(
            draw.small_start,
            draw.small_data,
            beta=draw.beta,
            pairs=1000 if draw.instance.seed % 2 else 100,  # with a minimiser mostly, or without
            seed=draw.instance.seed,
        ),
    ),
    Claim(
        name="predicted distance of a sampled update",
        statement="The distance of a sampled update from the exact one, times the root of n, is "
        "predicted by the delta method.",
        source="derived",
        function=check_predicted_tv,
        tolerance=ROUNDING,
        check=lambda draw, *_: check_predicted_tv(
            draw.small_start, draw.small_data, beta=draw.beta
        ),
    ),
    Claim(
        name="convergence meter, on a sample",
        statement="The meter's estimate is the mean over prompts of log 2 minus the loss. Its "
        "bound is the largest mean that a bettor's capital refutes.",
        source="derived",
        function=check_meter,
        tolerance=REPEATED,
        check=lambda draw, *_: _meter(draw),
    ),
)
