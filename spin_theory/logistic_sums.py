"""The logistic penalty summed over all pairs of responses in linear time, and its gradient.

Scores are sorted into boxes of width 2. Between close boxes the penalty is a polynomial in the
two offsets, by Chebyshev interpolation; between far boxes it is a straight line plus a short
sum of exponentials, which separate. So all that a box shows to the others is a few moments, and
neither the number of pairs nor the distance between boxes costs anything.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from spin_theory.losses import penalty_named

__all__ = ["logistic_pair_sum"]

TERMS = 22
"""Chebyshev coefficients per box. The poles of sigma(t) at +-i pi make the next one 6.44^-22."""
NEAR = 2
"""Boxes up to so many apart are interpolated; beyond, margins are 4 nats or more."""
EXPONENTIALS = 10
"""Terms of log(1 + e^-t) = sum of (-1)^(k+1) e^(-kt)/k: at t = 4 the next is e^-40 of the first."""
CELLS, CELL_TERMS = 128, 6
"""A box cut into cells of width 1/64, where six coefficients do (the next: 804^-6)."""
REACH = 512
"""Boxes after which e^(-2 boxes) has long been zero in float64."""
LANE = 4096
"""Terms added one by one before sums are added to each other, which keeps rounding small."""


def logistic_pair_sum(scores: Tensor, real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    r"""Sum the logistic penalty over pairs, and differentiate it in the scores.

    Parameters
    ----------
    scores : Tensor, shape (X, Y)
        Score :math:`f_y` of each response, in nats, float64.
    real, generated : Tensor, shape (X, Y)
        Weights :math:`p_y`, :math:`q_y` >= 0, no unit, float64.

    Returns
    -------
    values : Tensor, shape (X,)
        :math:`\sum_{y, y'} p_y q_{y'} \log(1 + \exp(f_{y'} - f_y))` per prompt.
    gradient : Tensor, shape (X, Y)
        Its derivative in each score.

    Notes
    -----
    O(Y) time and memory for any range of the scores (O(Y log Y) where they are so far apart
    that most boxes between them are empty). The rounding of each gradient is relative to the
    terms :math:`y \neq y'` that it sums: the pair y = y', which cancels, is left out, or is
    smaller than another pair of the same response.

    Examples
    --------
    >>> half = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    >>> logistic_pair_sum(torch.zeros_like(half), half, half)[0]  # log 2
    tensor([0.6931], dtype=torch.float64)
    """
    layout = _Layout.of(scores)
    leaders = [_heaviest(weights, layout) for weights in (real, generated)]
    # Where one response leads with both weights it is one leader, not two.
    leaders[1] = torch.where(leaders[1] == leaders[0], -1, leaders[1])
    rest = [_without(weights, leaders) for weights in (real, generated)]
    own = [_moments(weights, layout) for weights in rest]
    moments = [
        part + _leader_moments(weights, leaders, layout)
        for part, weights in zip(own, (real, generated), strict=True)
    ]
    penalty, falling = _potentials(moments[1], own[1], layout.positions)
    # Seen from a generated response the line is mirrored.
    _, rising = _potentials(
        _mirrored(moments[0]), _mirrored(own[0]), -layout.positions.flip(dims=(-1,))
    )
    values = (moments[0] * penalty).sum(dim=(-2, -1))
    real_slope, generated_slope = _evaluated([falling, _mirrored(rising)], layout)
    pulls, pushes = _leader_slopes(scores, real, generated, leaders, layout)
    gradient = real * (real_slope + pulls) - generated * (generated_slope + pushes)
    return values, gradient


@dataclass(frozen=True)
class _Layout:
    """Where each score lies: B boxes per prompt, each cut into C cells of D coefficients."""

    positions: Tensor  # (X, B), place of each box on the line, in boxes, rising
    boxes: Tensor  # (X, Y), number of the response's box among all X * B
    offsets: Tensor  # (X, Y), from the middle of the box, in [-1, 1]
    cells: Tensor  # (X, Y), number of its cell among all X * B * C
    places: Tensor  # (X, Y), from the middle of the cell, in [-1, 1]
    basis: Tensor  # (C, D, TERMS), coefficients of a box's polynomials within its cells

    @classmethod
    def of(cls, scores: Tensor) -> "_Layout":
        prompts, responses = scores.shape
        index = torch.floor(scores / 2)
        first = index.amin(dim=-1, keepdim=True)
        count = float((index - first).max()) + 1
        if count <= responses + REACH:
            ranks = (index - first).long()
            positions = torch.arange(int(count), dtype=scores.dtype, device=scores.device)
            positions = positions.expand(prompts, -1).contiguous()
        else:
            ranks, positions = _occupied(index)
        offsets = scores - (2 * index + 1)
        rows = torch.arange(prompts, device=scores.device)[:, None]
        boxes = ranks + rows * positions.shape[-1]
        if positions.shape[-1] * CELLS * CELL_TERMS > 4 * responses:  # O(Y) memory, no more
            basis = _cell_basis(1, TERMS, scores.device)
            return cls(positions, boxes, offsets, boxes, offsets, basis)
        fine = (offsets + 1) * (CELLS // 2)
        cell = fine.floor().clamp(max=CELLS - 1)
        places = (fine - cell).mul_(2).sub_(1)
        basis = _cell_basis(CELLS, CELL_TERMS, scores.device)
        return cls(positions, boxes, offsets, boxes * CELLS + cell.long(), places, basis)


def _occupied(index: Tensor) -> tuple[Tensor, Tensor]:
    """Rank the boxes that hold a score: ranks (X, Y) of the responses, positions (X, B)."""
    ordered, order = index.sort(dim=-1)
    starts = (ordered.diff(dim=-1) > 0).long()
    ranked = torch.cat([torch.zeros_like(starts[:, :1]), starts.cumsum(dim=-1)], dim=-1)
    ranks = torch.empty_like(ranked).scatter_(-1, order, ranked)
    count = int(ranked.max()) + 1
    # Prompts with fewer boxes are filled up with empty ones beyond their last.
    beyond = torch.arange(1, count + 1, dtype=index.dtype, device=index.device)
    positions = (ordered[:, -1:] - ordered[:, :1] + beyond).scatter_(
        -1, ranked, ordered - ordered[:, :1]
    )
    return ranks, positions


def _heaviest(weights: Tensor, layout: _Layout) -> Tensor:
    """Find the largest weight of each box: its number among all X * Y, or -1, shape (X * B,)."""
    boxes, flat = layout.boxes.flatten(), weights.flatten()
    largest = flat.new_full((layout.positions.numel(),), -1.0)
    largest.scatter_reduce_(0, boxes, flat, "amax")
    holders = (flat == largest[boxes]).nonzero().squeeze(-1)
    leaders = boxes.new_full((layout.positions.numel(),), -1)
    leaders[boxes[holders]] = holders  # among equals any will do
    return leaders


def _without(weights: Tensor, leaders: list[Tensor]) -> Tensor:
    """Copy of the weights (X, Y), zero for the leaders."""
    rest = weights.flatten().clone()
    for leader in leaders:
        rest[leader[leader >= 0]] = 0.0
    return rest.view_as(weights)


def _leader_moments(weights: Tensor, leaders: list[Tensor], layout: _Layout) -> Tensor:
    """Moments (X, B, TERMS) of the leaders alone."""
    total = weights.new_zeros(layout.positions.numel(), TERMS)
    for leader in leaders:
        mass = torch.where(leader >= 0, weights.flatten()[leader], 0.0)
        total += mass[:, None] * _chebyshev(layout.offsets.flatten()[leader], TERMS)
    return total.view(*layout.positions.shape, TERMS)


def _leader_slopes(
    scores: Tensor, real: Tensor, generated: Tensor, leaders: list[Tensor], layout: _Layout
) -> tuple[Tensor, Tensor]:
    """Slopes from the leaders of a response's own box, itself left out, pair by pair: (X, Y)."""
    numbers = torch.arange(scores.numel(), device=scores.device).view_as(scores)
    pulls, pushes = torch.zeros_like(scores), torch.zeros_like(scores)
    for leader in leaders:
        box_scores = scores.flatten()[leader]
        box_real, box_generated = (
            torch.where(leader >= 0, weights.flatten()[leader], 0.0)
            for weights in (real, generated)
        )
        chance = torch.sigmoid(box_scores[layout.boxes] - scores)  # -l'(f_y - f_leader)
        chance.masked_fill_(leader[layout.boxes] == numbers, 0.0)
        pulls.addcmul_(box_generated[layout.boxes], chance, value=-1)
        chance.neg_().add_(1).masked_fill_(leader[layout.boxes] == numbers, 0.0)
        pushes.addcmul_(box_real[layout.boxes], chance, value=-1)
    return pulls, pushes


