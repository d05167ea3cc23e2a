"""Closed forms of the main player's minimum and of the opponent's update.

`closed_form_update` is SPIN's iteration, `exact` any iteration that has a closed form.
"""

from typing import Protocol

import torch
from torch import Tensor

from spin_theory.inputs import tensor
from spin_theory.losses import PENALTIES, penalty_named, require_beta
from spin_theory.minima.newton import UnsolvedError
from spin_theory.minima.problems import InnerProblem
from spin_theory.policies import TabularPolicy

__all__ = [
    "Update",
    "closed_form_exponent",
    "closed_form_update",
    "exact",
    "linear_scores",
    "opponent_update",
]


class Update(Protocol):
    """One iteration: from the opponent and the data to the next policy."""

    def __call__(
        self,
        opponent: TabularPolicy,
        data: TabularPolicy,
        *,
        beta: float,
        loss_type: str = "logistic",
    ) -> TabularPolicy:
        """Return p_{t+1}."""


def opponent_update(opponent: TabularPolicy, advantages: Tensor, *, beta: float) -> TabularPolicy:
    r"""Best response of the opponent player to the main player's advantages.

    Parameters
    ----------
    opponent : TabularPolicy, shape (X, Y)
        The last iterate p_t.
    advantages : Tensor, shape (X, Y)
        The main player's f(x, y), no unit; constants per prompt do not matter.
    beta : float
        Strength of the KL regulariser, > 0, no unit. Written :math:`\lambda` in [1]_.

    Returns
    -------
    TabularPolicy
        :math:`p \propto p_t \exp(f / \beta)`, which maximises (4.3),
        :math:`E_p f - \beta \, KL(p \| p_t)`.

    Raises
    ------
    ValueError
        If shapes differ or `beta` is not finite and > 0.

    Notes
    -----
    Eq. (4.4) of [1]_.

    References
    ----------
    .. [1] Chen et al., "Self-Play Fine-Tuning Converts Weak Language Models to Strong
       Language Models", ICML 2024, arXiv:2401.01335v3.

    Examples
    --------
    >>> import torch
    >>> uniform = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> advantages = torch.tensor([[3.0, 0.0]], dtype=torch.float64).log1p()
    >>> opponent_update(uniform, advantages, beta=1.0).probs  # odds exp(log 4) = 4
    tensor([[0.8000, 0.2000]], dtype=torch.float64)
    """
    beta, advantages = require_beta(beta), tensor("advantages", advantages)
    if advantages.shape != opponent.log_probs.shape:
        raise ValueError(
            f"advantages must have the opponent's shape {tuple(opponent.log_probs.shape)}, "
            f"got {tuple(advantages.shape)}"
        )
    return TabularPolicy.from_logits(opponent.log_probs + advantages / beta)


def closed_form_update(
    opponent: TabularPolicy, data: TabularPolicy, *, beta: float, loss_type: str = "logistic"
) -> TabularPolicy:
    r"""Next iterate in closed form, the global minimiser of (4.7) over all policies.

    Parameters
    ----------
    opponent, data : TabularPolicy, shape (X, Y)
        p_t and p_data.
    beta : float
        Pull towards the opponent, > 0, no unit. Written :math:`\lambda` in [1]_.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty :math:`\ell`.

    Returns
    -------
    TabularPolicy
        :math:`p_{t+1} \propto p_t (p_{data}/p_t)^{1/\beta}` for the logistic penalty,
        :math:`p_t (p_{data}/p_t)^{1/(2\beta)}` for the exponential one.

    Raises
    ------
    ValueError
        If shapes differ, `beta` is not finite and > 0, or the penalty has no closed form.

    Notes
    -----
    Theorem 5.4 of [1]_; the exponential form follows from Cauchy-Schwarz.

    References
    ----------
    .. [1] Chen et al., "Self-Play Fine-Tuning Converts Weak Language Models to Strong
       Language Models", ICML 2024, arXiv:2401.01335v3.

    Examples
    --------
    >>> opponent = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> data = TabularPolicy.from_probs([[0.8, 0.2]])
    >>> closed_form_update(opponent, data, beta=2.0).probs  # odds 4 ** (1/2) = 2
    tensor([[0.6667, 0.3333]], dtype=torch.float64)
    """
    return exact(
        InnerProblem(
            data=data, sampler=opponent, reference=opponent, beta=beta, loss_type=loss_type
        )
    )


