"""Lower bounds of expected penalties that do not depend on a solver, and how tight they are.

An expected penalty is a sum of convex functions of differences of scores, so its dual is a flow
problem: every circulation, found by whomever, gives a number that no policy can go below.
"""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from torch import Tensor
from torch.nn.functional import logsigmoid

from spin_theory.losses import Penalty, penalty_named
from spin_theory.minima.rounding import rounded_down
from spin_theory.minima.sft_term import SftTerm
from spin_theory.policies import TabularPolicy, pairwise_differences, require_same_shape

__all__ = ["Certificate", "Ray", "certify", "descending_ray"]

Matrix = NDArray[np.float64]

LEAST_EASE = 1e-300
"""Of an edge whose flow cannot change, so that a spanning tree always exists."""
PASSES = 3
"""Corrections of the flows: after the first only rounding is left to correct."""


@dataclass(frozen=True)
class Certificate:
    """What the circulation of :func:`certify` proves.

    Attributes
    ----------
    lower_bound : Tensor, shape (X,)
        No scores have a smaller expected penalty; true for every input, as it is rounded down.
    gap : Tensor, shape (X,)
        Expected penalty minus lower bound, at least 0: a sum of nonnegative terms, so that it
        keeps its digits far below the rounding of either.
    """

    lower_bound: Tensor
    gap: Tensor


@dataclass(frozen=True)
class Ray:
    """A direction along which an objective falls without bound.

    Attributes
    ----------
    direction : Tensor, shape (X, Y)
        Scores to add any multiple of; of mean 0 per prompt.
    slope : Tensor, shape (X,)
        How far the expected penalty falls for each multiple; 0 where there is no such ray.
    """

    direction: Tensor
    slope: Tensor


