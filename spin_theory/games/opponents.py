"""The opponents: SPIN's last iterate, and the published variations on it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from spin_theory.inputs import number, whole
from spin_theory.minima.token_trees import TokenTree
from spin_theory.policies import TabularPolicy, require_same_shape

__all__ = [
    "Opponent",
    "OpponentRule",
    "average_of_iterates",
    "geometric_mixture",
    "last_iterate",
    "mixed_samples",
    "moving_average",
    "tempered_samples",
    "without_reference",
]


@dataclass(frozen=True, eq=False)
class Opponent:
    """What the opponent contributes to one iteration.

    Attributes
    ----------
    sampler : TabularPolicy, shape (X, Y)
        Who generates y'.
    reference : TabularPolicy, shape (X, Y), or None
        Denominator of the log-ratios; None where the score is the log-prob itself.
    """

    sampler: TabularPolicy
    reference: TabularPolicy | None


OpponentRule = Callable[[Sequence[TabularPolicy]], Opponent]
"""From all iterates so far, p_0 first, to the opponent."""


def last_iterate(policies: Sequence[TabularPolicy]) -> Opponent:
    """SPIN's opponent: the last iterate, as sampler and as denominator.

    Parameters
    ----------
    policies : sequence of TabularPolicy
        p_0, ..., p_t; at least one.

    Returns
    -------
    Opponent
        p_t twice.

    Examples
    --------
    >>> half = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> last_iterate([half]).sampler is half
    True
    """
    return Opponent(sampler=policies[-1], reference=policies[-1])


def without_reference(policies: Sequence[TabularPolicy]) -> Opponent:
    """T-SPIN's opponent: the last iterate generates, and there is no denominator.

    Parameters
    ----------
    policies : sequence of TabularPolicy
        pi_0, ..., pi_t; at least one.

    Returns
    -------
    Opponent
        pi_t, and no reference.

    Examples
    --------
    >>> half = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> without_reference([half]).reference is None
    True
    """
    return Opponent(sampler=policies[-1], reference=None)


def mixed_samples(policies: Sequence[TabularPolicy], *, earlier: int = 1) -> Opponent:
    """Let the last iterates generate together, as in the official runs of SPIN.

    Parameters
    ----------
    policies : sequence of TabularPolicy
        p_0, ..., p_t; at least one.
    earlier : int, default 1
        How many iterates before the last also generate, as far as there are any.

    Returns
    -------
    Opponent
        The average of p_t, ..., p_{t - earlier} generates; the denominator is p_t.

    Raises
    ------
    ValueError
        If `earlier` is negative.

    Examples
    --------
    >>> policies = [TabularPolicy.from_probs([[p, 1 - p]]) for p in (0.2, 0.6)]
    >>> mixed_samples(policies).sampler.probs
    tensor([[0.4000, 0.6000]], dtype=torch.float64)
    """
    earlier = whole("earlier", earlier, least=0)
    return Opponent(sampler=_average(policies[-1 - earlier :]), reference=policies[-1])


def tempered_samples(
    policies: Sequence[TabularPolicy], *, temperature: float, tree: TokenTree | None = None
) -> Opponent:
    r"""SPIN's opponent where generation samples at a temperature.

    Parameters
    ----------
    policies : sequence of TabularPolicy
        p_0, ..., p_t; at least one.
    temperature : float
        T, > 0, no unit; 1 is :func:`last_iterate`.
    tree : TokenTree, optional
        Sample each token at T, as a language model does. By default the whole response is.

    Returns
    -------
    Opponent
        :math:`\propto p_t^{1/T}` generates, with `tree` for each next token; the denominator is
        p_t.

    Raises
    ------
    ValueError
        If `temperature` is not finite and > 0.

    Notes
    -----
    At :math:`T \ne 1` SPIN does not rest at the data; see :func:`tempered_limit`.

    Examples
    --------
    >>> policy = TabularPolicy.from_probs([[0.8, 0.2]])
    >>> tempered_samples([policy], temperature=2.0).sampler.probs  # odds sqrt(4)
    tensor([[0.6667, 0.3333]], dtype=torch.float64)
    """
    require_temperature(temperature)
    if tree is not None:
        return Opponent(tree.powers(policies[-1], 1 / temperature), reference=policies[-1])
    sampler = TabularPolicy.from_logits(policies[-1].log_probs / temperature)
    return Opponent(sampler=sampler, reference=policies[-1])


def average_of_iterates(policies: Sequence[TabularPolicy]) -> Opponent:
    """Fictitious play: the average of all iterates, as sampler and as denominator.

    Parameters
    ----------
    policies : sequence of TabularPolicy
        p_0, ..., p_t; at least one.

    Returns
    -------
    Opponent
        The average of all, twice.

    Notes
    -----
    The fictitious play of [1]_.

    References
    ----------
    .. [1] Alami et al., "Investigating Regularization of Self-Play Language Models",
       arXiv:2404.04291.

    Examples
    --------
    >>> policies = [TabularPolicy.from_probs([[p, 1 - p]]) for p in (0.2, 0.6)]
    >>> average_of_iterates(policies).reference.probs
    tensor([[0.4000, 0.6000]], dtype=torch.float64)
    """
    average = _average(policies)
    return Opponent(sampler=average, reference=average)


def geometric_mixture(policies: Sequence[TabularPolicy], *, base_weight: float = 0.5) -> Opponent:
    r"""Opponent held near the initial policy by a geometric mixture.

    Parameters
    ----------
    policies : sequence of TabularPolicy
        p_0, ..., p_t; at least one.
    base_weight : float, default 0.5
        Weight w of the initial policy, in [0, 1], no unit.

    Returns
    -------
    Opponent
        :math:`\propto p_t^{1 - w} \, p_0^w`, as sampler and as denominator.

    Raises
    ------
    ValueError
        If `base_weight` is not in [0, 1].

    Notes
    -----
    The regularised opponent of [1]_: a KL penalty towards p_0, inside the loss.

    References
    ----------
    .. [1] Alami et al., "Investigating Regularization of Self-Play Language Models",
       arXiv:2404.04291.

    Examples
    --------
    >>> policies = [TabularPolicy.from_probs([[p, 1 - p]]) for p in (0.5, 0.9)]
    >>> geometric_mixture(policies).sampler.probs  # odds sqrt(1 * 9)
    tensor([[0.7500, 0.2500]], dtype=torch.float64)
    """
    weight = number("base_weight", base_weight)
    if not 0 <= weight <= 1:
        raise ValueError(f"base_weight must be in [0, 1], got {base_weight!r}")
    first, last = policies[0].log_probs, policies[-1].log_probs
    mixture = TabularPolicy.from_logits((1 - weight) * last + weight * first)
    return Opponent(sampler=mixture, reference=mixture)


def moving_average(
    policies: Sequence[TabularPolicy], *, decay: float, of: str = "log_probs"
) -> Opponent:
    r"""Opponent that follows the iterates slowly, as an exponential moving average.

    Parameters
    ----------
    policies : sequence of TabularPolicy
        p_0, ..., p_t; at least one.
    decay : float
        Part d of the last average that is kept, in [0, 1), no unit; 0 is :func:`last_iterate`.
    of : {'log_probs', 'probs'}, default 'log_probs'
        What is averaged.

    Returns
    -------
    Opponent
        :math:`q_t = d \, q_{t-1} + (1 - d) \, p_t` of log-probs, normalised, or of
        probabilities, with :math:`q_0 = p_0`; as sampler and as denominator.

    Raises
    ------
    ValueError
        If `decay` is not in [0, 1) or `of` is unknown.

    Notes
    -----
    Exact SPIN against it multiplies the average's log-ratio to the data by :math:`1 - (1 - d) /
    \lambda`, near the data for either average and at any distance for that of log-probs: an
    average is a larger :math:`\lambda`. [1]_ averages the weights of a network, which is neither:
    in a table of logits it is the average of log-probs.

    References
    ----------
    .. [1] Yin et al., "Self-Augmented Preference Optimization", arXiv:2405.20830.

    Examples
    --------
    >>> policies = [TabularPolicy.from_probs([[p, 1 - p]]) for p in (0.5, 0.9)]
    >>> moving_average(policies, decay=0.5).sampler.probs  # odds sqrt(1 * 9)
    tensor([[0.7500, 0.2500]], dtype=torch.float64)
    >>> moving_average(policies, decay=0.5, of="probs").sampler.probs
    tensor([[0.7000, 0.3000]], dtype=torch.float64)
    """
    decay = number("decay", decay)
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay!r}")
    if of not in ("log_probs", "probs"):
        raise ValueError(f"of must be 'log_probs' or 'probs', got {of!r}")
    require_same_shape(**{f"p_{index}": policy for index, policy in enumerate(policies)})
    # p_0 has weight d^t, and p_i then (1 - d) d^(t - i).
    last = len(policies) - 1
    weights = torch.tensor(
        [decay ** (last - i) * (1 - decay if i else 1.0) for i in range(last + 1)],
        dtype=torch.float64,
    )[:, None, None]
    tables = torch.stack([policy.log_probs for policy in policies])
    if of == "probs":
        tables, weights = tables[weights.flatten() > 0], weights[weights.flatten() > 0]
        average = TabularPolicy(torch.logsumexp(tables + weights.log(), dim=0))
    else:
        average = TabularPolicy.from_logits((weights * tables).sum(dim=0))
    return Opponent(sampler=average, reference=average)


def require_temperature(temperature: float) -> None:
    """Raise ValueError unless a temperature is finite and > 0."""
    if not 0 < temperature < math.inf:  # refuses nan too
        raise ValueError(f"temperature must be finite and > 0, got {temperature!r}")


def _average(policies: Sequence[TabularPolicy]) -> TabularPolicy:
    """Arithmetic mixture with equal weights."""
    if len(policies) == 1:
        return policies[0]
    require_same_shape(**{f"p_{index}": policy for index, policy in enumerate(policies)})
    tables = torch.stack([policy.log_probs for policy in policies])
    return TabularPolicy(torch.logsumexp(tables, dim=0) - math.log(len(policies)))
