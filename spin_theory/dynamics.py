"""The game played out: iterate after iterate on tables, and where theory puts them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from spin_theory.divergences import js, kl, tv
from spin_theory.inner_problems import InnerProblem
from spin_theory.losses import penalty_named, require_beta
from spin_theory.opponents import OpponentRule, last_iterate
from spin_theory.policies import (
    TabularPolicy,
    prompt_average,
    prompt_weights,
    require_same_shape,
)
from spin_theory.solvers import Solver, exact

__all__ = ["Game", "multiplier", "play", "predicted_policy"]


@dataclass(frozen=True)
class Game:
    r"""Iterates of self-play and their distances to the data.

    Attributes
    ----------
    policies : tuple of TabularPolicy
        p_0, ..., p_T, the start first.
    data : TabularPolicy, shape (X, Y)
        p_data.
    betas : tuple of float
        The beta of each of the T iterations.
    history_weights : tuple of float
        The history weight of each; 0 in SPIN.
    prompt_probs : Tensor, shape (X,), or None
        Distribution q(x) that divergences are averaged over; uniform if None.
    """

    policies: tuple[TabularPolicy, ...]
    data: TabularPolicy
    betas: tuple[float, ...]
    history_weights: tuple[float, ...]
    prompt_probs: Tensor | None

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
    seed: int = 0,
    prompt_probs: Tensor | None = None,
) -> Game:
    r"""Play for some iterations: each time, the policy becomes the opponent.

    Parameters
    ----------
    start, data : TabularPolicy, shape (X, Y)
        p_0 and p_data. Prompts share nothing, so X prompts are X games played at once.
    beta : float or sequence of float
        Scale on log-prob differences, > 0, no unit; one for all iterations or one for each.
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
        The published protocol is 0 in the first iteration and 0.1 in the others.
    seed : int, default 0
        Of whatever the solver draws.
    prompt_probs : Tensor, shape (X,), optional
        Distribution q(x) that divergences are averaged over; uniform by default.

    Returns
    -------
    Game
        All iterates and their divergences to the data.

    Raises
    ------
    ValueError
        If shapes differ, `iterations` < 0, `beta` is no positive number or not one for each
        iteration, `solver` refuses the problem, or the log-probs of an iterate outgrow float64
        (below beta = 1/2 they grow by a factor with each iteration).

    Examples
    --------
    >>> start, data = (TabularPolicy.random(2, 5, seed=seed) for seed in (0, 1))
    >>> game = play(start, data, beta=1.0, iterations=2)  # one step at beta = 1
    >>> len(game.policies), bool(game.tv[1] < 1e-14)
    (3, True)
    """
    require_same_shape(start=start, data=data)
    if not iterations >= 0:
        raise ValueError(f"iterations must be >= 0, got {iterations!r}")
    betas = _schedule("beta", beta, iterations)
    history_weights = _schedule("history_weight", history_weight, iterations)
    prompt_weights(len(data.log_probs), prompt_probs)  # refused before the work
    generator = torch.Generator().manual_seed(seed)
    policies = [start]
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
            )
            policies.append(solver(problem, start=policies[-1], generator=generator))
        except ValueError as error:
            raise ValueError(f"iteration {iteration}: {error}") from error
    return Game(tuple(policies), data, betas, history_weights, prompt_probs)


def _schedule(name: str, values: float | Sequence[float], iterations: int) -> tuple[float, ...]:
    """One value for each iteration."""
    schedule = tuple(values) if isinstance(values, Sequence) else (values,) * iterations
    if len(schedule) != iterations:
        raise ValueError(f"{name} must be a number or {iterations} of them, got {len(schedule)}")
    return schedule


def multiplier(*, beta: float, loss_type: str = "logistic") -> float:
    r"""Factor by which one iteration multiplies the log-ratio of policy to data.

    Parameters
    ----------
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.

    Returns
    -------
    float
        :math:`m = 1 - 1/\beta`, for the exponential penalty :math:`1 - 1/(2\beta)`, no unit.
        The log-ratio contracts where |m| < 1, that is beta > 1/2 (exponential: 1/4); it
        vanishes in one step at m = 0, comes back every second step at m = -1, and diverges
        while changing sign below.

    Raises
    ------
    ValueError
        If `beta` is not finite and > 0, or the penalty has no closed form.

    Notes
    -----
    Follows from Theorem 5.4: :math:`p_{t+1}/p_{data} \propto (p_t/p_{data})^m`.

    Examples
    --------
    >>> multiplier(beta=0.5), multiplier(beta=2.0)
    (-1.0, 0.5)
    """
    require_beta(beta)
    penalty_named(loss_type)
    if loss_type not in ("logistic", "exponential"):
        raise ValueError(f"loss_type must be logistic or exponential, got {loss_type!r}")
    return 1 - 1 / (beta if loss_type == "logistic" else 2 * beta)


def predicted_policy(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    betas: Sequence[float],
    loss_type: str = "logistic",
) -> TabularPolicy:
    r"""Iterate after the given betas, without playing.

    Parameters
    ----------
    start, data : TabularPolicy, shape (X, Y)
        p_0 and p_data.
    betas : sequence of float
        The beta of each iteration, > 0, no unit; the order does not matter.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.

    Returns
    -------
    TabularPolicy
        :math:`p_t \propto p_{data} (p_0/p_{data})^{\prod_k m_k}`, the :math:`m_k` by
        :func:`multiplier`.

    Raises
    ------
    ValueError
        If shapes differ, a beta is not finite and > 0, or the penalty has no closed form.

    Examples
    --------
    >>> start = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> data = TabularPolicy.from_probs([[0.8, 0.2]])
    >>> predicted_policy(start, data, betas=[0.5, 0.5]).probs  # a cycle of length two
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    require_same_shape(start=start, data=data)
    power = math.prod(multiplier(beta=beta, loss_type=loss_type) for beta in betas)
    return TabularPolicy.from_logits(data.log_probs + power * (start.log_probs - data.log_probs))
