"""The game played out: iterate after iterate of SPIN on tables, and where theory puts them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spin_theory.divergences import js, kl, tv
from spin_theory.losses import penalty_named, require_beta
from spin_theory.policies import TabularPolicy, prompt_average, require_same_shape
from spin_theory.updates import Update, closed_form_update

__all__ = ["Game", "multiplier", "play", "predicted_policy"]


@dataclass(frozen=True)
class Game:
    r"""Iterates of self-play and their distances to the data.

    Attributes
    ----------
    policies : tuple of TabularPolicy
        p_0, ..., p_T, the start first.
    betas : tuple of float
        The beta of each of the T iterations.
    kl : Tensor, shape (T + 1,)
        KL(p_data || p_t) in nats, averaged over prompts.
    tv : Tensor, shape (T + 1,)
        Total variation distance of p_data and p_t, averaged over prompts.
    js : Tensor, shape (T + 1,)
        Jensen-Shannon divergence of p_data and p_t in nats, averaged over prompts.
    """

    policies: tuple[TabularPolicy, ...]
    betas: tuple[float, ...]
    kl: Tensor
    tv: Tensor
    js: Tensor


def play(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float | Sequence[float],
    iterations: int,
    loss_type: str = "logistic",
    update: Update = closed_form_update,
    prompt_probs: Tensor | None = None,
) -> Game:
    r"""Play SPIN for some iterations: the policy becomes the opponent each time.

    Parameters
    ----------
    start, data : TabularPolicy, shape (X, Y)
        p_0 and p_data.
    beta : float or sequence of float
        Pull towards the opponent, > 0, no unit; one for all iterations or one for each.
    iterations : int
        How many, at least 0.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty; `update` must support it.
    update : Update, default closed_form_update
        How an iteration is solved: :func:`closed_form_update` or :func:`minimiser_update`.
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
        iteration, `update` refuses the penalty, or the log-probs of an iterate outgrow float64
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
    betas = tuple(beta) if isinstance(beta, Sequence) else (beta,) * iterations
    if len(betas) != iterations:
        raise ValueError(f"beta must be a number or {iterations} of them, got {len(betas)}")
    policies = [start]
    for iteration, step in enumerate(betas):
        try:
            policies.append(update(policies[-1], data, beta=step, loss_type=loss_type))
        except ValueError as error:
            raise ValueError(f"iteration {iteration}: {error}") from error
    kl_, tv_, js_ = (
        prompt_average(torch.stack([distance(data, policy) for policy in policies]), prompt_probs)
        for distance in (kl, tv, js)
    )
    return Game(policies=tuple(policies), betas=betas, kl=kl_, tv=tv_, js=js_)


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
