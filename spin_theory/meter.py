"""The convergence meter on a sample: from held-out margins to a bound on a distance."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import bdtrc
from torch import Tensor

from spin_theory.inputs import number, tensor, whole
from spin_theory.losses import penalty_named

__all__ = ["FEWEST_PROMPTS", "Meter", "convergence_meter", "power"]

FEWEST_PROMPTS = 4
"""Two to tune on and two to estimate from."""

# What the first half chooses among: factors on the margin (1/nats) and limits of the product.
_SCALES = [2.0**power for power in range(-12, 7)]
_CLIPS = [0.5, 1.0, 2.0, 4.0, 8.0]
# Of the largest stake that keeps the capital positive; at 1 a single pair could end it.
_LARGEST_STAKE = 0.9
# Quantiles that stand for a count in `power`; a count with fewer values than that is summed over.
_QUANTILES = 50


@dataclass(frozen=True)
class Meter:
    r"""What held-out margins say about the distance between the opponent and the data.

    Attributes
    ----------
    estimate : float
        :math:`\log 2 - E[\ell(d)]`, :math:`\ell` logistic and d the margin, scaled and clipped;
        nats. Its expectation is at most :math:`JS(P, Q)`, and so at most log 2.
    standard_error : float
        Of the estimate, over prompts.
    lower_bound : float
        At most :math:`JS(P, Q)` with probability `confidence` or more, nats; 0 proves nothing.
    confidence : float
        As asked for.
    scale, clip : float
        Chosen on the other half of the prompts: d is ``clamp(scale * margin, -clip, clip)``.
    prompts : int
        In the half that estimate and bound rest on.

    Notes
    -----
    :math:`P = p_{data} \otimes p_t` and :math:`Q = p_t \otimes p_{data}` are distributions of
    pairs, averaged over prompts; :math:`JS(P, Q) / 2 \le JS(p_{data}, p_t) \le JS(P, Q)`.
    """

    estimate: float
    standard_error: float
    lower_bound: float
    confidence: float
    scale: float
    clip: float
    prompts: int

    @property
    def tv_lower_bound(self) -> float:
        """What the lower bound says about the total variation distance.

        Returns
        -------
        float
            At most TV(p_data, p_t), averaged over prompts, as sure as the bound; in [0, 1/2].
        """
        return self.lower_bound / (2 * math.log(2))


def convergence_meter(margins: Tensor, *, prompts: Tensor, confidence: float = 0.95) -> Meter:
    r"""Bound from below how far the opponent is from the data, from held-out pairs.

    Parameters
    ----------
    margins : Tensor, shape (B,)
        :math:`f(y) - f(y')` of each pair of a real and a generated response, in nats. f, such as
        a policy's log-ratio or log-prob, was fixed before the pairs were seen, and no model in it
        was trained on them; :math:`y'` is a fresh sample of the opponent.
    prompts : Tensor of int, shape (B,)
        Which prompt each pair belongs to. Pairs of one prompt depend on each other and count as
        one value, their mean; prompts are independent draws. The numbers' order decides which
        prompts tune and which estimate, so it must know nothing of the margins.
    confidence : float, default 0.95
        Of the lower bound, one-sided, in (0, 1).

    Returns
    -------
    Meter
        Estimate and bound from every second prompt; scale, clip and stake from the others.

    Raises
    ------
    ValueError
        If shapes differ, a margin is not finite, there are fewer than `FEWEST_PROMPTS` prompts,
        or `confidence` is not in (0, 1).

    Notes
    -----
    A margin is antisymmetric in :math:`(y, y')`, and stays so scaled and clipped; then
    :math:`\log 2 - E[\ell(d)] \le JS(P, Q)`, whatever scale and clip
    (`check_distance_bounds`).

    The bound needs no large sample. Let :math:`v_i \ge \log 2 - \log(1 + e^{clip})` be the mean
    of :math:`\log 2 - \ell(d)` over prompt i, and s a stake with
    :math:`s \log(1 + e^{clip}) < 1`. Were :math:`E v_i \le m`, then
    :math:`E \prod_i [1 + s (v_i - m)] \le 1` for independent prompts, and by Markov's inequality
    the product, a bettor's capital, exceeds :math:`1/\delta` with probability at most
    :math:`\delta`. The bound is the largest m that this refutes.

    Examples
    --------
    >>> margins = torch.linspace(-1.0, 3.0, 200, dtype=torch.float64)
    >>> meter = convergence_meter(margins, prompts=torch.arange(200))
    >>> print(f"{meter.estimate:.2f}, at least {meter.lower_bound:.2f}; {meter.prompts} prompts")
    0.24, at least 0.14; 100 prompts
    """
    margins, prompts = tensor("margins", margins), _numbered(prompts)
    if margins.ndim != 1 or margins.shape != prompts.shape:
        raise ValueError(
            "margins and prompts must have one shape (B,), got "
            f"{tuple(margins.shape)} and {tuple(prompts.shape)}"
        )
    if not bool(margins.isfinite().all()):
        raise ValueError("margins must be finite")
    confidence = number("confidence", confidence)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence!r}")
    order = {number: place for place, number in enumerate(sorted(set(prompts.tolist())))}
    if len(order) < FEWEST_PROMPTS:
        raise ValueError(
            f"prompts must have >= {FEWEST_PROMPTS} different values, got {len(order)}"
        )
    place = torch.tensor([order[number] for number in prompts.tolist()])
    tuning = place % 2 == 0
    halves = [(margins[half].double(), place[half] // 2) for half in (tuning, ~tuning)]
    level = -math.log1p(-confidence)  # the logarithm of 1 / delta
    scale, clip, stake = _tune(*halves[0], level)
    values = _values(*halves[1], scale, clip)
    return Meter(
        estimate=values.mean().item(),
        standard_error=(values.std() / math.sqrt(len(values))).item(),
        lower_bound=_lower_bound(values, stake, level),
        confidence=confidence,
        scale=scale,
        clip=clip,
        prompts=len(values),
    )


def power(*, tv: float, samples: int, confidence: float = 0.95) -> float:
    r"""How likely :func:`convergence_meter` proves a difference, in the hardest case.

    Parameters
    ----------
    tv : float
        Total variation distance of data and opponent, in [0, 1].
    samples : int
        Held-out pairs, each of a prompt of its own; at least `FEWEST_PROMPTS`. Half of them tune
        the meter.
    confidence : float, default 0.95
        Of the meter's lower bound, in (0, 1).

    Returns
    -------
    float
        Probability that the lower bound is above 0: exact up to 99 samples, within 0.002 beyond.

    Raises
    ------
    ValueError
        If `tv` is not in [0, 1], there are too few samples, or `confidence` is not in (0, 1).

    Notes
    -----
    The total variation alone does not decide it. This is for the two distributions of two
    responses that have the least JS(P, Q), :func:`~spin_theory.hardest.hardest_js`, in every
    prompt, and the best margins, :math:`\log(p_{data}/p_t)`, or any multiple: the meter tunes
    their scale. With rare responses, more of them, or a distance that differs between prompts the
    meter sees more; with worse margins, less.

    A margin has three values: won, lost and, where both responses are equal, 0. So both halves of
    the sample are counts, of binomial distributions. The tuning half decides what a win and a
    loss do to the capital; the bound is above 0 where the other half has enough wins.

    Examples
    --------
    >>> [round(power(tv=tv, samples=500), 1) for tv in (0.09, 0.15, 0.27)]
    [0.0, 0.3, 0.9]
    """
    tv = number("tv", tv)
    if not 0 <= tv <= 1:
        raise ValueError(f"tv must be in [0, 1], got {tv!r}")
    samples = whole("samples", samples, least=FEWEST_PROMPTS)
    confidence = number("confidence", confidence)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence!r}")
    level = -math.log1p(-confidence)
    unequal, won = (1 + tv**2) / 2, (1 + tv) ** 2 / (2 * (1 + tv**2))
    # The tuning half: how many pairs are no ties, and of these how many are won, (K, 1) and (K, K).
    tuning = samples - samples // 2
    pairs, share_of_pairs = _counts(np.array([float(tuning)]), unequal)
    wins, share_of_wins = _counts(pairs[0], won)
    share = share_of_pairs.T * share_of_wins
    gain, loss = _log_factors(tv, wins, pairs.T - wins, tuning, level)
    # The other half, (M, 1, 1): the capital, wins * gain + losses * loss, must exceed the level.
    decided, weight = (part.T[..., None] for part in _counts(np.array([samples // 2.0]), unequal))
    spread = np.where(gain > loss, gain - loss, 1)
    needed = np.where(gain > loss, (level - decided * loss) / spread, math.inf)
    fewest = np.floor(np.clip(needed, -1, decided))  # more wins than this
    proved = np.where(fewest < 0, 1.0, bdtrc(np.maximum(fewest, 0), decided.astype(int), won))
    return float((weight * share * proved).sum())


def _counts(trials: NDArray[np.float64], chance: float) -> tuple[NDArray[np.float64], ...]:
    """Values of binomial counts and their shares, (trials, K) each: all, or some quantiles."""
    from scipy.stats import binom  # half a second to import, rarely needed

    most = int(trials.max())
    if most < _QUANTILES:
        values = np.broadcast_to(np.arange(most + 1.0), (len(trials), most + 1))
        return values, np.asarray(binom.pmf(values, trials[:, None], chance))
    levels = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    values = np.asarray(binom.ppf(levels, trials[:, None], chance))
    return values, np.full(values.shape, 1 / _QUANTILES)


def _log_factors(
    tv: float, wins: NDArray[np.float64], losses: NDArray[np.float64], count: int, level: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log of what a win and a loss multiply the capital by, as counts of the tuning half choose."""
    margin = 2 * (math.log1p(tv) - math.log1p(-tv)) if tv < 1 else math.inf
    best = np.full(wins.shape, -math.inf)
    gain, loss = np.zeros(wins.shape), np.zeros(wins.shape)
    for clip in _CLIPS:
        # All scales beyond the clip are alike.
        for scaled in dict.fromkeys(min(scale * margin, clip) for scale in _SCALES):
            won, lost = math.log(2) - np.logaddexp(0, [-scaled, scaled])
            mean = (wins * won + losses * lost) / count
            squares = (wins * won**2 + losses * lost**2) / count
            variance = np.maximum(squares - mean**2, 0) * count / (count - 1)
            stake, promised = _stake(mean, variance, count, clip, level)
            better = promised >= best  # of equals the last, as `max` in `_tune` has it
            best = np.where(better, promised, best)
            gain = np.where(better, np.log1p(stake * won), gain)
            loss = np.where(better, np.log1p(stake * lost), loss)
    return gain, loss


