"""What T-SPIN's paper and our derivations claim, as checks that can say no."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.claims.iteration import LogProbs
from spin_theory.divergences import entropy, kl, tv
from spin_theory.games.opponents import without_reference
from spin_theory.games.stability import fixed_point, linearise
from spin_theory.losses import penalty_named, require_beta
from spin_theory.minima.closed_forms import exact
from spin_theory.minima.minimise import minimise_problem
from spin_theory.minima.problems import InnerProblem
from spin_theory.objectives.objectives import tspin_objective
from spin_theory.policies import TabularPolicy, require_same_shape
from spin_theory.tolerances import FIXED_POINT, ROUNDING

__all__ = [
    "check_tspin_fixed_point",
    "check_tspin_gradient",
    "check_tspin_opponent",
    "check_tspin_update",
]

Update = Callable[[InnerProblem], TabularPolicy]


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
        What is claimed to be the maximiser, from confidences and beta;
        :math:`\propto e^{c/\beta}` by default.
    tolerance : float, default 1e-12
        What the residual may be.

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
    tolerance: float = ROUNDING,
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
        What is claimed to be the gradient, from parameters to (D,); automatic differentiation
        of :func:`tspin_objective` by default.
    tolerance : float, default 1e-12
        What the residual may be.

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
    pulls = beta * _slopes(beta * (table[:, :, None] - table[:, None, :]), loss_type)
    current = data.probs[:, :, None] * opponent.probs[:, None, :] * pulls
    historical = opponent.probs[:, :, None] * initial.probs[:, None, :] * pulls
    weights = current + history_weight * historical  # (X, Y, Y): of grad log pi(i) - grad (j)
    differences = rows[:, :, None] - rows[:, None, :]  # (X, Y, Y, D)
    terms = weights[..., None] * differences
    expected = terms.sum(dim=(1, 2)).mean(dim=0)
    size = terms.abs().sum(dim=(1, 2)).mean(dim=0).norm() + torch.finfo(torch.float64).tiny
    residual = float((claimed - expected).norm() / size)
    return Evidence(residual, tolerance, {"gradient_norm": float(expected.norm())})


def _slopes(margins: Tensor, loss_type: str) -> Tensor:
    """l'(t), elementwise, written out: what automatic differentiation has to agree with."""
    penalty_named(loss_type)
    if loss_type == "logistic":
        return -torch.sigmoid(-margins)
    if loss_type == "exponential":
        return -torch.exp(-margins)
    if loss_type == "hinge":
        return -(margins <= 1).to(margins)
    return -torch.ones_like(margins)


def check_tspin_update(
    opponent: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    update: Update = exact,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check the closed form of T-SPIN's iteration without history.

    Parameters
    ----------
    opponent, data : TabularPolicy, shape (X, Y)
        pi_t and p_data.
    beta : float
        Scale on log-prob differences, > 0, no unit. Written :math:`\alpha` in [1]_.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.
    update : callable, default exact
        What is claimed to be the minimiser of an :class:`InnerProblem`.
    tolerance : float, default 1e-12
        What the residual may be.

    Returns
    -------
    Evidence
        Residual: largest total variation distance from :func:`minimise_problem`, and its
        certified gap.

    Raises
    ------
    ValueError
        If shapes differ, `beta` is not > 0, or the penalty has no closed form.

    Notes
    -----
    :math:`\pi_{t+1} \propto (p_{data}/\pi_t)^{1/\alpha}`: multiplier :math:`-1/\alpha`, a 2-cycle
    at the published :math:`\alpha = 1`, and a fixed point that is not p_data.

    References
    ----------
    .. [1] Wang et al., "Triplets Better Than Pairs", NeurIPS 2025, arXiv:2601.08198v1.

    Examples
    --------
    >>> opponent, data = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> check_tspin_update(opponent, data, beta=1.0).holds
    True
    """
    problem = InnerProblem(
        data=data, sampler=opponent, reference=None, beta=beta, loss_type=loss_type
    )
    minimum = minimise_problem(problem)
    distance = float(tv(update(problem), minimum.policy).max())
    numbers = {"gap": minimum.gap, "objective": minimum.objective}
    return Evidence(largest_error([distance, minimum.gap]), tolerance, numbers)


def check_tspin_fixed_point(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    history_weight: float = 0.0,
    loss_type: str = "logistic",
    tolerance: float = FIXED_POINT,
) -> Evidence:
    r"""Check where T-SPIN's exact game of one prompt rests, and what history does to it.

    Parameters
    ----------
    start, data : TabularPolicy, shape (1, Y)
        pi_0 and p_data.
    beta : float
        Scale on log-prob differences, > 0, no unit. Written :math:`\alpha` in [1]_.
    history_weight : float, default 0.0
        Weight of the historical advantage, >= 0, no unit. Written :math:`\beta` in [1]_.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.
    tolerance : float, default 1e-10
        What the residual may be.

    Returns
    -------
    Evidence
        Residual: total variation distance of the fixed point and its next exact iterate;
        without history also of :math:`p_{data}^{1/(1 + \alpha)}`, and the error of the spectral
        radius against :math:`1/\alpha`; with history, a spectral radius that is not below the
        one without. `tv` is the distance of the fixed point from p_data, `spectral_radius` says
        whether the game settles there.

    Raises
    ------
    ValueError
        If there is more than one prompt, a parameter is out of its range, or no fixed point is
        found.

    Notes
    -----
    Derived; not in [1]_. At the published :math:`\alpha = 1` history turns a neutral 2-cycle
    into a contraction, so it does steady the game, but not at the data.

    References
    ----------
    .. [1] Wang et al., "Triplets Better Than Pairs", NeurIPS 2025, arXiv:2601.08198v1.

    Examples
    --------
    >>> start, data = (TabularPolicy.random(1, 5, seed=seed, smallest=0.1) for seed in (0, 1))
    >>> evidence = check_tspin_fixed_point(start, data, beta=1.0, history_weight=0.1)
    >>> evidence.holds, evidence.numbers["spectral_radius"] < 1, evidence.numbers["tv"] > 0.01
    (True, True, True)
    """
    scale = beta if loss_type == "logistic" else 2 * beta
    point = fixed_point(
        start,
        data,
        beta=beta,
        loss_type=loss_type,
        opponent=without_reference,
        history_weight=history_weight,
        damping=scale / (1 + scale),
    )
    problem = InnerProblem(
        data=data,
        sampler=point,
        reference=None,
        beta=beta,
        loss_type=loss_type,
        initial=start,
        history_weight=history_weight,
    )
    errors = [float(tv(minimise_problem(problem).policy, point).max())]
    radius = linearise(
        [start, point],
        data,
        beta=beta,
        loss_type=loss_type,
        opponent=without_reference,
        history_weight=history_weight,
    ).spectral_radius
    if history_weight == 0:
        expected = TabularPolicy.from_logits(data.log_probs / (1 + scale))
        errors += [float(tv(point, expected).max()), abs(radius - 1 / scale) * scale]
    elif data.log_probs.shape[-1] > 1:
        errors.append(radius * scale - 1)
    numbers = {"spectral_radius": radius, "tv": float(tv(point, data).max())}
    return Evidence(largest_error(errors), tolerance, numbers)
