"""The claims of the T-SPIN paper."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, written_out
from spin_theory.claims.first_step import LogProbs
from spin_theory.divergences import entropy, kl
from spin_theory.losses import require_beta
from spin_theory.objectives.objectives import tspin_objective
from spin_theory.policies import TabularPolicy, require_same_shape
from spin_theory.tolerances import FEW_TERMS, GRADIENTS, ROUNDING

__all__ = ["CLAIMS", "check_tspin_gradient", "check_tspin_opponent"]


def check_tspin_opponent(
    confidences: Tensor,
    other: TabularPolicy,
    *,
    beta: float,
    update: Callable[[Tensor, float], TabularPolicy] | None = None,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check Proposition 1: softmax of the confidences maximises their mean plus entropy.

    Parameters
    ----------
    confidences : Tensor, shape (X, Y)
        The main player's c, no unit.
    other : TabularPolicy, shape (X, Y)
        Any policy, to compare with.
    beta : float
        Weight of the entropy, > 0, no unit. Written :math:`\alpha` in [1]_.
    update : callable, optional
        Function that is claimed to give the maximiser, from confidences and beta;
        :math:`\propto e^{c/\beta}` by default.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the larger of two errors relative to the terms. The maximum of :math:`E_\pi c
        + \beta H(\pi)` is :math:`\beta \log \sum_y e^{c/\beta}`; any other policy is
        :math:`\beta \, KL(\pi \| \pi^*)` below.

    Raises
    ------
    ValueError
        If shapes differ or `beta` is not finite and > 0.

    Notes
    -----
    Eq. (5) and Proposition 1 of [1]_.

    References
    ----------
    .. [1] Wang et al., "Triplets Better Than Pairs", NeurIPS 2025, arXiv:2601.08198v1.

    Examples
    --------
    >>> other = TabularPolicy.random(1, 5, seed=0)
    >>> check_tspin_opponent(torch.randn(1, 5).double(), other, beta=0.5).holds
    True
    """
    require_beta(beta)
    best = (
        TabularPolicy.from_logits(confidences / beta)
        if update is None
        else update(confidences, beta)
    )
    require_same_shape(best=best, other=other)

    def value(policy: TabularPolicy) -> Tensor:
        return (policy.probs * confidences).sum(dim=-1) + beta * entropy(policy)

    maximum = beta * torch.logsumexp(confidences / beta, dim=-1)
    below = beta * kl(other, best)
    size = confidences.abs().amax(dim=-1) + beta * (1 + math.log(confidences.shape[-1])) + below
    errors = torch.stack([value(best) - maximum, maximum - value(other) - below]).abs() / size
    return Evidence(float(errors.max()), tolerance, {"maximum": float(maximum.mean())})


