"""Solvers for one iteration of a game: their type, and some steps of an optimiser.

The others are in `minima`: `exact`, the closed form, and `minimiser`, a search.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from spin_theory.games.gradients import logit_gradient
from spin_theory.games.optimisers import OPTIMISERS
from spin_theory.inputs import number, require_memory, whole
from spin_theory.losses import penalty_named, with_sft
from spin_theory.minima.problems import InnerProblem
from spin_theory.policies import TabularPolicy

__all__ = ["OPTIMISERS", "GradientSteps", "Solver"]

MOST_PAIRED = 32
"""Responses up to which the gradient goes over all pairs of them, many tables at once."""
CACHED_PAIRS = 2**15
"""Pairs of responses worked on together, so that they stay in a core's cache."""

MOST_DRAWN = 2**24
"""Responses that `torch.multinomial` draws from."""


class Solver(Protocol):
    """One iteration: from the inner problem and the last iterate to the next."""

    def __call__(
        self, problem: InnerProblem, *, start: TabularPolicy, generator: torch.Generator
    ) -> TabularPolicy:
        """Return p_{t+1}."""


@dataclass(frozen=True)
class GradientSteps:
    r"""Solve an iteration by some steps of an optimiser on the logits, as training does.

    Parameters
    ----------
    steps : int
        Steps, full batch, at least 0.
    learning_rate : float
        Of the optimiser, finite and > 0.
    optimiser : {'gd', 'momentum', 'adam', 'rmsprop'}, default 'gd'
        Gradient descent, with momentum, Adam or RMSProp, as torch.optim has them. Each iteration
        starts with fresh state.
    momentum : float, default 0.9
        Factor of 'momentum' on its last step, in [0, 1), no unit; the others do not use it.
    pairs : int, optional
        Triplets (y, y', y0) drawn for each prompt in each iteration, whose mean loss takes the
        place of the objective; by default the objective is exact.

    Raises
    ------
    ValueError
        If `steps` < 0, `learning_rate` is not finite and > 0, `pairs` < 1, `momentum` is not in
        [0, 1), or the optimiser is unknown.

    Notes
    -----
    Prompts share no parameter: each is its own problem, whatever the distribution of prompts.

    Examples
    --------
    >>> data, half = (TabularPolicy.from_probs([[p, 1 - p]]) for p in (0.8, 0.5))
    >>> problem = InnerProblem(data=data, sampler=half, reference=half, beta=2.0)
    >>> solver = GradientSteps(steps=200, learning_rate=1.0)
    >>> solver(problem, start=half, generator=torch.Generator()).probs  # the exact 2/3, nearly
    tensor([[0.6667, 0.3333]], dtype=torch.float64)
    """

    steps: int
    learning_rate: float
    optimiser: str = "gd"
    pairs: int | None = None
    momentum: float = 0.9

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", whole("steps", self.steps, least=0))
        rate = number("learning_rate", self.learning_rate)
        if not 0 < rate < math.inf:
            raise ValueError(f"learning_rate must be finite and > 0, got {self.learning_rate!r}")
        object.__setattr__(self, "learning_rate", rate)
        if not isinstance(self.optimiser, str) or self.optimiser not in OPTIMISERS:
            raise ValueError(
                f"optimiser must be one of {', '.join(OPTIMISERS)}, got {self.optimiser!r}"
            )
        if self.pairs is not None:
            object.__setattr__(self, "pairs", whole("pairs", self.pairs, least=1))
        momentum = number("momentum", self.momentum)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum!r}")
        object.__setattr__(self, "momentum", momentum)

    def __call__(
        self, problem: InnerProblem, *, start: TabularPolicy, generator: torch.Generator
    ) -> TabularPolicy:
        """Return the policy after the steps, from `start`."""
        if self.pairs is None and start.log_probs.shape[1] <= MOST_PAIRED:
            return self.many(problem, start=start)
        drawn = None if self.pairs is None else _draw(problem, self.pairs, generator)

        def gradient(logits: Tensor) -> Tensor:
            at = logits.detach().requires_grad_()
            scores = problem.scores(TabularPolicy.from_logits(at))
            values = (
                problem.score_values(scores) if drawn is None else _mean(problem, scores, drawn)
            )
            return torch.autograd.grad(values.sum(), at)[0]

        return TabularPolicy.from_logits(self._steps(start.log_probs.detach(), gradient))

    def many(
        self, problem: InnerProblem, *, start: TabularPolicy, betas: Tensor | None = None
    ) -> TabularPolicy:
        """Solve many small prompts on the exact objective, a group that fits the cache at a time.

        Parameters
        ----------
        problem : InnerProblem
            The iteration.
        start : TabularPolicy, shape (X, Y)
            Where to start.
        betas : Tensor, shape (X,), optional
            A beta for each prompt, > 0, no unit, in place of the problem's.

        Returns
        -------
        TabularPolicy, shape (X, Y)
            The policy after the steps.
        """
        parts = []
        for group in _groups(start):
            part, first = _part_of(problem, group), _rows_of(start, group)
            own = None if betas is None else betas[group]
            parts.append(self.differentiable(part, start=first, betas=own).log_probs)
        return TabularPolicy(torch.cat(parts))

    def differentiable(
        self, problem: InnerProblem, *, start: TabularPolicy, betas: Tensor | None = None
    ) -> TabularPolicy:
        """Solve on the exact objective, differentiably in the problem's tables and in `start`.

        Parameters
        ----------
        problem : InnerProblem
            The iteration.
        start : TabularPolicy, shape (X, Y)
            Where to start.
        betas : Tensor, shape (X,), optional
            A beta for each prompt, > 0, no unit, in place of the problem's.

        Returns
        -------
        TabularPolicy, shape (X, Y)
            The policy after the steps.

        Raises
        ------
        ValueError
            If `pairs` are drawn.
        """
        if self.pairs is not None:
            raise ValueError(f"pairs must be None, as the exact objective has, got {self.pairs}")
        logits = self._steps(start.log_probs.T.contiguous(), logit_gradient(problem, betas=betas))
        return TabularPolicy.from_logits(logits.T)

    def _steps(self, logits: Tensor, gradient: Callable[[Tensor], Tensor]) -> Tensor:
        """Take the steps from some logits."""
        update = OPTIMISERS[self.optimiser](self.momentum)
        for _ in range(self.steps):
            logits = logits - self.learning_rate * update(gradient(logits))
        return logits


