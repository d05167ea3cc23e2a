"""The divergences against their definitions, in more digits."""

import numpy as np
from numpy.typing import NDArray

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.divergences import bhattacharyya, chi_square, entropy, hilbert, js, kl, renyi, tv
from spin_theory.policies import TabularPolicy, require_same_shape
from spin_theory.tolerances import ROUNDING

__all__ = ["CLAIMS", "check_divergences"]

Long = NDArray[np.longdouble]

SHARE = 1e-3
"""Part of the way between two policies at which they are also compared, close together."""


def check_divergences(
    p: TabularPolicy, q: TabularPolicy, *, order: float, tolerance: float = ROUNDING
) -> Evidence:
    r"""Check every divergence, of two policies and of two that nearly agree.

    Parameters
    ----------
    p, q : TabularPolicy, shape (X, Y)
        The two policies; the close pair is p and a policy a thousandth of the way to q.
    order : float
        Order of the Renyi divergence, > 0, not 1.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest error, of the close pair relative to the divergence itself. A Renyi
        divergence is taken times the distance of its order from 1.

    Raises
    ------
    ValueError
        If shapes differ or `order` is out of its range.

    Notes
    -----
    The definitions are summed in numpy's long double, which on most machines has 64 bits of
    mantissa instead of 53.

    Examples
    --------
    >>> p, q = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> check_divergences(p, q, order=3.0).holds
    True
    """
    require_same_shape(p=p, q=q)
    near = TabularPolicy.from_logits(p.log_probs + SHARE * (q.log_probs - p.log_probs))
    errors = []
    for other, floor in ((q, 1.0), (near, 0.0)):
        found = {
            "kl": kl(p, other),
            "tv": tv(p, other),
            "js": js(p, other),
            "chi_square": chi_square(p, other),
            "renyi": abs(order - 1) * renyi(p, other, order=order),
            "hilbert": hilbert(p, other),
        }
        expected = _definitions(p, other, order)
        for name, values in found.items():
            right = expected[name]
            sizes = np.maximum(np.abs(right), np.finfo(float).tiny) + floor
            if name == "renyi":  # a difference of two exponentials, each of the order times TV
                sizes = sizes + order * expected["tv"]
            errors.append(float((np.abs(values.numpy() - right) / sizes).max()))
        overlap = np.abs(bhattacharyya(p, other).numpy() - expected["bhattacharyya"])
        errors.append(float(overlap.max()))
    log_p = p.log_probs.numpy().astype(np.longdouble)
    plain = -(np.exp(log_p) * log_p).sum(axis=-1)
    errors.append(float((np.abs(entropy(p).numpy() - plain) / (1 + plain)).max()))
    return Evidence(largest_error(errors), tolerance, {"kl": float(kl(p, q).mean())})


def _definitions(p: TabularPolicy, q: TabularPolicy, order: float) -> dict[str, Long]:
    """Every divergence from its definition, (X,) each."""
    log_p, log_q = (table.log_probs.numpy().astype(np.longdouble) for table in (p, q))
    first, second = np.exp(log_p), np.exp(log_q)
    ratio = log_p - log_q
    difference = second * np.expm1(ratio)
    # p log(p/m) - p + m, of terms that are all >= 0, with m/p - 1 = x
    away = [(-difference / 2 / first, first), (difference / 2 / second, second)]
    parts = [weight * (x - np.log1p(x)) for x, weight in away]
    power = second * (np.expm1(order * ratio) - order * np.expm1(ratio))
    return {
        "kl": (first * ratio - difference).sum(-1),
        "tv": np.abs(difference).sum(-1) / 2,
        "js": (parts[0] + parts[1]).sum(-1) / 2,
        "chi_square": (difference**2 / second).sum(-1),
        "renyi": np.log1p(power.sum(-1)) * np.sign(order - 1),
        "hilbert": ratio.max(-1) - ratio.min(-1),
        "bhattacharyya": np.sqrt(first * second).sum(-1),
    }


CLAIMS = (
    Claim(
        name="divergences",
        statement="KL, total variation, Jensen-Shannon, chi-square, Renyi, Bhattacharyya, Hilbert "
        "and entropy are the sums that define them, also where two policies nearly agree.",
        source="derived",
        function=check_divergences,
        tolerance=ROUNDING,
        check=lambda draw, *_: check_divergences(
            draw.small_data, draw.small_start, order=2.0 if draw.beta == 1 else 1 / draw.beta
        ),
    ),
)
