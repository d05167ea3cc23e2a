"""The exact update from sampled pairs: one prompt, and a solver for games."""

import math
from dataclasses import dataclass, replace

import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from spin_theory.games.solvers import MOST_DRAWN
from spin_theory.inputs import require_memory, whole
from spin_theory.losses import require_beta
from spin_theory.minima.closed_forms import opponent_update
from spin_theory.minima.newton import UnsolvedError, newton
from spin_theory.minima.problems import InnerProblem
from spin_theory.policies import TabularPolicy, pair_log_probs, require_same_shape

__all__ = ["SampledMinimiser", "sampled_update"]


@dataclass(frozen=True)
class SampledMinimiser:
    """Solve an iteration exactly for sampled pairs: a solver for :func:`play`.

    Parameters
    ----------
    pairs : int
        Pairs (y, y') drawn for each prompt in each iteration, at least 1. With a history weight,
        as many pairs (y', y0) are drawn too. An SFT term takes the real responses of the pairs.

    Raises
    ------
    ValueError
        If `pairs` < 1.

    Notes
    -----
    :func:`sampled_update` for any number of prompts, any opponent and any smooth penalty. A
    prompt whose pairs have no minimum ends the game, and so does a search that does not reach it:
    both are an :class:`UnsolvedError`, and the game keeps the iterates before it.

    Examples
    --------
    >>> from spin_theory import play
    >>> start, data = (TabularPolicy.random(1, 3, seed=seed, smallest=0.2) for seed in (0, 1))
    >>> game = play(start, data, beta=1.0, iterations=2, solver=SampledMinimiser(pairs=10_000))
    >>> bool(game.tv[1] < 0.02)  # at beta = 1 the exact update is the data
    True
    """

    pairs: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", whole("pairs", self.pairs, least=1))

    def __call__(
        self, problem: InnerProblem, *, start: TabularPolicy, generator: torch.Generator
    ) -> TabularPolicy:
        """Return the minimiser of the mean loss of the pairs drawn; `start` is not needed."""
        wins = real = _wins(problem.data, problem.sampler, self.pairs, generator)
        if problem.history_weight > 0 and problem.initial is not None:
            history = _wins(problem.sampler, problem.initial, self.pairs, generator)
            wins = wins + problem.history_weight * history
        sft, against = problem.sft, wins  # who pulls i up and j down
        if sft is not None:  # every response that was drawn as real wins against all
            shares = real.sum(dim=-1) / self.pairs  # (X, Y)
            sft = replace(sft, log_real=shares.log())
            against = wins + shares[:, :, None]
        for prompt, table in enumerate(against):
            if not _has_minimum(table):
                raise UnsolvedError(
                    f"prompt {prompt}: the {self.pairs} pairs drawn have no minimum, as some "
                    "responses win against all others that they meet, or lose; raise pairs"
                )
        log_weights = (wins / self.pairs).log()
        found = newton(log_weights, loss_type=problem.loss_type, sft=sft)
        return problem.policy(found.require_solved().scores)


def sampled_update(
    opponent: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    pairs: int,
    generator: torch.Generator,
) -> TabularPolicy | None:
    r"""Minimise the logistic loss of n sampled pairs, to its global minimum.

    Parameters
    ----------
    opponent, data : TabularPolicy, shape (1, Y)
        p_t and p_data, of one prompt.
    beta : float
        Pull towards the opponent, > 0, no unit.
    pairs : int
        How many pairs (y, y') to draw, at least 1.
    generator : torch.Generator
        Of the draws.

    Returns
    -------
    TabularPolicy or None
        The minimiser; None where it does not exist, as some set of responses was never drawn
        as real against the others, or never as generated: margins would grow without bound.

    Raises
    ------
    ValueError
        If there is more than one prompt, shapes differ, or a number is out of its range.
    UnsolvedError
        If the search stopped before the minimum; it is a ValueError too.

    Notes
    -----
    A Bradley-Terry likelihood: the minimum exists where the graph of wins is strongly connected.

    Examples
    --------
    >>> opponent, data = (TabularPolicy.random(1, 3, seed=seed, smallest=0.2) for seed in (0, 1))
    >>> generator = torch.Generator().manual_seed(0)
    >>> sampled_update(opponent, data, beta=1.0, pairs=1, generator=generator) is None
    True
    """
    require_same_shape(opponent=opponent, data=data)
    require_beta(beta)
    if len(data.log_probs) != 1:
        raise ValueError(f"data must have one prompt, got {len(data.log_probs)}")
    pairs = whole("pairs", pairs, least=1)
    wins = _wins(data, opponent, pairs, generator)
    if not _has_minimum(wins[0]):
        return None
    scores = newton((wins / pairs).log(), loss_type="logistic").require_solved().scores
    return opponent_update(opponent, scores, beta=beta)


def _wins(
    first: TabularPolicy, second: TabularPolicy, pairs: int, generator: torch.Generator
) -> Tensor:
    """Count pairs drawn of a first and a second response, (X, Y, Y) in float64."""
    prompts, responses = first.log_probs.shape
    require_memory(f"pairs = {pairs}", 3 * prompts * pairs)
    if responses**2 > MOST_DRAWN:
        most = math.isqrt(MOST_DRAWN)
        raise ValueError(f"pairs are drawn from at most {most} responses, got {responses}")
    joint = pair_log_probs(first.log_probs, second.log_probs).exp().flatten(1)
    drawn = torch.multinomial(joint, pairs, replacement=True, generator=generator)
    counts = torch.zeros_like(joint).scatter_add(
        1, drawn, torch.ones_like(drawn, dtype=joint.dtype)
    )
    return counts.reshape(*first.log_probs.shape, -1)


def _has_minimum(wins: Tensor) -> bool:
    """Whether finite scores minimise the loss: every response reaches every other by wins."""
    graph = csr_array((wins > 0).double().numpy())
    return int(connected_components(graph, directed=True, connection="strong")[0]) == 1