def _groups(start: TabularPolicy) -> Iterator[slice]:
    """Split the prompts into groups that fit the cache."""
    prompts, responses = start.log_probs.shape
    rows = max(1, CACHED_PAIRS // responses**2)
    for first in range(0, prompts, rows):
        yield slice(first, first + rows)


def _part_of(problem: InnerProblem, group: slice) -> InnerProblem:
    """Cut the problem down to some of its prompts."""
    reference, initial = problem.reference, problem.initial
    return replace(
        problem,
        data=_rows_of(problem.data, group),
        sampler=_rows_of(problem.sampler, group),
        reference=None if reference is None else _rows_of(reference, group),
        initial=None if initial is None else _rows_of(initial, group),
    )


def _rows_of(table: TabularPolicy, group: slice) -> TabularPolicy:
    return TabularPolicy(table.log_probs[group].detach())


def _draw(
    problem: InnerProblem, pairs: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw indices of real, generated and proto responses with replacement: (X, pairs) each."""
    prompts, responses = problem.data.log_probs.shape
    require_memory(f"pairs = {pairs}", 8 * prompts * pairs)
    if responses > MOST_DRAWN:
        raise ValueError(
            f"pairs can be drawn from at most {MOST_DRAWN} responses, got {responses}; "
            "leave pairs out for the exact objective"
        )
    initial = problem.sampler if problem.initial is None else problem.initial
    real, generated, proto = (
        torch.multinomial(table.probs, pairs, replacement=True, generator=generator)
        for table in (problem.data, problem.sampler, initial)
    )
    return real, generated, proto


def _mean(problem: InnerProblem, scores: Tensor, drawn: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Mean loss of the triplets drawn, (X,)."""
    penalty = penalty_named(problem.loss_type)
    real, generated, proto = (scores.gather(-1, indices) for indices in drawn)
    losses = penalty(real - generated)
    if problem.history_weight > 0:
        losses = losses + problem.history_weight * penalty(generated - proto)
    if problem.sft is not None:
        real_logps = problem.sft.log_probs(scores).gather(-1, drawn[0])
        losses = with_sft(losses, policy_real_logps=real_logps, sft_weight=problem.sft_weight)
    return losses.mean(dim=-1)