def _moments(weights: Tensor, layout: _Layout) -> Tensor:
    """Sum weight * T_m(offset) over the responses of each box: (X, B, TERMS)."""
    boxes, (cells, terms, _) = layout.positions.numel(), layout.basis.shape
    size = boxes * cells
    lanes = max(1, min(-(-weights.shape[-1] // LANE), weights.numel() // (4 * size)))
    slots = layout.cells.flatten()
    if lanes > 1:
        numbers = torch.arange(slots.numel(), device=slots.device)
        slots = slots + (numbers * lanes // slots.numel()) * size
    places, flat = layout.places.flatten(), weights.flatten()
    sums = []
    before, current = flat * places, flat.clone()  # weight * T_-1 and weight * T_0
    for _ in range(terms):
        lane_sums = torch.bincount(slots, weights=current, minlength=size * lanes)
        sums.append(lane_sums.view(lanes, size).sum(dim=0))
        before, current = current, before.neg_().addcmul_(places, current, value=2)
    by_cell = torch.stack(sums, dim=-1).view(boxes, cells * terms)
    return (by_cell @ layout.basis.reshape(cells * terms, TERMS)).view(
        *layout.positions.shape, TERMS
    )


def _evaluated(coefficients: list[Tensor], layout: _Layout) -> list[Tensor]:
    """Values (X, Y) at the responses of functions given per box, each (X, B, TERMS)."""
    cells, terms, _ = layout.basis.shape
    tables = []
    for function in coefficients:
        by_cell = function.reshape(-1, TERMS) @ layout.basis.reshape(cells * terms, TERMS).mT
        tables.append(by_cell.view(-1, terms).mT.contiguous())  # (terms, X * B * C)
    places, slots = layout.places.flatten(), layout.cells.flatten()
    before, current = places.clone(), torch.ones_like(places)  # T_-1 and T_0
    results = [torch.zeros_like(places) for _ in tables]
    picked = torch.empty_like(places)
    for term in range(terms):
        for result, table in zip(results, tables, strict=True):
            torch.index_select(table[term], 0, slots, out=picked)
            result.addcmul_(current, picked)
        before, current = current, before.neg_().addcmul_(places, current, value=2)
    return [result.view_as(layout.places) for result in results]


def _potentials(moments: Tensor, own: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Let generated responses act on a real one: penalty and slope per box, (X, B, TERMS).

    `moments` are those of the generated responses, `own` those that count for the slope
    within their own box.
    """
    penalty, slope = _far(moments, positions)
    near_penalty, near_slope, _, _ = _tables(moments.device)
    for distance in range(-NEAR, NEAR + 1):
        if distance == 0:
            penalty = penalty + moments @ near_penalty[NEAR].mT
            slope = slope + own @ near_slope[NEAR].mT
            continue
        wanted = positions - distance
        source = torch.searchsorted(positions, wanted).clamp(max=positions.shape[-1] - 1)
        found = positions.gather(-1, source) == wanted
        neighbour = _picked(moments, source) * found[..., None]
        penalty = penalty + neighbour @ near_penalty[NEAR + distance].mT
        slope = slope + neighbour @ near_slope[NEAR + distance].mT
    return penalty, slope


def _far(moments: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Penalty and slope from boxes more than NEAR away: (X, B, TERMS) each."""
    _, _, grow, fall = _tables(moments.device)  # coefficients of e^(kx), e^(-kx)
    rates = torch.arange(1, EXPONENTIALS + 1, dtype=moments.dtype, device=moments.device)
    signs = 1 - 2 * ((rates - 1) % 2)
    below = _decaying_sums(moments @ grow.mT, positions, rates)
    above = _decaying_sums(
        (moments @ fall.mT).flip(dims=(-2,)), -positions.flip(dims=(-1,)), rates
    ).flip(dims=(-2,))
    last = torch.searchsorted(positions, positions - NEAR - 1, right=True) - 1
    first = torch.searchsorted(positions, positions + NEAR + 1)
    gap_below = positions - positions.gather(-1, last.clamp(min=0))
    past_end = first == positions.shape[-1]
    first = first.clamp(max=positions.shape[-1] - 1)
    gap_above = (positions.gather(-1, first) - positions) * 2  # in nats
    below = _picked(below, last.clamp(min=0)) * (-2 * gap_below[..., None] * rates).exp()
    below = below * (signs * (last >= 0)[..., None])
    above = _picked(above, first) * (-gap_above[..., None] * rates).exp()
    above = above * (signs * ~past_end[..., None])
    penalty = (below / rates) @ fall + (above / rates) @ grow  # log(1 + e^-|t|)
    slope = above @ grow - below @ fall
    # Below the diagonal of the pairs, -t comes on top: mass and first moment of all above.
    mass = _suffix_sums(moments[..., 0])
    gaps = 2 * positions.diff(dim=-1)
    lift = _suffix_sums(moments[..., 1])
    lift[:, :-1] += _suffix_sums(gaps * mass[:, 1:])
    mass_above = mass.gather(-1, first) * ~past_end
    penalty[..., 0] += lift.gather(-1, first) * ~past_end + gap_above * mass_above
    penalty[..., 1] -= mass_above
    slope[..., 0] -= mass_above
    return penalty, slope


def _decaying_sums(moments: Tensor, positions: Tensor, rates: Tensor) -> Tensor:
    """Sum of e^(-2 rate distance) moment over a box and those before it: (X, B, K)."""
    sums, step = moments, 1
    while step < min(REACH, positions.shape[-1]):
        distance = positions[:, step:] - positions[:, :-step]
        earlier = (-2 * distance[..., None] * rates).exp() * sums[:, :-step]
        sums = torch.cat([sums[:, :step], sums[:, step:] + earlier], dim=-2)
        step *= 2
    return sums


def _suffix_sums(values: Tensor) -> Tensor:
    return values.flip(dims=(-1,)).cumsum(dim=-1).flip(dims=(-1,))


def _picked(table: Tensor, source: Tensor) -> Tensor:
    """Rows `source` (X, B) of a table (X, B, K)."""
    return table.gather(-2, source[..., None].expand(-1, -1, table.shape[-1]))


def _mirrored(coefficients: Tensor) -> Tensor:
    """Coefficients or moments (X, B, TERMS) on the mirrored line: T_m(-x) = (-1)^m T_m(x)."""
    flipped = coefficients.flip(dims=(-2,))
    flipped[..., 1::2] *= -1
    return flipped


def _chebyshev(points: Tensor, terms: int) -> Tensor:
    """T_0 ... T_(terms - 1) at points in [-1, 1], in a new last dimension."""
    degrees = torch.arange(terms, dtype=points.dtype, device=points.device)
    return torch.cos(degrees * points.clamp(-1, 1).acos()[..., None])


def _nodes(terms: int) -> tuple[Tensor, Tensor]:
    """Chebyshev nodes (terms,) and the matrix from values there to coefficients."""
    middles = (torch.arange(terms, dtype=torch.float64) + 0.5) / terms
    nodes = torch.cos(math.pi * middles)
    transform = _chebyshev(nodes, terms).mT * (2 / terms)
    transform[0] /= 2
    return nodes, transform


@cache
def _cell_basis(cells: int, terms: int, device: torch.device) -> Tensor:
    nodes, transform = _nodes(terms)
    points = (2 * torch.arange(cells, dtype=torch.float64)[:, None] + 1 + nodes) / cells - 1
    return (transform @ _chebyshev(points, TERMS)).to(device)  # (cells, terms, TERMS)


@cache
def _tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Penalty and slope between boxes (2 NEAR + 1, TERMS, TERMS); e^(kx), e^(-kx) (K, TERMS)."""
    nodes, transform = _nodes(TERMS)
    distances = torch.arange(-NEAR, NEAR + 1, dtype=torch.float64)[:, None, None]
    margins = 2 * distances + nodes[:, None] - nodes
    rates = torch.arange(1, EXPONENTIALS + 1, dtype=torch.float64)[:, None]
    return (
        (transform @ penalty_named("logistic")(margins) @ transform.mT).to(device),
        (transform @ -torch.sigmoid(-margins) @ transform.mT).to(device),
        ((rates * nodes).exp() @ transform.mT).to(device),
        ((-rates * nodes).exp() @ transform.mT).to(device),
    )