def _numbered(prompts: Tensor) -> Tensor:
    """Prompts' numbers as they are, of any type of integer, from a tensor, array or list."""
    if not isinstance(prompts, Tensor):
        try:
            prompts = torch.from_numpy(np.array(prompts))
        except (TypeError, ValueError):
            raise ValueError("prompts must be the number of each margin's prompt") from None
    return prompts


def _values(margins: Tensor, prompt: Tensor, scale: float, clip: float) -> Tensor:
    """Mean of log 2 - logistic(d) of each prompt 0, 1, ..., shape (prompts,)."""
    terms = math.log(2) - penalty_named("logistic")((scale * margins).clamp(-clip, clip))
    counts = torch.bincount(prompt)
    return torch.zeros(len(counts), dtype=terms.dtype).index_add(0, prompt, terms) / counts


def _tune(margins: Tensor, prompt: Tensor, level: float) -> tuple[float, float, float]:
    """Scale, clip and stake that promise the largest bound, to second order in the stake."""
    best = (-math.inf, 1.0, 1.0, 0.0)
    for clip in _CLIPS:
        for scale in _SCALES:
            values = _values(margins, prompt, scale, clip)
            mean, variance = (np.array(part.item()) for part in (values.mean(), values.var()))
            stake, promised = _stake(mean, variance, len(values), clip, level)
            best = max(best, (float(promised), scale, clip, float(stake)))
    return best[1:]


def _stake(
    mean: NDArray[np.float64], variance: NDArray[np.float64], count: int, clip: float, level: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Best stake for values of this mean and variance, and the bound that it promises."""
    largest = _LARGEST_STAKE / math.log1p(math.exp(clip))
    spread = count * variance
    wanted = np.sqrt(2 * level / np.where(spread > 0, spread, 1))
    stake = np.where(spread > 0, np.minimum(wanted, largest), largest)
    return stake, mean - level / (count * stake) - stake * variance / 2


def _lower_bound(values: Tensor, stake: float, level: float) -> float:
    """Largest mean >= 0 that the capital refutes; 0 if it refutes none."""

    def refuted(mean: float) -> bool:
        return torch.log1p(stake * (values - mean)).sum().item() > level

    low, high = 0.0, math.log(2)  # at log 2 no factor exceeds 1
    if not refuted(low):
        return 0.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
