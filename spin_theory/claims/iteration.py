"""Claims about one iteration of SPIN."""

from collections.abc import Callable

import torch
from torch import Tensor

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence
from spin_theory.divergences import kl
from spin_theory.losses import penalty_named
from spin_theory.minima.closed_forms import Update, closed_form_update, opponent_update
from spin_theory.minima.problems import InnerProblem
from spin_theory.policies import TabularPolicy, require_same_shape
from spin_theory.tolerances import FEW_TERMS, ROUNDING, SUMS

__all__ = ["CLAIMS", "check_likelihood_rises", "check_opponent_update", "check_start_value"]


def check_opponent_update(
    opponent: TabularPolicy,
    advantages: Tensor,
    other: TabularPolicy,
    *,
    beta: float,
    update: Callable[..., TabularPolicy] = opponent_update,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check that (4.4) maximises (4.3), the advantage with a KL penalty.

    Parameters
    ----------
    opponent : TabularPolicy, shape (X, Y)
        p_t.
    advantages : Tensor, shape (X, Y)
        The main player's f, no unit.
    other : TabularPolicy, shape (X, Y)
        Any policy, to compare with.
    beta : float
        Strength of the penalty, > 0, no unit.
    update : callable, default opponent_update
        The function that is claimed to give the maximiser.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the larger of two errors relative to the terms. The maximum is
        :math:`\beta \log E_{p_t} e^{f/\beta}`; any other policy is :math:`\beta \, KL(p \|
        p^*)` below it.

    Raises
    ------
    ValueError
        If shapes differ or `beta` is not finite and > 0.

    Notes
    -----
    Eqs. (4.3) and (4.4) of [1]_; the identity is Gibbs' variational principle.

    References
    ----------
    .. [1] Chen et al., "Self-Play Fine-Tuning Converts Weak Language Models to Strong
       Language Models", ICML 2024, arXiv:2401.01335v3.

    Examples
    --------
    >>> opponent, other = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> check_opponent_update(opponent, torch.randn(1, 5).double(), other, beta=0.3).holds
    True
    """
    require_same_shape(opponent=opponent, other=other)
    best = update(opponent, advantages, beta=beta)

    def value(policy: TabularPolicy) -> Tensor:
        return (policy.probs * advantages).sum(dim=-1) - beta * kl(policy, opponent)

    # Gibbs: E_p f - beta KL(p || p_t) = partition - beta KL(p || best), for every p.
    partition = beta * torch.logsumexp(opponent.log_probs + advantages / beta, dim=-1)
    size = advantages.abs().amax(dim=-1) + beta * (kl(best, opponent) + kl(other, opponent)) + beta
    errors = torch.stack(
        [
            (value(best) - partition).abs() / size,
            (partition - value(other) - beta * kl(other, best)).abs()
            / (size + beta * kl(other, best)),
        ]
    )
    return Evidence(float(errors.max()), tolerance, {"maximum": float(value(best).mean())})


def check_start_value(
    data: TabularPolicy,
    opponent: TabularPolicy,
    *,
    beta: float,
    history_weight: float = 0.0,
    loss_type: str = "logistic",
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check that the objective at theta_t is (1 + history_weight) l(0), whatever the tables.

    Parameters
    ----------
    data, opponent : TabularPolicy, shape (X, Y)
        p_data and p_t.
    beta : float
        Pull towards the opponent, > 0, no unit.
    history_weight : float, default 0.0
        Weight of a history term whose log-ratios too are taken to p_t; 0 is SPIN.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: largest relative error of a prompt's value.

    Raises
    ------
    ValueError
        If shapes differ, or a parameter is out of its range.

    Examples
    --------
    >>> data, opponent = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> check_start_value(data, opponent, beta=1.0, history_weight=0.1).holds
    True
    """
    problem = InnerProblem(
        data=data,
        sampler=opponent,
        reference=opponent,
        beta=beta,
        loss_type=loss_type,
        initial=opponent,
        history_weight=history_weight,
    )
    at_zero = float(penalty_named(loss_type)(torch.zeros((), dtype=torch.float64)))
    expected = (1 + history_weight) * at_zero
    values = problem.values(opponent)
    residual = float(((values - expected).abs() / expected).max())
    return Evidence(residual, tolerance, {"value": float(values.mean())})


def check_likelihood_rises(
    data: TabularPolicy,
    opponent: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    update: Update = closed_form_update,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check that an exact iteration never lowers E log p(real) from beta = 1 on.

    Parameters
    ----------
    data, opponent : TabularPolicy, shape (X, Y)
        p_data and p_t.
    beta : float
        Pull towards the opponent, no unit; the claim is made for beta >= 1 (exponential: 1/2).
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.
    update : Update, default closed_form_update
        The update that is claimed to raise the likelihood.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: how far KL(p_data || p_{t+1}) is above KL(p_data || p_t) in any prompt, in
        nats, relative to its size. `change` is the change of E log p(real) in nats.

    Raises
    ------
    ValueError
        If shapes differ or the penalty has no closed form.

    Notes
    -----
    :math:`p_{t+1} \propto p_t^{1-s} p_{data}^s` with :math:`s = 1/\beta \le 1` lies between the
    two, and KL(p_data || .) falls along that path. Below beta = 1 the update overshoots, and the
    likelihood of real responses can fall while the objective does: likelihood displacement.

    Examples
    --------
    >>> data, opponent = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> check_likelihood_rises(data, opponent, beta=2.0).holds
    True
    >>> check_likelihood_rises(data, opponent, beta=0.1).holds  # not claimed below 1
    False
    """
    updated = update(opponent, data, beta=beta, loss_type=loss_type)
    before, after = kl(data, opponent), kl(data, updated)
    residual = float(((after - before) / (1 + before)).max().clamp(min=0))
    return Evidence(residual, tolerance, {"change": float((before - after).mean())})


CLAIMS = (
    Claim(
        name="SPIN (4.4) opponent's update",
        statement="The opponent's best response to the advantages f is `p_t e^(f / beta)`, "
        "normalised.",
        source="SPIN, eq. (4.4)",
        function=check_opponent_update,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: check_opponent_update(
            draw.opponent, draw.other.log_probs, draw.data, beta=draw.beta
        ),
    ),
    Claim(
        name="start value l(0)",
        statement="At the opponent the objective is `l(0)`, whatever the tables; with a history "
        "term it is `(1 + history_weight) l(0)`.",
        source="SPIN, eq. (4.7)",
        function=check_start_value,
        tolerance=SUMS,
        check=lambda draw, *_: check_start_value(
            draw.data, draw.opponent, beta=draw.beta, history_weight=0.1
        ),
    ),
    Claim(
        name="likelihood rises, beta >= 1",
        statement="An exact iteration never lowers the expected log-prob of real responses if "
        "beta is 1 or more. If beta is smaller, it may.",
        source="derived",
        function=check_likelihood_rises,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: check_likelihood_rises(
            draw.data, draw.opponent, beta=max(1.0, draw.beta)
        ),
    ),
)
