"""Beta against inner steps: where self-play approaches the data, stalls, or leaves them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from spin_theory.divergences import tv
from spin_theory.games.inexact import fisher_eigenvalues, inexact_multiplier
from spin_theory.games.opponents import OpponentRule, last_iterate
from spin_theory.games.play import play
from spin_theory.games.solvers import MOST_PAIRED, GradientSteps, Solver
from spin_theory.inputs import numbers, whole
from spin_theory.losses import penalty_named, require_beta
from spin_theory.minima.closed_forms import exact
from spin_theory.minima.minimise import minimiser
from spin_theory.minima.problems import InnerProblem
from spin_theory.policies import NotFiniteError, TabularPolicy
from spin_theory.tolerances import ROUNDING

__all__ = ["PhaseDiagram", "phase_diagram"]

BATCH = 2560
"""Games that are played at once, at several betas: five groups of 8 responses."""

MOST_STALLED = 0.25
"""Share of a cell's games from which on it does not count as approaching the data."""


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
        data: negative where games ended nearer to the data than they began.
    diverged : Tensor, shape (B, K)
        Share of the games that end further from the data than they began, by more than rounding,
        or whose log-probs outgrew float64.
    stable : Tensor, shape (B, K), or None
        Share of the games that theory says settle at the data from near enough, by
        :func:`inexact_multiplier`; None where it has no law: for another opponent than SPIN's, a
        history term, or an optimiser that adapts.
    stalled : Tensor, shape (B, K), or None
        Share of the games that are not at the data at the end, and were as near or nearer in an
        earlier iterate: they may have come to rest elsewhere, or go round.
    """

    betas: tuple[float, ...]
    inner_steps: tuple[int | None, ...]
    change: Tensor
    diverged: Tensor
    stable: Tensor | None = None
    stalled: Tensor | None = None

    @property
    def approaches(self) -> Tensor:
        """Whether games ended nearer and fewer than a quarter of them stalled, (B, K)."""
        stalled = torch.zeros_like(self.change) if self.stalled is None else self.stalled
        return (self.change < 0) & (stalled < MOST_STALLED)


def phase_diagram(
    *,
    betas: Sequence[float],
    inner_steps: Sequence[int | None],
    learning_rate: float = 1.0,
    optimiser: str = "gd",
    momentum: float = 0.9,
    iterations: int = 10,
    games: int = 64,
    responses: int = 8,
    smallest: float = 1e-3,
    loss_type: str = "logistic",
    opponent: OpponentRule = last_iterate,
    history_weight: float = 0.0,
    sft_weight: float = 0.0,
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
    optimiser : {'gd', 'momentum', 'adam', 'rmsprop'}, default 'gd'
        Gradient descent, with momentum (0.9), Adam or RMSProp.
    momentum : float, default 0.9
        Factor of 'momentum' on its last step, in [0, 1), no unit; the others do not use it.
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
    sft_weight : float, default 0.0
        Weight of the SFT term, >= 0, per nat. With it an iteration is solved exactly by a search,
        as it has no closed form.
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
    searched = sft_weight > 0 and penalty_named(loss_type).suits_newton
    solvers: list[Solver] = [
        (minimiser if searched else exact)
        if steps is None
        else GradientSteps(steps, learning_rate, optimiser, momentum=momentum)
        for steps in columns
    ]
    late_distances = partial(
        _late_distances,
        start,
        data,
        loss_type=loss_type,
        opponent=opponent,
        history_weight=history_weight,
        sft_weight=sft_weight,
    )
    for beta in betas:  # so that bad values are refused before the work
        require_beta(beta)
        if None in columns:
            late_distances(
                beta=beta, iterations=min(1, iterations), solver=solvers[columns.index(None)]
            )
    rules: dict[str, Any] = {
        "loss_type": loss_type,
        "opponent": opponent,
        "history_weight": history_weight,
        "sft_weight": sft_weight,
    }
    cells = []
    for some in _batches(track(betas), size=max(1, BATCH // games)):
        rows = [
            _all_late_distances(
                start, data, betas=some, iterations=iterations, solver=solver, **rules
            )
            for solver in solvers
        ]
        cells.append(torch.stack(rows, dim=2))  # (2, betas, K, X)
    (nearest, last), first = torch.cat(cells, dim=1), tv(data, start)
    floor = torch.finfo(torch.float64).eps  # a game that has reached the data has no logarithm
    change = (last.clamp(min=floor) / first.clamp(min=floor)).log10().mean(dim=-1)
    diverged = (last > first + ROUNDING).double().mean(dim=-1)
    stalled = ((last > ROUNDING) & (last >= nearest - ROUNDING)).double().mean(dim=-1)
    stable = None
    if opponent is last_iterate and history_weight == 0 and optimiser in ("gd", "momentum"):
        stable = _stable_shares(data, betas, solvers, loss_type, sft_weight)
    return PhaseDiagram(betas, columns, change, diverged, stable, stalled)


def _batches(betas: Iterable[float], *, size: int) -> Iterator[list[float]]:
    iterator = iter(betas)
    while batch := list(islice(iterator, size)):
        yield batch


def _all_late_distances(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    betas: Sequence[float],
    iterations: int,
    solver: Solver,
    opponent: OpponentRule,
    **rules: Any,
) -> Tensor:
    """Distances (2, B, X) from the data as of :func:`_late_distances`, for B betas."""
    games, responses = data.log_probs.shape
    if isinstance(solver, GradientSteps) and responses <= MOST_PAIRED:
        every = TabularPolicy(data.log_probs.repeat(len(betas), 1))
        policies = [TabularPolicy(start.log_probs.repeat(len(betas), 1))]
        own = torch.tensor(betas, dtype=torch.float64).repeat_interleave(games)
        try:
            for _ in range(iterations):
                chosen = opponent(policies)
                problem = InnerProblem(
                    data=every,
                    sampler=chosen.sampler,
                    reference=chosen.reference,
                    beta=1.0,  # each game has its own
                    initial=policies[0],
                    **rules,
                )
                policies.append(solver.many(problem, start=policies[-1], betas=own))
            distances = torch.stack([tv(every, policy) for policy in policies])
            return _nearest_and_last(distances).view(2, len(betas), games)
        except NotFiniteError:  # one game does not stop the others
            pass
    one_by_one = partial(_late_distances, start, data, iterations=iterations, solver=solver)
    found = [one_by_one(beta=beta, opponent=opponent, **rules) for beta in betas]
    return torch.stack(found, dim=1)


def _stable_shares(
    data: TabularPolicy,
    betas: Sequence[float],
    solvers: Sequence[Solver],
    loss_type: str,
    sft_weight: float,
) -> Tensor:
    """Share (B, K) of the games whose multipliers at the data are all inside (-1, 1)."""
    eigenvalues = fisher_eigenvalues(data)  # (X, Y - 1)
    shares = torch.zeros(len(betas), len(solvers), dtype=torch.float64)
    for row, beta in enumerate(betas):
        for column, solver in enumerate(solvers):
            law = partial(
                inexact_multiplier,
                eigenvalues,
                beta=beta,
                loss_type=loss_type,
                sft_weight=sft_weight,
            )
            if isinstance(solver, GradientSteps):
                multipliers = law(
                    steps=solver.steps,
                    learning_rate=solver.learning_rate,
                    momentum=solver.momentum if solver.optimiser == "momentum" else 0.0,
                )
            else:
                multipliers = law(steps=None)
            shares[row, column] = (multipliers.abs() < 1).all(dim=-1).double().mean()
    return shares


def _late_distances(start: TabularPolicy, data: TabularPolicy, **rules: object) -> Tensor:
    """Least distance from the data before the end, and that at the end: (2, X).

    Both are 1 where log-probs outgrew float64.
    """
    game = play(start, data, **rules)  # type: ignore[arg-type]  # passed on as they came
    if game.stopped is None:
        return _nearest_and_last(game.by_prompt(tv))
    if len(data.log_probs) == 1:
        return torch.ones(2, 1, dtype=torch.float64)
    rows = zip(start.log_probs, data.log_probs, strict=True)  # one game does not stop the others
    alone = [(TabularPolicy(one[None]), TabularPolicy(other[None])) for one, other in rows]
    return torch.cat([_late_distances(one, other, **rules) for one, other in alone], dim=-1)


def _nearest_and_last(distances: Tensor) -> Tensor:
    """Least of all distances (T + 1, X) but the last, and the last: (2, X)."""
    earlier = distances[:-1] if len(distances) > 1 else distances
    return torch.stack([earlier.amin(dim=0), distances[-1]])