def certify(
    log_weights: Tensor,
    scores: Tensor,
    *,
    loss_type: str = "logistic",
    flows: Tensor | None = None,
    sft: SftTerm | None = None,
) -> Certificate:
    r"""Bound an expected penalty from below by the circulation that some scores suggest.

    Parameters
    ----------
    log_weights : Tensor, shape (X, Y, Y)
        Log of the weight :math:`W_{ij}` of the margin :math:`f_i - f_j`, in nats, float64.
    scores : Tensor, shape (X, Y)
        Scores f that are claimed to be the minimiser; the better, the tighter the bound.
    loss_type : {'logistic', 'hinge', 'exponential'}, default 'logistic'
        The penalty :math:`\ell`.
    flows : Tensor, shape (X, Y, Y), optional
        Flows to start from instead of :math:`W_{ij} |\ell'(f_i - f_j)|`; needed for a penalty with
        kinks. Those of hinge are found by :func:`hinge_programme`.
    sft : SftTerm, optional
        What is added to the penalties, if anything.

    Returns
    -------
    Certificate
        Bound and gap of each prompt.

    Raises
    ------
    ValueError
        If `loss_type` is unknown, not bounded below or without a conjugate, or has kinks and
        comes without flows.

    Notes
    -----
    Fenchel duality: :math:`\ell(t) = \max_u [h(u) - u t]` with :math:`h(u) = -u \log u - (1-u)
    \log(1-u)` for logistic, :math:`u - u \log u` for exponential and :math:`u \in [0, 1]` for
    hinge. For flows :math:`x_{ij} = W_{ij} u_{ij}` that balance at every response the scores
    cancel, and :math:`\sum W_{ij} h(u_{ij})` is below every value. Flows that do not balance
    are corrected along the spanning tree with most room; flows that then leave their domain are
    mixed with the symmetric circulation :math:`\min(W_{ij}, W_{ji})/2`. For SPIN the optimal
    flows are :math:`PQ/(P + Q)`, the bound is :math:`\log 2 - JS(P, Q)`, and the gap is the
    :math:`E_M KL(Ber(\eta) \| Ber(\sigma))` of :func:`optimality_gap`.

    An SFT term is one more node, which sends :math:`(w/\beta) \pi` to the responses and gets
    :math:`(w/\beta) p_{data}` from them, for any policy :math:`\pi`: with flows that balance there
    too the scores cancel, as :math:`\log \sum e^z = \max_\pi [\pi \cdot z + H(\pi)]`. The bound
    gains :math:`w [H(\pi) + \sum (\pi - p_{data}) \log p_{ref}]` and the gap :math:`w \, KL(\pi \|
    p)`, p the policy of the scores, which is where :math:`\pi` starts.

    Examples
    --------
    >>> weights = torch.tensor([[[0.1, 0.4], [0.1, 0.4]]], dtype=torch.float64)
    >>> best = torch.tensor([[4.0, 1.0]], dtype=torch.float64).log()
    >>> certify(weights.log(), best).lower_bound  # entropy of (0.8, 0.2), and log 2: half each
    tensor([0.5968], dtype=torch.float64)
    >>> float(certify(weights.log(), best).gap) < 1e-30
    True
    """
    penalty = penalty_named(loss_type)
    if not penalty.bounded_below:
        raise ValueError(f"loss_type {loss_type} has no lower bound; see descending_ray")
    if flows is None and penalty.kinks:
        raise ValueError(f"loss_type {loss_type} needs flows; see hinge_programme")
    weights, margins = log_weights.exp(), pairwise_differences(scores)  # (X, Y, Y) each
    if flows is None and loss_type == "logistic":
        # W - used, with the digits that it has where the flow nearly fills the capacity
        used, room = weights * torch.sigmoid(-margins), weights * torch.sigmoid(margins)
    else:
        if flows is None:
            flows = (log_weights + penalty.log_derivatives(margins)[0]).exp()
        capacity = _capacity(penalty, weights, 0.0 if sft is None else sft.weight / sft.beta)
        used = torch.minimum(flows.clamp(min=0), capacity)
        room = capacity - used
    safe = torch.minimum(weights, weights.mT) / 2
    matrices = _without_diagonal(used), _without_diagonal(room), _without_diagonal(safe)
    if sft is not None:
        matrices = sft.with_hub(scores, *matrices)
    tables = zip(*(matrix.numpy() for matrix in matrices), strict=True)
    balanced = [_balance(*each, smooth=not penalty.kinks) for each in tables]
    changed = [torch.from_numpy(np.stack(part)) for part in zip(*balanced, strict=True)]
    responses = scores.shape[-1]
    used, room, shift = (part[:, :responses, :responses] for part in changed)
    dual = _DUALS.get(loss_type, partial(_conjugate_dual, penalty))
    bounds, gaps = dual(margins, weights, used, room, shift)
    off_diagonal = ~torch.eye(scores.shape[-1], dtype=torch.bool)
    own = weights.diagonal(dim1=-2, dim2=-1)  # the margin of a response with itself is 0
    at_zero = (own * penalty(torch.zeros_like(own))).sum(dim=-1)
    bounds = bounds * off_diagonal
    bound, size = bounds.sum(dim=(-2, -1)) + at_zero, bounds.abs().sum(dim=(-2, -1)) + at_zero
    gap = (gaps.clamp(min=0) * off_diagonal).sum(dim=(-2, -1))  # below 0 by rounding alone
    reach = _reach(log_weights, scores)
    if sft is not None:
        terms, apart, largest = sft.dual(scores, changed[0][:, -1, :-1], changed[2][:, -1, :-1])
        bound, size = bound + terms.sum(dim=-1), size + terms.abs().sum(dim=-1)
        # The flows' imbalance, which is rounding, counts as the log-probs' range.
        gap, reach = gap + apart, reach + largest
        size = size + sft.weight / sft.beta
    return Certificate(lower_bound=rounded_down(bound, size, reach), gap=gap)


