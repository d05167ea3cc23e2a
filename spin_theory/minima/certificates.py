"""Lower bounds of expected penalties that hold whatever a solver did, and how tight they are.

An expected penalty is a sum of convex functions of differences of scores, so its dual is a flow
problem: every circulation, found by whomever, gives a number that no policy can go below.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from torch import Tensor
from torch.nn.functional import logsigmoid

from spin_theory.losses import penalty_named
from spin_theory.policies import TabularPolicy, pairwise_differences, require_same_shape

__all__ = ["Certificate", "Ray", "certify", "descending_ray", "hinge_programme"]

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
        No scores have a smaller expected penalty; true for every input, up to rounding.
    gap : Tensor, shape (X,)
        Expected penalty minus lower bound, at least 0: a sum of nonnegative terms, so that it
        keeps its digits far below the rounding of either.
    """

    lower_bound: Tensor
    gap: Tensor


@dataclass(frozen=True)
class Ray:
    """A direction along which an objective falls without end.

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
    log_weights: Tensor, scores: Tensor, *, loss_type: str = "logistic", flows: Tensor | None = None
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
        Flows to start from instead of :math:`W_{ij} |\ell'(f_i - f_j)|`; needed for hinge, by
        :func:`hinge_programme`.

    Returns
    -------
    Certificate
        Bound and gap of each prompt.

    Raises
    ------
    ValueError
        If `loss_type` is unknown or correlation, or hinge comes without flows.

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

    Examples
    --------
    >>> weights = torch.tensor([[[0.1, 0.4], [0.1, 0.4]]], dtype=torch.float64)
    >>> best = torch.tensor([[4.0, 1.0]], dtype=torch.float64).log()
    >>> certify(weights.log(), best).lower_bound  # entropy of (0.8, 0.2), and log 2: half each
    tensor([0.5968], dtype=torch.float64)
    >>> float(certify(weights.log(), best).gap) < 1e-30
    True
    """
    penalty_named(loss_type)
    if loss_type == "correlation":
        raise ValueError("loss_type correlation has no lower bound; see descending_ray")
    if flows is None and loss_type == "hinge":
        raise ValueError("loss_type hinge needs flows; see hinge_programme")
    weights = log_weights.exp()
    margins = pairwise_differences(scores)
    capacity = weights
    if loss_type == "exponential":  # no best flow is above the value at scores 0
        capacity = torch.where(weights > 0, weights.sum(dim=(-2, -1), keepdim=True), 0.0)
    if flows is not None:
        used = torch.minimum(flows.clamp(min=0), capacity)
        room = capacity - used
    elif loss_type == "exponential":
        used = torch.minimum((log_weights - margins).exp(), capacity)
        room = capacity - used
    else:  # W - used, with the digits that it has where the flow nearly fills the capacity
        used, room = weights * torch.sigmoid(-margins), weights * torch.sigmoid(margins)
    safe = torch.minimum(weights, weights.mT) / 2
    matrices = zip(used.numpy(), room.numpy(), safe.numpy(), strict=True)
    smooth = loss_type != "hinge"
    balanced = [_balance(*each, smooth=smooth) for each in matrices]
    used, room, shift = (torch.from_numpy(np.stack(part)) for part in zip(*balanced, strict=True))
    bounds, gaps = _DUALS[loss_type](margins, weights, used, room, shift)
    off_diagonal = ~torch.eye(scores.shape[-1], dtype=torch.bool)
    own = weights.diagonal(dim1=-2, dim2=-1)  # the margin of a response with itself is 0
    at_zero = (own * penalty_named(loss_type)(torch.zeros_like(own))).sum(dim=-1)
    return Certificate(
        lower_bound=(bounds * off_diagonal).sum(dim=(-2, -1)) + at_zero,
        gap=(gaps.clamp(min=0) * off_diagonal).sum(dim=(-2, -1)),  # below 0 by rounding alone
    )


