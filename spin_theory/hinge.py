"""The minimum of SPIN's objective under the hinge penalty, by dynamic programming."""

import torch
from torch import Tensor

from spin_theory.policies import TabularPolicy, require_same_shape

__all__ = ["hinge_minimum"]


def hinge_minimum(data: TabularPolicy, opponent: TabularPolicy) -> tuple[Tensor, Tensor]:
    r"""Least expected hinge over all advantages, and the integer advantages that reach it.

    Parameters
    ----------
    data, opponent : TabularPolicy, shape (X, Y)
        p_data(y|x) and p_t(y|x).

    Returns
    -------
    values : Tensor, shape (X,)
        :math:`\min_f \sum_{y, y'} p_{data}(y) p_t(y') \max(0, 1 - f(y) + f(y'))` per prompt.
    advantages : Tensor, shape (X, Y)
        A minimiser, float64 integers from 0, monotone in p_data/p_t.

    Raises
    ------
    ValueError
        If the shapes differ.

    Notes
    -----
    The constraints of this linear programme are differences, so some minimiser is integer.
    For integer :math:`f` with level sets :math:`S_k = \{f < k\}`, :math:`\emptyset = S_0
    \subset S_1 \subset \dots \subset S_K` = everything, the pair (y, y') costs one for each k
    with :math:`y \in S_k` and :math:`y' \notin S_{k-1}`, so the objective is

    .. math:: \sum_{k=1}^{K} p_{data}(S_k) \, [1 - p_t(S_{k-1})].

    Given its neighbours, the best :math:`S_k` takes the responses whose p_data/p_t is below a
    threshold. So adjacent levels are in the order of p_data/p_t, all level sets are prefixes of
    that order, and the best chain of prefixes is a shortest path: O(Y^2) time, O(Y) memory.

    Examples
    --------
    >>> data = TabularPolicy.from_probs([[0.9, 0.1]])
    >>> values, advantages = hinge_minimum(data, TabularPolicy.from_probs([[0.2, 0.8]]))
    >>> values, advantages  # f = (1, 0): 0.9*0.2*1 + 0.1*0.8*1 + 0.1*0.2*2
    (tensor([0.3000], dtype=torch.float64), tensor([[1., 0.]], dtype=torch.float64))
    """
    require_same_shape(data=data, opponent=opponent)
    log_ratios = (data.log_probs - opponent.log_probs).detach()
    order = log_ratios.argsort(dim=-1, stable=True)
    values, advantages = [], torch.zeros_like(log_ratios)
    for row, ranking in enumerate(order):
        value, starts = _shortest_chain(
            data.probs[row, ranking].detach(), opponent.probs[row, ranking].detach()
        )
        values.append(value)
        for start in starts:
            advantages[row, ranking[start:]] += 1
    return torch.stack(values), advantages


def _shortest_chain(real: Tensor, generated: Tensor) -> tuple[Tensor, list[int]]:
    """Best chain of prefixes of sorted (Y,) probabilities: its cost, and where levels start."""
    responses = real.numel()
    zero = real.new_zeros(1)
    real_below = torch.cat([zero, real.cumsum(0)])  # p_data of each prefix
    generated_above = torch.cat([generated.flip(0).cumsum(0).flip(0), zero])  # p_t of the rest
    cost = torch.cat([zero, real.new_full((responses,), torch.inf)])
    previous = [0] * (responses + 1)
    for end in range(1, responses + 1):
        candidates = cost[:end] + real_below[end] * generated_above[:end]
        previous[end] = int(candidates.argmin())
        cost[end] = candidates[previous[end]]
    starts, end = [], responses
    while previous[end] > 0:
        end = previous[end]
        starts.append(end)
    return cost[responses], starts
