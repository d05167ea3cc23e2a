"""Hinge minima: SPIN's by dynamic programming, any other by minimum cuts."""

from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from spin_theory.inputs import tensor
from spin_theory.minima.circulations import largest_circulation, whole_numbers
from spin_theory.minima.rounding import rounded_down
from spin_theory.policies import TabularPolicy, pairwise_differences, require_same_shape

__all__ = ["chain_potentials", "hinge_bound", "hinge_minimum", "hinge_programme"]

MOST_EXACT = 256
"""Responses up to which the shortest chain is found in whole numbers, in milliseconds."""


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
    \subset S_1 \subset \ldots \subset S_K` = everything, the pair (y, y') costs one for each k
    with :math:`y \in S_k` and :math:`y' \notin S_{k-1}`, so the objective is

    .. math:: \sum_{k=1}^{K} p_{data}(S_k) \, [1 - p_t(S_{k-1})].

    Given its neighbours, the best :math:`S_k` takes the responses whose p_data/p_t is below a
    threshold. So adjacent levels are in the order of p_data/p_t, all level sets are prefixes of
    that order, and the best chain of prefixes is a shortest path: O(Y^2) time, O(Y) memory. Up to
    256 responses it is found in whole numbers, without rounding; beyond, in float64, where a level
    may be missed whose probabilities are below rounding.

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
        cost, starts = _shortest_chain(
            data.log_probs[row, ranking].detach(), opponent.log_probs[row, ranking].detach()
        )
        values.append(cost[-1])
        for start in starts:
            advantages[row, ranking[start:]] += 1
    return torch.stack(values), advantages


def chain_potentials(data: TabularPolicy, opponent: TabularPolicy) -> Tensor:
    """Cost of the best chain up to each prefix: the dual solution of :func:`hinge_minimum`.

    Parameters
    ----------
    data, opponent : TabularPolicy, shape (X, Y)
        p_data(y|x) and p_t(y|x).

    Returns
    -------
    Tensor, shape (X, Y + 1)
        Potential of each prefix of the order of p_data/p_t, the empty one first.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> data = TabularPolicy.from_probs([[0.9, 0.1]])
    >>> chain_potentials(data, TabularPolicy.from_probs([[0.2, 0.8]]))
    tensor([[0.0000, 0.1000, 0.3000]], dtype=torch.float64)
    """
    real, generated = _ranked(data, opponent)
    return torch.stack(
        [_shortest_chain(*tables)[0] for tables in zip(real, generated, strict=True)]
    )


def hinge_bound(data: TabularPolicy, opponent: TabularPolicy, potentials: Tensor) -> Tensor:
    r"""Lower bound of the expected hinge that any potentials prove.

    Parameters
    ----------
    data, opponent : TabularPolicy, shape (X, Y)
        p_data(y|x) and p_t(y|x).
    potentials : Tensor, shape (X, Y + 1)
        Any number for each prefix, as of :func:`chain_potentials`, which give the tight bound.

    Returns
    -------
    Tensor, shape (X,)
        A number that no advantages go below, whatever the potentials are.

    Raises
    ------
    ValueError
        If the shapes differ or the potentials are not one more than the responses.

    Notes
    -----
    For any :math:`f`, :math:`\max(0, 1 - f + f') = \int 1[f < t] \, 1[f' \ge t - 1] \, dt`,
    so the objective is an average of chain costs over the offset of t, and no chain of sets is
    cheaper than the best chain of prefixes (:func:`hinge_minimum`). A step from prefix a to b
    costs :math:`c_{ab} = p_{data}(S_b) [1 - p_t(S_a)]`; if no step is cheaper than the rise of
    the potential, none of the chains is cheaper than its whole rise. A violation v is taken off
    for each of at most Y steps. This is the dual of the shortest path's linear programme.

    Examples
    --------
    >>> data = TabularPolicy.from_probs([[0.9, 0.1]])
    >>> opponent = TabularPolicy.from_probs([[0.2, 0.8]])
    >>> hinge_bound(data, opponent, torch.tensor([[0.0, 0.0, 0.18]], dtype=torch.float64))
    tensor([0.1800], dtype=torch.float64)
    """
    potentials = tensor("potentials", potentials)
    real, generated = _ranked(data, opponent)
    prompts, responses = real.shape
    if tuple(potentials.shape) != (prompts, responses + 1):
        raise ValueError(
            f"potentials must have shape {(prompts, responses + 1)}, got {tuple(potentials.shape)}"
        )
    bounds = []
    for row in range(prompts):
        below, above = _masses(real[row].exp(), generated[row].exp())
        rises = pairwise_differences(potentials[row]).T  # (Y + 1, Y + 1): from prefix a to b
        costs = torch.outer(above, below)
        violation = (rises - costs).triu(diagonal=1).max().clamp(min=0)
        rise = potentials[row, -1] - potentials[row, 0]
        reach = 2 * responses + float(torch.cat([real[row], generated[row]]).abs().max())
        bounds.append(
            rounded_down(rise - responses * violation, potentials[row].abs().max(), reach)
        )
    return torch.stack(bounds)


