"""Lower bounds that rounding cannot lift above what they bound."""

from torch import Tensor

from spin_theory.tolerances import EPSILON

__all__ = ["rounded_down"]

ROUNDINGS = 64
"""Of a sum over pairs, in units in the last place; the fast sums are good to 30."""


def rounded_down(bound: Tensor, scale: Tensor, reach: float | Tensor) -> Tensor:
    r"""Lower a bound by what rounding may have added to it, and to the value that it bounds.

    Parameters
    ----------
    bound : Tensor, shape (...)
        As computed.
    scale : Tensor, shape (...)
        Sum of the absolute values of the terms that it is the sum of.
    reach : float or Tensor, shape (...)
        Largest logarithm that was exponentiated on the way, in nats: its rounding is that of the
        number times this.

    Returns
    -------
    Tensor, shape (...)
        The bound less :math:`2^{-52} (64 + \text{reach})` times the scale.

    Examples
    --------
    >>> import torch
    >>> one = torch.ones((), dtype=torch.float64)
    >>> float(one - rounded_down(one, one, 0.0)) / 2**-52
    64.0
    """
    return bound - EPSILON * (ROUNDINGS + reach) * scale
