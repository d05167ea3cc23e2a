"""The convergence meter on a sample: from held-out margins to a bound on a distance."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spin_theory.losses import penalty_named

__all__ = ["FEWEST_PROMPTS", "Meter", "convergence_meter"]

FEWEST_PROMPTS = 4
"""Two to tune on and two to estimate from."""

# What the first half chooses among: factors on the margin (1/nats) and limits of the product.
_SCALES = [2.0**power for power in range(-12, 7)]
_CLIPS = [0.5, 1.0, 2.0, 4.0, 8.0]
# Of the largest stake that keeps the capital positive; at 1 a single pair could end it.
_LARGEST_STAKE = 0.9


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
    if margins.ndim != 1 or margins.shape != prompts.shape:
        raise ValueError(
            "margins and prompts must have one shape (B,), got "
            f"{tuple(margins.shape)} and {tuple(prompts.shape)}"
        )
    if not bool(margins.isfinite().all()):
        raise ValueError("margins must be finite")
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


def _values(margins: Tensor, prompt: Tensor, scale: float, clip: float) -> Tensor:
    """Mean of log 2 - logistic(d) of each prompt 0, 1, ..., shape (prompts,)."""
    terms = math.log(2) - penalty_named("logistic")((scale * margins).clamp(-clip, clip))
    counts = torch.bincount(prompt)
    return torch.zeros(len(counts), dtype=terms.dtype).index_add(0, prompt, terms) / counts


def _tune(margins: Tensor, prompt: Tensor, level: float) -> tuple[float, float, float]:
    """Scale, clip and stake that promise the largest bound, to second order in the stake."""
    best = (-math.inf, 1.0, 1.0, 0.0)
    for clip in _CLIPS:
        largest = _LARGEST_STAKE / math.log1p(math.exp(clip))
        for scale in _SCALES:
            values = _values(margins, prompt, scale, clip)
            count, variance = len(values), values.var().item()
            wanted = math.sqrt(2 * level / (count * variance)) if variance > 0 else math.inf
            stake = min(wanted, largest)
            promised = values.mean().item() - level / (count * stake) - stake * variance / 2
            best = max(best, (promised, scale, clip, stake))
    return best[1:]


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