def hinge_programme(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    r"""Minimise an expected hinge for any weights, exactly: by :func:`largest_circulation`.

    Parameters
    ----------
    log_weights : Tensor, shape (X, Y, Y)
        Log of the weight :math:`W_{ij}` of the margin :math:`f_i - f_j`, in nats, float64.

    Returns
    -------
    scores : Tensor, shape (X, Y)
        Minimising scores, integers from 0.
    flows : Tensor, shape (X, Y, Y)
        The dual solution, a largest circulation with capacities W; :func:`certify` makes a bound
        of it.

    Raises
    ------
    ValueError
        If the weights span more than about 14,000 nats.

    Notes
    -----
    The dual of :math:`\min_f \sum W_{ij} \max(0, 1 - f_i + f_j)` is :math:`\max \sum x_{ij}`
    over circulations :math:`0 \le x \le W`. Any weights, so T-SPIN's too; for SPIN
    :func:`hinge_minimum` is faster.

    Examples
    --------
    >>> weights = torch.tensor([[[0.18, 0.72], [0.02, 0.08]]], dtype=torch.float64)
    >>> scores, flows = hinge_programme(weights.log())
    >>> scores, flows.sum()  # 0.18 + 0.08, and 0.02 back and forth
    (tensor([[1., 0.]], dtype=torch.float64), tensor(0.3000, dtype=torch.float64))
    """
    solved = [largest_circulation(matrix) for matrix in log_weights.detach().numpy()]
    scores, flows = (torch.from_numpy(np.stack(part)) for part in zip(*solved, strict=True))
    return scores, flows


def _ranked(data: TabularPolicy, opponent: TabularPolicy) -> tuple[Tensor, Tensor]:
    """Both tables' log-probs (X, Y) in the order of p_data/p_t."""
    require_same_shape(data=data, opponent=opponent)
    order = (data.log_probs - opponent.log_probs).detach().argsort(dim=-1, stable=True)
    return data.log_probs.detach().gather(-1, order), opponent.log_probs.detach().gather(-1, order)


def _masses(real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    """p_data of each prefix and p_t of the rest, (Y + 1,) each."""
    zero = real.new_zeros(1)
    real_below = torch.cat([zero, real.cumsum(0)])
    return real_below, torch.cat([generated.flip(0).cumsum(0).flip(0), zero])


def _shortest_chain(log_real: Tensor, log_generated: Tensor) -> tuple[Tensor, list[int]]:
    """Best chain of prefixes of sorted log-probs (Y,): costs of all, and levels' starts."""
    responses = log_real.numel()
    if responses <= MOST_EXACT:
        cost, previous = _exact_costs(log_real, log_generated)
    else:
        cost, previous = _costs(log_real.exp(), log_generated.exp())
    starts, end = [], responses
    while previous[end] > 0:
        end = previous[end]
        starts.append(end)
    return cost, starts


def _exact_costs(log_real: Tensor, log_generated: Tensor) -> tuple[Tensor, list[int]]:
    """Cost of the best chain up to each prefix, and the prefix before it, in whole numbers."""
    tables = torch.stack([log_real, log_generated]).numpy()
    (real, generated), shift = whole_numbers(tables)
    below = [0, *accumulate(real)]
    above = [*list(accumulate(generated[::-1]))[::-1], 0]
    cost, previous = [0], [0]
    for end in range(1, len(below)):
        candidates = [cost[start] + below[end] * above[start] for start in range(end)]
        cost.append(min(candidates))
        previous.append(candidates.index(cost[end]))
    unit = 1 << (2 * shift)
    return torch.tensor([value / unit for value in cost], dtype=torch.float64), previous


def _costs(real: Tensor, generated: Tensor) -> tuple[Tensor, list[int]]:
    """Do the same in float64."""
    responses = real.numel()
    real_below, generated_above = _masses(real, generated)
    cost = torch.cat([real.new_zeros(1), real.new_full((responses,), torch.inf)])
    previous = [0] * (responses + 1)
    for end in range(1, responses + 1):
        # From prefix a to prefix `end` costs p_data(S_end) [1 - p_t(S_a)], for all a at once.
        candidates = cost[:end] + real_below[end] * generated_above[:end]
        previous[end] = int(candidates.argmin())
        cost[end] = candidates[previous[end]]
    return cost, previous
