"""The tables on which the convergence meter sees least."""

import math

from spin_theory.inputs import number

__all__ = ["hardest_js"]


def hardest_js(tv: float) -> float:
    r"""Least JS(P, Q) of any two distributions at a total variation distance.

    Parameters
    ----------
    tv : float
        Total variation distance of data and opponent, in [0, 1].

    Returns
    -------
    float
        In nats, from 0 to log 2. No meter can have a larger expectation on every such pair.

    Raises
    ------
    ValueError
        If `tv` is not in [0, 1].

    Notes
    -----
    Derived. Telling only responses with :math:`p_{data} > p_t` from the others keeps the total
    variation t and cannot raise JS(P, Q), so two responses are hardest: :math:`p_{data} = (a,
    1 - a)`, :math:`p_t = (a - t, 1 - a + t)`. A pair of two different responses has probability
    :math:`w = a (1 - a + t)` in the order that the data prefer, :math:`w - t` in the other, and

    .. math:: JS(P, Q) = w \log \frac{2 w}{2 w - t} + (w - t) \log \frac{2 (w - t)}{2 w - t}

    falls in w, which is largest, :math:`(1 + t)^2 / 4`, at :math:`a = (1 + t) / 2`.

    Examples
    --------
    >>> hardest_js(0.0), round(hardest_js(1.0) / math.log(2), 12)
    (0.0, 1.0)
    """
    tv = number("tv", tv)
    if not 0 <= tv <= 1:
        raise ValueError(f"tv must be in [0, 1], got {tv!r}")
    if tv == 1:
        return math.log(2)
    # With w and w - t of the notes, written so that no digits cancel at small t ...
    if tv <= 0.5:
        unlike = math.log1p(-(tv**2)) - math.log1p(tv**2)
        return (1 + tv**2) / 2 * unlike + 2 * tv * math.atanh(tv)
    # ... and with 1 - t, which is exact, where t**2 would lose what is left to 1.
    apart = (1 + tv) ** 2 * math.log1p(tv) + (1 - tv) ** 2 * math.log1p(-tv)
    return (apart - (1 + tv**2) * math.log1p(tv**2)) / 2
