"""Beta against inner steps: where self-play approaches the data, and where it leaves them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from spin_theory.divergences import tv
from spin_theory.games.opponents import OpponentRule, last_iterate
from spin_theory.games.play import play
from spin_theory.games.solvers import GradientSteps, Solver
from spin_theory.inputs import numbers, whole
from spin_theory.losses import require_beta
from spin_theory.minima.closed_forms import exact
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import ROUNDING

__all__ = ["PhaseDiagram", "phase_diagram"]


@dataclass(frozen=True)
class PhaseDiagram:
    """How far games went, by beta and number of inner steps.

    Attributes
    ----------
    betas : tuple of float
        Rows.
    inner_steps : tuple of int or None
        Columns; None is the exact solution.
    change : Tensor, shape (B, K)
        Mean over games of log10 of the final over the first total variation distance from the
        data: negative where games approach the data.
    diverged : Tensor, shape (B, K)
        Share of the games that end further from the data than they began, by more than rounding,
        or whose log-probs outgrew float64.
    """

    betas: tuple[float, ...]
    inner_steps: tuple[int | None, ...]
    change: Tensor
    diverged: Tensor


def phase_diagram(
    *,
    betas: Sequence[float],
    inner_steps: Sequence[int | None],
    learning_rate: float = 1.0,
    optimiser: str = "gd",
    iterations: int = 10,
    games: int = 64,
    responses: int = 8,
    smallest: float = 1e-3,
    loss_type: str = "logistic",
    opponent: OpponentRule = last_iterate,
    history_weight: float = 0.0,
    seed: int = 0,
    track: Callable[[Sequence[float]], Sequence[float]] = list,
) -> PhaseDiagram:
    r"""Play random games at each beta with each number of inner steps.

    Parameters
    ----------
    betas : sequence of float
        Pull towards the opponent, > 0, no unit.
    inner_steps : sequence of int or None
        Optimiser steps in each iteration; None solves it exactly (logistic, exponential).
    learning_rate : float, default 1.0
        Of the optimiser, on the logits of a prompt.
    optimiser : {'gd', 'adam', 'rmsprop'}, default 'gd'
        Gradient descent, Adam or RMSProp.
    iterations : int, default 10
        Of self-play.
    games : int, default 64
        Random pairs of p_0 and p_data.
    responses : int, default 8
        Y.
    smallest : float, default 1e-3
        Lower end of the probabilities before they are normalised.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty.
    opponent : OpponentRule, default last_iterate
        Who generates, and the denominator.
    history_weight : float, default 0.0
        Weight of T-SPIN's history term.
    seed : int, default 0
        Of the games.
    track : callable, default list
        Wrapped around the betas: a progress bar.

    Returns
    -------
    PhaseDiagram
        The diagram.

    Raises
    ------
    ValueError
        If a parameter is out of its range, there are no betas or no steps, or None is among the
        steps of a penalty or game without a closed form.

    Examples
    --------
    >>> diagram = phase_diagram(betas=[0.3, 1.0], inner_steps=[1, None], games=8)
    >>> (diagram.change[1] < 0).tolist(), diagram.diverged[0].tolist()  # exact: |m| = 7/3
    ([True, True], [0.0, 1.0])
    """
    betas = numbers("betas", betas)
    columns = tuple(
        None if steps is None else whole("inner_steps", steps, least=0) for steps in inner_steps
    )
    if not (betas and columns):
        raise ValueError(f"betas and inner_steps must not be empty, got {betas}, {columns}")
    start, data = (
        TabularPolicy.random(games, responses, seed=seed + k, smallest=smallest) for k in (0, 1)
    )
    solvers: list[Solver] = [
        exact
        if steps is None
        else GradientSteps(steps=steps, learning_rate=learning_rate, optimiser=optimiser)
        for steps in columns
    ]
    last_distance = partial(
        _last_distance,
        start,
        data,
        loss_type=loss_type,
        opponent=opponent,
        history_weight=history_weight,
    )
    for beta in betas:  # so that bad values are refused before the work
        require_beta(beta)
        if exact in solvers:
            last_distance(beta=beta, iterations=min(1, iterations), solver=exact)
    first = tv(data, start)
    change, diverged = [], []
    for beta in track(betas):
        for solver in solvers:
            last = last_distance(beta=beta, iterations=iterations, solver=solver)
            floor = torch.finfo(
                torch.float64
            ).eps  # a game that has reached the data has no logarithm
            change.append((last.clamp(min=floor) / first.clamp(min=floor)).log10().mean())
            diverged.append((last > first + ROUNDING).double().mean())
    shape = (len(betas), len(inner_steps))
    return PhaseDiagram(
        betas,
        columns,
        torch.stack(change).reshape(shape),
        torch.stack(diverged).reshape(shape),
    )


def _last_distance(start: TabularPolicy, data: TabularPolicy, **rules: object) -> Tensor:
    """Distance (X,) of the last iterate from the data; 1 where log-probs outgrew float64."""
    game = play(start, data, **rules)  # type: ignore[arg-type]  # passed on as they came
    if game.stopped is None:
        return tv(data, game.policies[-1])
    if len(data.log_probs) == 1:
        return torch.ones(1, dtype=torch.float64)
    rows = zip(start.log_probs, data.log_probs, strict=True)  # one game does not stop the others
    alone = [(TabularPolicy(one[None]), TabularPolicy(other[None])) for one, other in rows]
    return torch.cat([_last_distance(one, other, **rules) for one, other in alone])
