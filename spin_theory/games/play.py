"""Playing the game on tables, iterate by iterate, and what theory predicts for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from spin_theory.divergences import js, kl, tv
from spin_theory.games.opponents import OpponentRule, last_iterate
from spin_theory.games.solvers import Solver
from spin_theory.inputs import generator, number, numbers, whole
from spin_theory.minima.closed_forms import exact
from spin_theory.minima.newton import UnsolvedError
from spin_theory.minima.problems import InnerProblem
from spin_theory.policies import (
    NotFiniteError,
    TabularPolicy,
    prompt_average,
    prompt_weights,
    require_same_shape,
)

__all__ = ["Game", "play"]


@dataclass(frozen=True)
class Game:
    r"""Iterates of self-play and their distances to the data.

    Attributes
    ----------
    policies : tuple of TabularPolicy
        p_0, ..., p_T, the start first; fewer where the game stopped early.
    data : TabularPolicy, shape (X, Y)
        p_data.
    betas : tuple of float
        The beta of each iteration, those after an early stop among them.
    history_weights : tuple of float
        The history weight of each; 0 in SPIN.
    prompt_probs : Tensor, shape (X,), or None
        Distribution q(x) that divergences are averaged over; uniform if None.
    stopped : str or None, default None
        None for a game that was played to the end. Otherwise which iterate could not be computed,
        and why: its log-probs outgrow float64, or the solver did not reach the minimum.
    sft_weights : tuple of float, default ()
        The weight of the SFT term in each iteration; empty where it was not recorded.
    """

    policies: tuple[TabularPolicy, ...]
    data: TabularPolicy
    betas: tuple[float, ...]
    history_weights: tuple[float, ...]
    prompt_probs: Tensor | None
    stopped: str | None = None
    sft_weights: tuple[float, ...] = ()

    @cached_property
    def kl(self) -> Tensor:
        """KL(p_data || p_t) in nats, averaged over prompts: shape (T + 1,)."""
        return prompt_average(self.by_prompt(kl), self.prompt_probs)

    @cached_property
    def tv(self) -> Tensor:
        """Total variation distance of p_data and p_t, averaged over prompts: shape (T + 1,)."""
        return prompt_average(self.by_prompt(tv), self.prompt_probs)

    @cached_property
    def js(self) -> Tensor:
        """Jensen-Shannon divergence of p_data and p_t in nats, averaged: shape (T + 1,)."""
        return prompt_average(self.by_prompt(js), self.prompt_probs)

    def by_prompt(self, distance: Callable[[TabularPolicy, TabularPolicy], Tensor]) -> Tensor:
        """Divergence of each iterate from the data, prompt by prompt.

        Parameters
        ----------
        distance : callable
            :func:`kl`, :func:`tv`, ...: from data and policy to shape (X,).

        Returns
        -------
        Tensor, shape (T + 1, X)
            The divergences. Prompts are independent: X of them are X games.
        """
        return torch.stack([distance(self.data, policy) for policy in self.policies])


def play(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float | Sequence[float],
    iterations: int,
    loss_type: str = "logistic",
    solver: Solver = exact,
    opponent: OpponentRule = last_iterate,
    history_weight: float | Sequence[float] = 0.0,
    sft_weight: float | Sequence[float] = 0.0,
    seed: int = 0,
    prompt_probs: Tensor | None = None,
) -> Game:
    r"""Play for some iterations: each time, the policy becomes the opponent.

    Parameters
    ----------
    start, data : TabularPolicy, shape (X, Y)
        p_0 and p_data. Prompts share nothing, so X prompts are X games played at once.
    beta : float or sequence of float
        Scale on log-prob differences, > 0, no unit; one for all iterations or one for each, also
        as an array or tensor.
    iterations : int
        How many, at least 0.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty; `solver` must support it.
    solver : Solver, default exact
        How an iteration is solved: :func:`exact`, :func:`minimiser` or :class:`GradientSteps`.
    opponent : OpponentRule, default last_iterate
        Who generates, and the denominator of the log-ratios: :func:`last_iterate` is SPIN,
        :func:`without_reference` T-SPIN; :func:`mixed_samples`, :func:`geometric_mixture` and
        :func:`average_of_iterates` are the published variations.
    history_weight : float or sequence of float, default 0.0
        Weight of T-SPIN's history term, >= 0, no unit; one for all iterations or one for each.
        The published protocol is 0 in the first iteration and 0.1 in the others. Given to an
        opponent with a reference, as SPIN's, it makes a game that is pushed away from p_0 and
        does not rest at the data: :func:`rest_with_history`.
    sft_weight : float or sequence of float, default 0.0
        Weight of the SFT term, >= 0, per nat; one for all iterations or one for each. With it
        SPIN settles at the data at every beta: :func:`sft_multiplier`.
    seed : int, default 0
        Of whatever the solver draws.
    prompt_probs : Tensor, shape (X,), optional
        Distribution q(x) that divergences are averaged over; uniform by default.

    Returns
    -------
    Game
        All iterates and their divergences to the data. Where the log-probs of an iterate outgrow
        float64 (below beta = 1/2 they grow by a factor with each iteration), the game keeps the
        iterates before it, and `stopped` says so.

    Raises
    ------
    ValueError
        If shapes differ, `iterations` < 0, `beta` is no positive number or not one for each
        iteration, or `solver` refuses the problem.

    Examples
    --------
    >>> start, data = (TabularPolicy.random(2, 5, seed=seed) for seed in (0, 1))
    >>> game = play(start, data, beta=1.0, iterations=2)  # one step at beta = 1
    >>> len(game.policies), bool(game.tv[1] < 1e-14)
    (3, True)
    """
    require_same_shape(start=start, data=data)
    iterations = whole("iterations", iterations, least=0)
    betas = _schedule("beta", beta, iterations)
    history_weights = _schedule("history_weight", history_weight, iterations)
    sft_weights = _schedule("sft_weight", sft_weight, iterations)
    if prompt_probs is not None:  # refused before the work
        prompt_probs = prompt_weights(len(data.log_probs), prompt_probs)
    source, policies, stopped = generator(seed), [start], None
    for iteration in range(iterations):
        try:
            chosen = opponent(policies)
            problem = InnerProblem(
                data=data,
                sampler=chosen.sampler,
                reference=chosen.reference,
                beta=betas[iteration],
                loss_type=loss_type,
                initial=start,
                history_weight=history_weights[iteration],
                sft_weight=sft_weights[iteration],
            )
            policies.append(solver(problem, start=policies[-1], generator=source))
        except NotFiniteError:
            stopped = f"p_{iteration + 1} cannot be computed: its log-probs outgrow float64"
        except UnsolvedError as error:
            stopped = f"p_{iteration + 1} cannot be computed: {error}"
        except ValueError as error:
            raise ValueError(f"iteration {iteration}: {error}") from error
        if stopped is not None:
            break
    return Game(tuple(policies), data, betas, history_weights, prompt_probs, stopped, sft_weights)


def _schedule(name: str, values: float | Sequence[float], iterations: int) -> tuple[float, ...]:
    """One value for each iteration."""
    if isinstance(values, str) or getattr(values, "ndim", None) == 0 or not _has_length(values):
        return (number(name, values),) * iterations
    schedule = numbers(name, values)
    if len(schedule) != iterations:
        raise ValueError(f"{name} must be one number or {iterations} numbers, got {len(schedule)}")
    return schedule


def _has_length(values: object) -> bool:
    return hasattr(values, "__len__")