def descending_ray(data: TabularPolicy, opponent: TabularPolicy) -> Ray:
    r"""Certify that the correlation penalty's objective is unbounded below.

    Parameters
    ----------
    data, opponent : TabularPolicy, shape (X, Y)
        p_data and p_t.

    Returns
    -------
    Ray
        Direction p_data - p_t, per prompt, and slope :math:`\sum_y [p_{data}(y) - p_t(y)]^2`.

    Raises
    ------
    ValueError
        If the shapes differ.

    Notes
    -----
    The objective is linear in the scores, :math:`1 - \sum_y [p_{data}(y) - p_t(y)] f(y)`, so at
    s times the direction it is :math:`1 - s \cdot` slope exactly: below every bound unless
    p_t = p_data.

    Examples
    --------
    >>> half = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> descending_ray(TabularPolicy.from_probs([[0.75, 0.25]]), half).slope
    tensor([0.1250], dtype=torch.float64)
    """
    require_same_shape(data=data, opponent=opponent)
    direction = data.probs - opponent.probs
    return Ray(direction=direction, slope=direction.square().sum(dim=-1))


def _reach(log_weights: Tensor, scores: Tensor) -> Tensor:
    """Largest logarithm among weights and margins, (X,), in nats."""
    finite = torch.where(log_weights.isfinite(), log_weights.abs(), 0.0)
    return finite.amax(dim=(-2, -1)) + scores.amax(dim=-1) - scores.amin(dim=-1)


def _capacity(penalty: Penalty, weights: Tensor, supplied: float) -> Tensor:
    """Flow that each pair can carry, (X, Y, Y), for weights of the same shape.

    It is W times the steepest slope. Where slopes are not bounded, no best flow is above |l'(0)|
    times the whole weight: a flow down to a lower score carries W |l'(t)| <= W |l'(0)|, and one up
    to a higher score carries no more than comes back down, or an SFT term supplies.
    """
    if math.isfinite(penalty.steepest):
        return penalty.steepest * weights
    most = -penalty.slope_at_zero * weights.sum(dim=(-2, -1), keepdim=True) + supplied
    return torch.where(weights > 0, most, 0.0)


def _conjugate_dual(
    penalty: Penalty, margins: Tensor, weights: Tensor, used: Tensor, room: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor]:
    """W h(u), and W [l(t) - h(u) + u t], of each pair, for any penalty with a conjugate h."""
    if penalty.conjugate is None:
        raise ValueError(f"loss_type {penalty.name} has no conjugate to certify a minimum with")
    shares = (used + shift).clamp(min=0) / weights  # u
    heights = penalty.conjugate(shares.clamp(max=penalty.steepest))
    gaps = weights * (penalty(margins) - heights + shares * margins)
    return _where_counted(weights, weights * heights), _where_counted(weights, gaps)


def _logistic_dual(
    margins: Tensor, weights: Tensor, used: Tensor, room: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor]:
    """W h(u), and W KL(Ber(u) || Ber(sigma(-t))), of each pair."""
    low, high = weights * torch.sigmoid(-margins), weights * torch.sigmoid(margins)
    off = shift + (used - low)  # from the scores' own share, exact where it is small
    used, left = (used + shift).clamp(min=0), (room - shift).clamp(min=0)
    bounds = -used * _log_share(used, left) - left * _log_share(left, used)
    near = used * torch.log1p(off / low) + left * torch.log1p(-off / high)
    far = -bounds - used * logsigmoid(-margins) - left * logsigmoid(margins)
    gaps = torch.where(off.abs() < torch.minimum(low, high) / 2, near, far)
    return _where_counted(weights, bounds), _where_counted(weights, gaps)


def _exponential_dual(
    margins: Tensor, weights: Tensor, used: Tensor, room: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor]:
    """W h(u), and W times the Fenchel-Young loss of u and t, of each pair."""
    pulls = (weights.log() - margins).exp()
    off = shift + (used - pulls)
    used = (used + shift).clamp(min=0)
    entropy = torch.xlogy(used, used / weights)
    near = used * torch.log1p(off / pulls) - off
    gaps = torch.where(off.abs() < pulls / 2, near, entropy + used * margins - off)
    return _where_counted(weights, used - entropy), _where_counted(weights, gaps)