def check_tspin_gradient(
    log_probs: LogProbs,
    parameters: Tensor,
    opponent: TabularPolicy,
    initial: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    history_weight: float,
    loss_type: str = "logistic",
    gradient: Callable[[Tensor], Tensor] | None = None,
    tolerance: float = GRADIENTS,
) -> Evidence:
    r"""Check Theorem 1: T-SPIN's gradient, for any differentiable class.

    Parameters
    ----------
    log_probs : callable
        From parameters (D,), float64, to normalised log-probs (X, Y).
    parameters : Tensor, shape (D,)
        Where the gradient is taken.
    opponent, initial, data : TabularPolicy, shape (X, Y)
        pi_t, pi_0 and p_data.
    beta : float
        Scale on log-prob differences, > 0, no unit. Written :math:`\alpha` in [1]_.
    history_weight : float
        Weight of the historical advantage, >= 0, no unit. Written :math:`\beta` in [1]_.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`.
    gradient : callable, optional
        Function that is claimed to be the gradient, from parameters to (D,); by default
        automatic differentiation of :func:`tspin_objective`.
    tolerance : float, default 1e-11
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: norm of the difference from the theorem's sum over all triplets, relative to
        the size of its terms.

    Raises
    ------
    ValueError
        If shapes differ, or a parameter is out of its range.

    Notes
    -----
    Theorem 1 of [1]_, with :math:`u = \alpha \log \pi(y)/\pi(y')`, :math:`v = \alpha \log
    \pi(y')/\pi(y_0)`:

    .. math:: \nabla L = E \left[ \alpha \ell'(u) (\nabla \log \pi(y) - \nabla \log \pi(y'))
        + \beta \alpha \ell'(v) (\nabla \log \pi(y') - \nabla \log \pi(y_0)) \right]

    References
    ----------
    .. [1] Wang et al., "Triplets Better Than Pairs", NeurIPS 2025, arXiv:2601.08198v1.

    Examples
    --------
    >>> opponent, initial, data = (TabularPolicy.random(1, 4, seed=seed) for seed in range(3))
    >>> def table(theta):
    ...     return torch.log_softmax(theta.reshape(1, 4), dim=-1)
    >>> theta = torch.zeros(4, dtype=torch.float64)
    >>> check_tspin_gradient(
    ...     table, theta, opponent, initial, data, beta=1.0, history_weight=0.1
    ... ).holds
    True
    """
    require_beta(beta)
    if not 0 <= history_weight < math.inf:
        raise ValueError(f"history_weight must be finite and >= 0, got {history_weight!r}")
    theta = parameters.detach().clone().requires_grad_()
    policy = TabularPolicy(log_probs(theta))
    require_same_shape(policy=policy, opponent=opponent, initial=initial, data=data)
    if gradient is None:
        value = tspin_objective(
            policy,
            opponent,
            initial,
            data,
            beta=beta,
            history_weight=history_weight,
            loss_type=loss_type,
        )
        (claimed,) = torch.autograd.grad(value, theta)
    else:
        claimed = gradient(theta.detach())
    table = policy.log_probs.detach()
    rows: Tensor = jacobian(log_probs, theta.detach())  # type: ignore[no-untyped-call]
    slopes = written_out(_SLOPES, loss_type)
    pulls = beta * slopes(beta * (table[:, :, None] - table[:, None, :]))
    current = data.probs[:, :, None] * opponent.probs[:, None, :] * pulls
    historical = opponent.probs[:, :, None] * initial.probs[:, None, :] * pulls
    weights = current + history_weight * historical  # (X, Y, Y): of grad log pi(i) - grad (j)
    differences = rows[:, :, None] - rows[:, None, :]  # (X, Y, Y, D)
    terms = weights[..., None] * differences
    expected = terms.sum(dim=(1, 2)).mean(dim=0)
    size = terms.abs().sum(dim=(1, 2)).mean(dim=0).norm() + torch.finfo(torch.float64).tiny
    residual = float((claimed - expected).norm() / size)
    return Evidence(residual, tolerance, {"gradient_norm": float(expected.norm())})


_SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "logistic": lambda t: -torch.sigmoid(-t),
    "hinge": lambda t: -(t <= 1).to(t),
    "exponential": lambda t: -torch.exp(-t),
    "correlation": lambda t: -torch.ones_like(t),
}
"""l'(t), elementwise, as a formula that automatic differentiation has to agree with."""


CLAIMS = (
    Claim(
        name="T-SPIN Proposition 1",
        statement="The policy that maximises the mean confidence c plus beta times the entropy is "
        "`e^(c / beta)`, normalised.",
        source="T-SPIN, Proposition 1",
        function=check_tspin_opponent,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: check_tspin_opponent(
            draw.data.log_probs, draw.other, beta=draw.beta
        ),
    ),
    Claim(
        name="T-SPIN Theorem 1, {loss_type}",
        statement="T-SPIN's gradient is the sum over triplets of Theorem 1, in any differentiable "
        "class of policies.",
        source="T-SPIN, Theorem 1",
        function=check_tspin_gradient,
        tolerance=GRADIENTS,
        check=lambda draw, _, loss_type: check_tspin_gradient(
            draw.network,
            draw.parameters.flatten(),
            draw.small_start,
            draw.small_other,
            draw.small_data,
            beta=draw.beta,
            history_weight=0.1,
            loss_type=loss_type,
        ),
        loss_types=tuple(_SLOPES),
    ),
)
