"""Solvers for one iteration of a game: their type, and some steps of an optimiser.

The others are in `minima`: `exact`, the closed form, and `minimiser`, a search.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from spin_theory.inputs import number, require_memory, whole
from spin_theory.losses import penalty_named
from spin_theory.minima.problems import InnerProblem
from spin_theory.policies import TabularPolicy

__all__ = ["GradientSteps", "Solver"]

OPTIMISERS = {
    "gd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "rmsprop": torch.optim.RMSprop,
}
"""Of torch, with its defaults but for the learning rate; state is fresh in each iteration."""

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
    optimiser : {'gd', 'adam', 'rmsprop'}, default 'gd'
        Gradient descent, Adam or RMSProp.
    pairs : int, optional
        Triplets (y, y', y0) drawn for each prompt in each iteration, whose mean loss takes the
        place of the objective; by default the objective is exact.

    Raises
    ------
    ValueError
        If `steps` < 0, `learning_rate` is not finite and > 0, `pairs` < 1, or the optimiser is
        unknown.

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

    def __call__(
        self, problem: InnerProblem, *, start: TabularPolicy, generator: torch.Generator
    ) -> TabularPolicy:
        """Return the policy after the steps, from `start`."""
        logits = start.log_probs.detach().clone().requires_grad_()
        optimiser = OPTIMISERS[self.optimiser]([logits], lr=self.learning_rate)
        drawn = None if self.pairs is None else _draw(problem, self.pairs, generator)
        for _ in range(self.steps):
            scores = problem.scores(TabularPolicy.from_logits(logits))
            values = (
                problem.score_values(scores) if drawn is None else _mean(problem, scores, drawn)
            )
            (logits.grad,) = torch.autograd.grad(values.sum(), logits)
            optimiser.step()
        return TabularPolicy.from_logits(logits.detach())


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
    return losses.mean(dim=-1)
