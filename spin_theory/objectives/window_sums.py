"""Sums over windows of a sorted row, by additions and by differences that lose no digits."""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["running_sums", "running_sums_of_the_others", "sorted_order"]


def sorted_order(scores: Tensor) -> Tensor:
    """Sort every row of scores in linear time.

    Parameters
    ----------
    scores : Tensor, shape (X, Y)
        Score of each response, in nats, finite, float64.

    Returns
    -------
    Tensor, shape (X, Y)
        Number of the lowest response of each prompt, of the next, ..., of the highest.

    Examples
    --------
    >>> sorted_order(torch.tensor([[0.5, -2.0, -1.0]], dtype=torch.float64))
    tensor([[1, 2, 0]])
    """
    prompts, responses = scores.shape
    # The bits of a float are ordered as the float is, once those below the sign of a negative
    # one are flipped. Whole numbers in one dimension are what torch sorts by their digits.
    bits = scores.contiguous().view(torch.int64).flatten()
    keys = (bits >> 63).bitwise_and_(torch.iinfo(torch.int64).max).bitwise_xor_(bits)
    order = keys.sort(stable=True).indices
    if prompts > 1:
        order = order[(order // responses).sort(stable=True).indices] % responses
    return order.view(prompts, responses)


def running_sums(values: Tensor) -> Tensor:
    r"""Sum the values up to each, itself included.

    Parameters
    ----------
    values : Tensor, shape (X, Y)
        What to add along the last dimension.

    Returns
    -------
    Tensor, shape (X, Y)
        Sums of the first, the first two, ..., all the values.

    Notes
    -----
    Added in blocks of about :math:`\sqrt{Y}` values, then block to block, so that rounding is that
    of :math:`2 \sqrt{Y}` additions instead of Y.

    Examples
    --------
    >>> running_sums(torch.tensor([[1.0, 2.0, 4.0]]))
    tensor([[1., 3., 7.]])
    """
    prompts, responses = values.shape
    size = 1 << (responses.bit_length() // 2)
    sums = functional.pad(values, (0, -responses % size)).view(prompts, -1, size)
    torch.cumsum(sums, dim=-1, out=sums)
    sums[:, 1:] += sums[:, :-1, -1:].cumsum(dim=-2)
    return sums.view(prompts, -1)[:, :responses]


def running_sums_of_the_others(weights: Tensor, last: Tensor) -> Tensor:
    r"""Sum the weights up to a place at or after each, without each itself.

    Parameters
    ----------
    weights : Tensor, shape (X, Y)
        Weights :math:`w_i` >= 0, no unit.
    last : Tensor, shape (X, Y)
        Places :math:`b_i \geq i` that never fall from one i to the next, int64.

    Returns
    -------
    Tensor, shape (X, Y)
        :math:`\sum_{j \leq b_i, j \neq i} w_j`, to a rounding relative to itself.

    Notes
    -----
    The sum with :math:`w_i`, less :math:`w_i`, unless this is more than half of it. Such a heavy
    :math:`w_i` exceeds all others up to :math:`b_i`, so that none of those after i is heavy: their
    sums have :math:`w_i` in them. With the heavy weights apart from the light ones, i then has the
    light ones up to :math:`b_i` and the heavy ones before i, and nothing to subtract.

    Examples
    --------
    >>> weights = torch.tensor([[4.0, 2.0, 1e30, 1.0]])
    >>> running_sums_of_the_others(weights, torch.tensor([[1, 1, 3, 3]]))
    tensor([[2.0000e+00, 4.0000e+00, 7.0000e+00, 1.0000e+30]])
    """
    others = running_sums(weights).gather(-1, last).sub_(weights)
    heavy = others < weights
    part = weights.masked_fill(heavy, 0.0)
    without = running_sums(part).gather(-1, last)
    without[:, 1:] += running_sums(part.sub_(weights).neg_())[:, :-1]
    return torch.where(heavy, without, others, out=others)