def exact(
    problem: InnerProblem,
    *,
    start: TabularPolicy | None = None,
    generator: torch.Generator | None = None,
) -> TabularPolicy:
    r"""Global minimiser of an iteration's objective in closed form; a solver for :func:`play`.

    Parameters
    ----------
    problem : InnerProblem
        Logistic or exponential without a history or an SFT term, or correlation with an SFT term.
    start : TabularPolicy, shape (X, Y), optional
        The last iterate, which every solver of a game is given; not needed here.
    generator : torch.Generator, optional
        The same.

    Returns
    -------
    TabularPolicy
        :math:`p \propto p_{ref} (p_{data}/s)^{1/\beta}` for the logistic penalty, s the sampler
        and p_ref left out where there is no reference; :math:`1/(2\beta)` for the exponential.
        Correlation: :func:`linear_scores`.

    Raises
    ------
    ValueError
        If the penalty has no closed form with these weights, or there is no minimum.

    Notes
    -----
    The penalty decides on the scores: the logistic is least at :math:`f = \log(p_{data}/s)`,
    pair by pair, the exponential at half of it (Cauchy-Schwarz). What the scores are, beta times
    log-ratios or log-probs, decides on the policy. SPIN: Theorem 5.4 of [1]_. T-SPIN without
    history: :math:`\pi_{t+1} \propto (p_{data}/\pi_t)^{1/\alpha}`.

    References
    ----------
    .. [1] Chen et al., "Self-Play Fine-Tuning Converts Weak Language Models to Strong
       Language Models", ICML 2024, arXiv:2401.01335v3.

    Examples
    --------
    >>> data, half = (TabularPolicy.from_probs([[p, 1 - p]]) for p in (0.8, 0.5))
    >>> exact(InnerProblem(data=data, sampler=half, reference=None, beta=2.0)).probs
    tensor([[0.6667, 0.3333]], dtype=torch.float64)
    """
    penalty = problem.penalty
    if not penalty.bounded_below and problem.sft is not None:
        return problem.policy(linear_scores(problem))
    if not penalty.bounded_below:
        raise ValueError(
            f"loss_type {penalty.name} has no closed form: its objective is unbounded "
            "below unless the opponent is the data"
        )
    if penalty.exponent is None:
        reason = ": its minimiser solves a linear programme" if penalty.kinks else ""
        raise ValueError(
            f"loss_type {penalty.name} has no closed form{reason}; use minimise "
            "(in a game: the solver minimiser)"
        )
    if problem.history_weight > 0:
        raise ValueError(
            "history_weight > 0 has no closed form; use minimise_problem "
            "(in a game: the solver minimiser)"
        )
    if problem.sft_weight > 0:
        raise ValueError(
            "sft_weight > 0 has no closed form; use minimise_problem "
            "(in a game: the solver minimiser)"
        )
    return problem.policy(penalty.exponent * (problem.data.log_probs - problem.sampler.log_probs))


def linear_scores(problem: InnerProblem) -> Tensor:
    r"""Minimising scores of a penalty that is a straight line, with an SFT term.

    Parameters
    ----------
    problem : InnerProblem
        Of the correlation penalty, `sft_weight` > 0.

    Returns
    -------
    Tensor, shape (X, Y)
        Scores of the policy :math:`p_{data} + (\beta/w) [p_{data} - s + h (s - p_0)]`, s the
        sampler, w the weight of the SFT term and h that of the history term.

    Raises
    ------
    UnsolvedError
        If that is no distribution with probabilities > 0: then there is no minimum.

    Notes
    -----
    Derived. The gradient of the penalties in the scores does not depend on the scores, and that
    of the SFT term is :math:`(w/\beta)(p - p_{data})`.

    Examples
    --------
    >>> data, half = (TabularPolicy.from_probs([[p, 1 - p]]) for p in (0.7, 0.5))
    >>> problem = InnerProblem(
    ...     data=data, sampler=half, reference=half, beta=1.0, loss_type="correlation",
    ...     sft_weight=2.0,
    ... )
    >>> exact(problem).probs  # 0.7 + (0.7 - 0.5) / 2
    tensor([[0.8000, 0.2000]], dtype=torch.float64)
    """
    slope = problem.penalty.slope_at_zero
    push = problem.data.probs - problem.sampler.probs
    if problem.history_weight > 0 and problem.initial is not None:
        history = problem.sampler.probs - problem.initial.probs
        push = push + problem.history_weight * history
    probs = (problem.data.probs - slope * problem.beta / problem.sft_weight * push).detach()
    if not bool((probs > 0).all()):
        raise UnsolvedError(
            f"loss_type {problem.loss_type} has no minimum with sft_weight "
            f"{problem.sft_weight:g}: some probability would have to be 0 or less; raise it"
        )
    return problem.scores(TabularPolicy.from_logits(probs.log()))


def closed_form_exponent(loss_type: str) -> float:
    """Look up the exponent of a penalty's closed form.

    Parameters
    ----------
    loss_type : {'logistic', 'exponential'}
        The penalty.

    Returns
    -------
    float
        The c of :class:`Penalty`, no unit.

    Raises
    ------
    ValueError
        If the penalty has no closed form.

    Examples
    --------
    >>> closed_form_exponent("exponential")
    0.5
    """
    exponent = penalty_named(loss_type).exponent
    if exponent is None:
        known = [name for name, penalty in PENALTIES.items() if penalty.exponent is not None]
        raise ValueError(f"loss_type must be {' or '.join(known)}, got {loss_type!r}")
    return exponent