def hinge_programme(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    r"""Minimise an expected hinge as a linear programme, by HiGHS.

    Parameters
    ----------
    log_weights : Tensor, shape (X, Y, Y)
        Log of the weight :math:`W_{ij}` of the margin :math:`f_i - f_j`, in nats, float64.

    Returns
    -------
    scores : Tensor, shape (X, Y)
        Minimising scores, integers from 0.
    flows : Tensor, shape (X, Y, Y)
        The dual solution, a largest circulation with capacities W, within the solver's
        tolerance; :func:`certify` makes a bound of it.

    Raises
    ------
    ValueError
        If HiGHS finds no solution: where probabilities span more than about ten orders of
        magnitude its tolerances of 1e-7 do not resolve them.

    Notes
    -----
    The dual of :math:`\min_f \sum W_{ij} \max(0, 1 - f_i + f_j)` is :math:`\max \sum x_{ij}`
    over circulations :math:`0 \le x \le W`; the scores are the multipliers of its balance
    equations. Any weights, so T-SPIN's too; for SPIN :func:`hinge_minimum` needs no solver.

    Examples
    --------
    >>> weights = torch.tensor([[[0.18, 0.72], [0.02, 0.08]]], dtype=torch.float64)
    >>> scores, flows = hinge_programme(weights.log())
    >>> scores, flows.sum()  # 0.18 + 0.08, and 0.02 back and forth
    (tensor([[1., 0.]], dtype=torch.float64), tensor(0.3000, dtype=torch.float64))
    """
    solved = [_largest_circulation(matrix) for matrix in log_weights.exp().numpy()]
    scores, flows = (torch.from_numpy(np.stack(part)) for part in zip(*solved, strict=True))
    return scores, flows


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
"""Bounds and gaps of all pairs by penalty."""


def _balance(
    flows: Matrix, room: Matrix, safe: Matrix, *, smooth: bool
) -> tuple[Matrix, Matrix, Matrix]:
    """Flows and room (Y, Y), and the change of both that makes the flows a circulation."""
    flows, room, safe = (matrix * (1 - np.eye(len(flows))) for matrix in (flows, room, safe))
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
        far = np.abs(shift) > np.minimum(flows, room) / 2  # small beside it: kept apart, exact
        if share == 0 and not far.any():
            break
        flows, room = np.where(far, mixed, flows), np.where(far, mixed_room, room)
        shift = np.where(far, 0.0, shift)
    return flows, room, shift


def _correction(flows: Matrix, up: Matrix, down: Matrix) -> Matrix:
    """Change along a spanning tree after which flows (Y, Y) balance at each response.

    `up` and `down` say how easily each flow is raised and lowered.
    """
    change = np.zeros_like(flows)
    if len(flows) == 1:
        return change
    more, less = np.maximum(up, down.T), np.maximum(down, up.T)  # net flow from i to j
    ease = np.maximum(np.minimum(more, less), LEAST_EASE)
    np.fill_diagonal(ease, 0.0)
    tree = minimum_spanning_tree(np.divide(1.0, ease, out=np.zeros_like(ease), where=ease > 0))
    order, parents = breadth_first_order(tree, 0, directed=False)
    net = flows - flows.T
    for node in order[:0:-1]:
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


def _largest_circulation(weights: Matrix) -> tuple[Matrix, Matrix]:
    responses = len(weights)
    rows, columns = np.nonzero(weights * (1 - np.eye(responses)))
    edges = np.arange(len(rows))
    balance = coo_array(
        (
            np.repeat([1.0, -1.0], len(edges)),
            (np.concatenate([rows, columns]), np.tile(edges, 2)),
        ),
        shape=(responses, len(edges)),
    )
    flows = np.diag(np.diag(weights)).astype(np.float64)
    if len(edges) == 0:
        return np.zeros(responses), flows
    solution = linprog(  # type: ignore[call-overload]  # its stubs know no sparse A_eq
        -np.ones(len(edges)),
        A_eq=balance.tocsr(),
        b_eq=np.zeros(responses),
        bounds=np.stack([np.zeros(len(edges)), weights[rows, columns]], axis=1),
        method="highs",
    )
    if solution.x is None:
        raise ValueError(
            "HiGHS must find the largest circulation, and did not: "
            f"{solution.message} The smallest weight is {weights[rows, columns].min():.1e}"
        )
    flows[rows, columns] = solution.x
    scores = np.round(-solution.eqlin.marginals)  # more outflow costs what the score gives
    return scores - scores.min(), flows