def _hinge_dual(
    margins: Tensor, weights: Tensor, used: Tensor, room: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor]:
    """x, and W max(0, 1 - t) - x (1 - t), of each pair."""
    used, left = (used + shift).clamp(min=0), (room - shift).clamp(min=0)
    return used, left * (1 - margins).clamp(min=0) + used * (margins - 1).clamp(min=0)


def _log_share(part: Tensor, other: Tensor) -> Tensor:
    """log(part / (part + other)), also where it is tiny; 0 for an empty part, which counts 0."""
    whole = part + other
    small = torch.log1p(-other / whole)
    return torch.where(part == 0, 0.0, torch.where(other < part, small, (part / whole).log()))


def _where_counted(weights: Tensor, values: Tensor) -> Tensor:
    """Set pairs without weight to 0, which leaves 0/0 behind."""
    return torch.where(weights > 0, values, 0.0)


_DUALS = {"logistic": _logistic_dual, "exponential": _exponential_dual, "hinge": _hinge_dual}
"""Bounds and gaps of all pairs by penalty, to more digits than by its conjugate."""


def _without_diagonal(matrices: Tensor) -> Tensor:
    return matrices * (1 - torch.eye(matrices.shape[-1], dtype=matrices.dtype))


def _balance(
    flows: Matrix, room: Matrix, safe: Matrix, *, smooth: bool
) -> tuple[Matrix, Matrix, Matrix]:
    """Flows and room (N, N), and the change of both that makes the flows a circulation.

    Each pass makes the flows balance along a spanning tree, then mixes them with `safe`, which is a
    circulation already, until none is negative or above its room. A small change is kept apart from
    the flow that it changes, where it would lose its digits; a large one is added to it.
    """
    shift = np.zeros_like(flows)
    for _ in range(PASSES):
        up, down = room - shift, flows + shift
        if smooth:  # what a change costs: its square over this, to within a factor of 2
            up = down = np.minimum(up, down)
        shift = shift + _correction(flows + shift, up, down)
        share = 0.0  # the least part of `safe` that brings all flows into their domain
        for excess, limit in ((-flows - shift, safe), (shift - room, room + flows - safe)):
            outside = excess > 0
            part = excess[outside] / (excess[outside] + limit[outside])
            share = float(part.max(initial=share))
        mixed = (1 - share) * (flows + shift) + share * safe
        mixed_room = (1 - share) * (room - shift) + share * (room + flows - safe)
        shift = (1 - share) * shift + share * (safe - flows)
        far = np.abs(shift) > np.minimum(flows, room) / 2  # large next to what it changes
        if share == 0 and not far.any():
            break
        flows, room = np.where(far, mixed, flows), np.where(far, mixed_room, room)
        shift = np.where(far, 0.0, shift)
    return flows, room, shift


def _correction(flows: Matrix, up: Matrix, down: Matrix) -> Matrix:
    """Change along a spanning tree after which the flows (N, N) balance at each node.

    `up` and `down` say how easily each flow is raised and lowered.
    """
    change = np.zeros_like(flows)
    if len(flows) == 1:
        return change
    more, less = np.maximum(up, down.T), np.maximum(down, up.T)  # net flow from i to j
    ease = np.maximum(np.minimum(more, less), LEAST_EASE)
    np.fill_diagonal(ease, 0.0)
    # The tree with most room: scipy minimises, so each edge weighs the inverse of its ease.
    tree = minimum_spanning_tree(np.divide(1.0, ease, out=np.zeros_like(ease), where=ease > 0))
    order, parents = breadth_first_order(tree, 0, directed=False)
    net = flows - flows.T
    for node in order[:0:-1]:  # leaves first; a node is merged into its parent when it balances
        parent = parents[node]
        # What leaves the branch, over the edges that leave it: flows within may be far larger.
        surplus = net[node].sum()
        tail, head = (parent, node) if surplus > 0 else (node, parent)
        if up[tail, head] >= down[head, tail]:
            change[tail, head] += abs(surplus)
        else:
            change[head, tail] -= abs(surplus)
        net[parent] += net[node]
        net[:, parent] += net[:, node]
        net[node], net[:, node], net[parent, parent] = 0.0, 0.0, 0.0
    return change
