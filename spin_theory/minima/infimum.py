"""Pairs that have no minimum: their infimum, certified, and the direction of escape."""

from dataclasses import dataclass

import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from spin_theory.minima.certificates import certify
from spin_theory.minima.newton import newton, require_newton

__all__ = ["Infimum", "infimum"]


@dataclass(frozen=True)
class Infimum:
    """What :func:`infimum` found.

    Attributes
    ----------
    value : float
        Infimum of the mean penalty, approached along the direction.
    lower_bound : float
        What no scores can go below, by :func:`certify`.
    scores : Tensor, shape (Y,)
        Where to start, no unit: the minimiser, if there is one.
    direction : Tensor, shape (Y,)
        Where to go from there, whole numbers: 0 where the minimum exists. Along it no margin
        of a pair that occurs falls, and those between groups grow by 1 or more per unit.
    """

    value: float
    lower_bound: float
    scores: Tensor
    direction: Tensor

    @property
    def attained(self) -> bool:
        """Whether finite scores reach the infimum.

        Returns
        -------
        bool
            False where the pairs are separable.
        """
        return not bool(self.direction.any())


def infimum(weights: Tensor, *, loss_type: str = "logistic") -> Infimum:
    r"""Find the infimum of a mean penalty over pairs, whether or not a minimum exists.

    Parameters
    ----------
    weights : Tensor, shape (Y, Y)
        Entry (i, j) is the weight, >= 0, of the pair with real response i and generated j:
        counts of sampled pairs over their number, or :math:`\hat p_{data} \otimes p_t` with zeros.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty :math:`\ell`; it must fall to 0.

    Returns
    -------
    Infimum
        Value, lower bound, and the way to it.

    Raises
    ------
    ValueError
        If the weights are not finite, >= 0 and of shape (Y, Y), or the penalty does not suit
        Newton's method.

    Notes
    -----
    Derived. Responses that reach each other by wins, pairs of positive weight, form a group
    (Ford's condition for Bradley-Terry models). Wins between groups have no cycle, so groups can
    be put in an order in which every such pair is won by the higher one. Pulling the groups apart
    brings these terms to 0, and leaves the others, each group's own sum, which has a minimum. The
    sum of those is the infimum. For :math:`\hat p_{data} \otimes p_t` and the logistic penalty it
    is :math:`\log 2 - JS(P, Q)` with :math:`0 \log 0 = 0`.

    Examples
    --------
    >>> seen_once = torch.tensor([[0.5, 0.5], [0.0, 0.0]], dtype=torch.float64)
    >>> found = infimum(seen_once)  # y = y' in half of the pairs: log 2 / 2
    >>> round(found.value, 4), found.direction.tolist(), found.attained
    (0.3466, [1.0, 0.0], False)
    """
    require_newton(loss_type)
    weights = weights.detach().double()
    if weights.dim() != 2 or weights.shape[0] != weights.shape[1] or weights.numel() == 0:
        raise ValueError(f"weights must have shape (Y, Y), got {tuple(weights.shape)}")
    if not bool((weights.isfinite() & (weights >= 0)).all()):
        raise ValueError("weights must be finite and >= 0")
    graph = csr_array((weights > 0).double().numpy())
    count, labels = connected_components(graph, directed=True, connection="strong")
    group = torch.from_numpy(labels).long()
    scores = torch.zeros(len(weights), dtype=torch.float64)
    value = bound = 0.0
    for label in range(count):
        members = (group == label).nonzero()[:, 0]
        inside = weights[members[:, None], members].log()[None]  # (1, G, G)
        found = newton(inside, loss_type=loss_type).scores
        proof = certify(inside, found, loss_type=loss_type)
        scores[members] = found[0]
        bound += float(proof.lower_bound)
        value += float(proof.lower_bound + proof.gap)
    return Infimum(value, bound, scores, _heights(weights > 0, group, count)[group])


def _heights(wins: Tensor, group: Tensor, count: int) -> Tensor:
    """Height of each group above those that it wins against, (groups,): the longest chain."""
    heights = torch.zeros(count, dtype=torch.float64)
    pairs = {(int(group[i]), int(group[j])) for i, j in wins.nonzero().tolist()}
    between = [(winner, loser) for winner, loser in pairs if winner != loser]
    for _ in range(count):  # at most as many rounds as a chain is long
        before = heights.clone()
        for winner, loser in between:
            heights[winner] = max(heights[winner], heights[loser] + 1)
        if heights.equal(before):
            break
    return heights
