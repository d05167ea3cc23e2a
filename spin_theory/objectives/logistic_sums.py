r"""The logistic penalty summed over all pairs of responses in linear time, and its gradient.

With :math:`t \geq 0` the distance of two scores and :math:`u = e^{-t}`, the penalty is
:math:`\log(1 + u)`, plus t where the real score is the lower one. The second part is a sum of the
gaps between sorted scores. The first is a polynomial in u, and so a short sum of exponentials
:math:`e^{-kt}` for any t at all. These separate: sorted responses are cut into blocks, a block
shows to those above one moment per k, and only pairs within a block are visited one by one.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from spin_theory.objectives.window_sums import running_sums, sorted_order

__all__ = ["logistic_pair_sum"]

TERMS = 19
"""Exponentials: the error is 2 (3 + sqrt 8)^-19 = 6e-15 of u / (1 + u), and of log(1 + u)."""
BLOCK = 16
"""Responses whose pairs are visited one by one, which costs about as much as the exponentials."""
GROUP = 16
"""Blocks that pass their moments on one by one; between groups it takes log2(groups) steps."""
CHUNK = 2**16
"""Responses worked on together, so that what is used again is still in the cache."""


def logistic_pair_sum(scores: Tensor, real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    r"""Sum the logistic penalty over pairs, and differentiate it in the scores.

    Parameters
    ----------
    scores : Tensor, shape (X, Y)
        Score :math:`f_y` of each response, in nats, finite, float64.
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
    O(Y) memory, and O(Y log Y) time whatever the range of the scores. The rounding of each
    gradient is relative to the terms :math:`y \neq y'` that it sums.

    Examples
    --------
    >>> half = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    >>> logistic_pair_sum(torch.zeros_like(half), half, half)[0]  # log 2
    tensor([0.6931], dtype=torch.float64)
    """
    order = sorted_order(scores)
    ranked = scores.gather(-1, order)
    weights = torch.stack([real.gather(-1, order), generated.gather(-1, order)])  # (2, X, Y)
    # With u = exp(-|f_y - f_y'|): sums of log(1 + u) (X,) and of u / (1 + u) (2, X, Y).
    values, net = _sums_by_blocks(ranked, weights)
    real, generated = weights
    up_to = running_sums(real)
    after = running_sums(generated.flip(dims=(-1,))).flip(dims=(-1,))[:, 1:]
    # -l'(t) is u / (1 + u), and -l'(-t) is 1 - u / (1 + u), at least half of the 1.
    push, pull = net[0], net[1].neg_()
    push[:, 1:] += up_to[:, :-1]
    pull[:, :-1] += after
    values += ranked.diff(dim=-1).mul_(up_to[:, :-1]).mul_(after).sum(dim=-1)
    gradient = push.mul_(generated).sub_(pull.mul_(real))
    return values, torch.empty_like(scores).scatter_(-1, order, gradient)


def _sums_by_blocks(ranked: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Sum log(1 + u) over all pairs (X,), and u / (1 + u) for each of the sorted scores (X, Y).

    The latter (2, X, Y) with each of the weights (2, X, Y): over the responses above it, less those
    below it.
    """
    prompts, responses = ranked.shape
    block, group = min(BLOCK, responses), min(GROUP, -(-responses // BLOCK))
    missing = -responses % (block * group)  # made up by responses without weight
    scores = torch.cat([ranked, ranked[:, -1:].expand(-1, missing)], dim=-1)  # whole groups
    bounds = torch.cat([scores[:, ::block], scores[:, -1:]], dim=-1)  # where each block starts
    tables = [
        scores.view(1, -1, group, block),
        functional.pad(weights, (0, missing)).view(2, -1, group, block),
        bounds[:, :-1].reshape(1, -1, group),
        bounds[:, 1:].reshape(1, -1, group),
    ]
    width = max(1, CHUNK // (block * group))
    pieces = zip(*(torch.split(table, width, dim=1) for table in tables), strict=True)
    chunks = [_Chunk.of(*piece) for piece in pieces]
    # What a group shows to those above it and to those below it, then what it is shown: (K, 2, T)
    totals = zip(*(chunk.totals() for chunk in chunks), strict=True)
    below, above = (torch.cat(parts, dim=-1).view(TERMS, 2, prompts, -1) for parts in totals)
    # Pass one: each group's totals go to all groups above and below, damped by the distance.
    lengths = bounds[:, ::group].diff(dim=-1)
    below = _from_earlier(below, lengths)
    above = _from_earlier(above.flip(dims=(-1,)), lengths.flip(dims=(-1,))).flip(dims=(-1,))
    # Pass two: within a group, block by block, then pair by pair within a block.
    outside = (torch.split(sums.flatten(-2), width, dim=-1) for sums in (below, above))
    results = [chunk.sums(*sums) for chunk, *sums in zip(chunks, *outside, strict=True)]
    values, slopes = (torch.cat(parts, dim=-1) for parts in zip(*results, strict=True))
    slopes = slopes.view(2, prompts, -1)[..., :responses]
    return values.view(prompts, -1).sum(dim=-1), slopes


@dataclass(frozen=True)
class _Chunk:
    """T groups of blocks; a block's moments are measured from where the block starts."""

    scores: Tensor  # (BLOCK, GROUP, T), rising along blocks, then groups, then T
    masses: Tensor  # (2, BLOCK, GROUP, T), the two weights
    rise: Tensor  # (BLOCK, GROUP, T), e^-(distance from the start of the response's block)
    fall: Tensor  # (BLOCK, GROUP, T), e^-(distance to the start of the next block)
    hops: Tensor  # (K, 1, GROUP, T), e^-(k distance between the two)
    upward: Tensor  # (K, 2, GROUP, T), sums of mass * fall^k over a block
    downward: Tensor  # (K, 2, GROUP, T), sums of mass * rise^k

    @classmethod
    def of(cls, scores: Tensor, masses: Tensor, starts: Tensor, stops: Tensor) -> "_Chunk":
        """Transpose tables (1 or 2, T, GROUP, BLOCK), so that blocks are contiguous."""
        scores, masses = (table.permute(0, 3, 2, 1).contiguous() for table in (scores, masses))
        starts, stops, scores = starts[0].mT, stops[0].mT, scores[0]
        rise, fall = (starts - scores).exp_(), (scores - stops).exp_()
        hops = (_rates(scores) * (starts - stops)).exp_()
        return cls(scores, masses, rise, fall, hops, _moments(masses, fall), _moments(masses, rise))

    def totals(self) -> tuple[Tensor, Tensor]:
        """Moments of each group, as seen from above and as seen from below, (K, 2, T)."""
        nothing = torch.zeros_like(self.upward[:, :, 0])
        return self._passed_up(nothing)[-1], self._passed_down(nothing)[-1]

    def sums(self, below: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
        """Sum log(1 + u) (T,) and u / (1 + u) (2, responses), given other groups' sums."""
        lower = torch.stack(self._passed_up(below)[:-1], dim=2)
        upper = torch.stack(self._passed_down(above)[-2::-1], dim=2)
        # As u / (1 + u) is the sum of c_k u^k, log(1 + u) is that of c_k / k u^k. Across blocks u^k
        # is fall^k of the lower response, the hops in between, and rise^k of the upper one.
        shares = _coefficients(below.device) / _rates(below)
        across = (lower * self.downward.flip(dims=(1,))).mul_(shares).sum(dim=(0, 1, 2))
        within, slopes = _within_blocks(self.scores, self.masses)
        slopes += _series(upper, self.fall)
        slopes -= _series(lower, self.rise)
        return within + across, slopes.permute(0, 3, 2, 1).reshape(2, -1)

    def _passed_up(self, below: Tensor) -> list[Tensor]:
        """List what has come to the first block of each group, the second, ..., the next group."""
        sums = [below]
        for moment, hop in zip(self.upward.unbind(2), self.hops.unbind(2), strict=True):
            sums.append(torch.addcmul(moment, hop, sums[-1]))
        return sums

    def _passed_down(self, above: Tensor) -> list[Tensor]:
        """List what has come to the last block of each group, ..., the group before."""
        sums = [above]
        for block in reversed(range(self.hops.shape[2])):
            sums.append(torch.addcmul(self.downward[:, :, block], self.hops[:, :, block], sums[-1]))
        return sums


def _moments(masses: Tensor, decay: Tensor) -> Tensor:
    """Sum masses (2, BLOCK, GROUP, T) times decay^k over each block: (K, 2, GROUP, T)."""
    powers = masses * decay
    moments = [powers.sum(dim=1)]
    for _ in range(TERMS - 1):
        moments.append(powers.mul_(decay).sum(dim=1))
    return torch.stack(moments)


def _series(sums: Tensor, decay: Tensor) -> Tensor:
    """Sum over k of c_k decay^k sums (K, 2, GROUP, T), by Horner: (2, BLOCK, GROUP, T)."""
    terms = (sums * _coefficients(sums.device)).unsqueeze(2).unbind()
    total = terms[-1].expand(-1, len(decay), -1, -1).clone()
    for term in terms[-2::-1]:
        torch.addcmul(term, total, decay, out=total)
    return total.mul_(decay)


def _within_blocks(scores: Tensor, masses: Tensor) -> tuple[Tensor, Tensor]:
    """Sum log(1 + u) over pairs of a block (T,), u / (1 + u) as a chunk has it, pair by pair."""
    penalties, slopes = masses * (math.log(2) / 2), torch.zeros_like(masses)  # y with itself
    steps = (scores[:-1] - scores[1:]).exp_()  # u of neighbours, at most 1
    decay = steps  # u of responses `step` places apart: a product of neighbours' u
    for step in range(1, len(scores)):
        lower, upper = masses[:, :-step], masses[:, step:]
        penalties[:, step:].addcmul_(lower, decay.log1p())
        slope = decay / (1 + decay)
        slopes[:, :-step].addcmul_(upper, slope)
        slopes[:, step:].addcmul_(lower, slope, value=-1)
        decay = decay[:-1] * steps[step:]
    return penalties.mul_(masses.flip(dims=(0,))).sum(dim=(0, 1, 2)), slopes


def _from_earlier(totals: Tensor, lengths: Tensor) -> Tensor:
    """Sum totals (K, 2, X, N) of the groups before each, with e^(-k distance) between them."""
    sums, hops, step = totals[..., :-1].clone(), (-_rates(lengths) * lengths).exp_(), 1
    hops = hops[..., 1:-1]
    while step < sums.shape[-1]:  # each sum has `step` groups, and gets as many more
        sums[..., step:] = torch.addcmul(sums[..., step:], hops, sums[..., :-step])
        hops = hops[..., step:] * hops[..., :-step]
        step *= 2
    return functional.pad(sums, (1, 0))


def _rates(like: Tensor) -> Tensor:
    """1 ... K, shape (K, 1, 1, 1)."""
    return torch.arange(1, TERMS + 1, dtype=like.dtype, device=like.device)[:, None, None, None]


@cache
def _coefficients(device: torch.device) -> Tensor:
    """c_k of u^k in u / (1 + u) for u in [0, 1], of alternating sign, down from 1: (K, 1, 1, 1).

    With a Chebyshev polynomial, (1 - T_n(1 - 2u) / T_n(3)) / (1 + u) is a polynomial whose relative
    error to 1 / (1 + u) is at most 1 / T_n(3). Its coefficients, over T_n(3), are whole numbers.
    """
    lower, scale = 1, 3  # T_0(3), T_1(3)
    for _ in range(TERMS - 1):
        lower, scale = scale, 6 * scale - lower
    factor, coefficient, coefficients = -1, -scale, []
    for k in range(TERMS):
        coefficient = factor - coefficient
        coefficients.append(coefficient / scale)
        factor = 2 * factor * (k + TERMS) * (k - TERMS) // ((2 * k + 1) * (k + 1))
    return torch.tensor(coefficients, dtype=torch.float64, device=device)[:, None, None, None]
