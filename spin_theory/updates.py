"""One iteration of SPIN on tables: in closed form, and by minimising the objective."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from spin_theory.hinge import hinge_minimum
from spin_theory.losses import penalty_named, require_beta
from spin_theory.objectives import optimal_value, optimality_gap, spin_objective
from spin_theory.policies import TabularPolicy, prompt_weights, require_same_shape

__all__ = [
    "Minimum",
    "Update",
    "closed_form_update",
    "minimise",
    "minimiser_update",
    "opponent_update",
]

MAX_STEPS = 2000  # Newton takes about one step per nat of log-ratio: 59 at probabilities of 1e-12
LARGEST_STEP = 3.0  # of a margin in one step, in nats; undamped steps stay below it in practice
STEP_TOLERANCE = 1e-10  # of a margin, in nats; convergence is quadratic, so the next is rounding
STALL = 1e-3  # nats; a step below it that does not halve the last one moves by rounding alone


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
    >>> uniform = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> advantages = torch.tensor([[3.0, 0.0]], dtype=torch.float64).log1p()
    >>> opponent_update(uniform, advantages, beta=1.0).probs  # odds exp(log 4) = 4
    tensor([[0.8000, 0.2000]], dtype=torch.float64)
    """
    require_beta(beta)
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
    require_same_shape(opponent=opponent, data=data)
    penalty_named(loss_type)
    if loss_type == "hinge":
        raise ValueError(
            "loss_type hinge has no closed form: its minimiser solves a linear "
            "programme; use minimise"
        )
    if loss_type == "correlation":
        raise ValueError(
            "loss_type correlation has no closed form: its objective is unbounded "
            "below unless the opponent is the data"
        )
    exponent = 1.0 if loss_type == "logistic" else 0.5
    advantages = exponent * (data.log_probs - opponent.log_probs)
    return opponent_update(opponent, advantages, beta=beta)


@dataclass(frozen=True)
class Minimum:
    """What :func:`minimise` found, and the proof that it is the minimum.

    Attributes
    ----------
    policy : TabularPolicy, shape (X, Y)
        The minimiser.
    objective : float
        Its value of (4.7).
    lower_bound : float
        What no policy can go below (:func:`optimal_value`); the solver does not enter it.
    gap : float
        Objective above the least possible one, by :func:`optimality_gap`.
    gradient_norm : float
        Euclidean norm of the objective's gradient in the policy's logits; nan for hinge, which
        is not differentiable at its minimiser.
    steps : int
        Newton steps taken; 0 where there was nothing to iterate.
    """

    policy: TabularPolicy
    objective: float
    lower_bound: float
    gap: float
    gradient_norm: float
    steps: int


def minimise(
    opponent: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    prompt_probs: Tensor | None = None,
) -> Minimum:
    r"""Minimise (4.7) over all policies from the opponent, and certify the minimum.

    Parameters
    ----------
    opponent, data : TabularPolicy, shape (X, Y)
        p_t, where the search starts, and p_data.
    beta : float
        Pull towards the opponent, > 0, no unit. Written :math:`\lambda` in [1]_.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`.
    prompt_probs : Tensor, shape (X,), optional
        Distribution q(x) that objective, bound, gap and gradient are averaged over; uniform by
        default. Each prompt is minimised on its own, so the policy does not depend on it.

    Returns
    -------
    Minimum
        The policy and its certificate. The solver raises nothing when it stops early; `gap`
        says how far it came.

    Raises
    ------
    ValueError
        If shapes differ, `beta` is not finite and > 0, `loss_type` is unknown, `prompt_probs`
        is not a distribution, or the penalty is correlation and the opponent is not the data:
        then the objective is unbounded below.

    Notes
    -----
    In the advantages :math:`f = \beta \log(p_\theta/p_t)` the normaliser cancels and the
    objective is convex. Logistic and exponential: Newton's method from f = 0, scaled by the
    Hessian's diagonal; the pairs y = y' are left out of the gradient, where they would cancel
    and cost digits. It knows the penalties' derivatives and no closed form. Hinge: a shortest
    path, see :func:`hinge_minimum`.

    Examples
    --------
    >>> opponent = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> minimum = minimise(opponent, TabularPolicy.from_probs([[0.8, 0.2]]), beta=2.0)
    >>> minimum.policy.probs
    tensor([[0.6667, 0.3333]], dtype=torch.float64)
    >>> minimum.gap < 1e-20
    True
    """
    require_same_shape(opponent=opponent, data=data)
    require_beta(beta)
    penalty_named(loss_type)
    log_real, log_generated = data.log_probs.detach(), opponent.log_probs.detach()
    steps, gradient = 0, torch.zeros_like(log_real)
    if loss_type == "hinge":
        _, advantages = hinge_minimum(data, opponent)
        gradient.fill_(math.nan)
    elif loss_type == "correlation":
        if not torch.equal(log_real, log_generated):
            raise ValueError(
                "loss_type correlation has no minimum: its objective is unbounded "
                "below unless the opponent is the data"
            )
        advantages = torch.zeros_like(log_real)
    elif log_real.shape[-1] == 1:  # one response: there is one policy
        advantages = torch.zeros_like(log_real)
    else:
        advantages, steps = _newton(log_real, log_generated, loss_type)
        log_pull, _ = _log_derivatives(advantages, log_real, log_generated, loss_type)
        gradient = beta * (log_pull.exp().sum(dim=-2) - log_pull.exp().sum(dim=-1))
    policy = opponent_update(TabularPolicy(log_generated), advantages, beta=beta)
    objective, gap = (
        measure(policy, opponent, data, beta=beta, loss_type=loss_type, prompt_probs=prompt_probs)
        for measure in (spin_objective, optimality_gap)
    )
    least = optimal_value(opponent, data, loss_type=loss_type, prompt_probs=prompt_probs)
    return Minimum(
        policy=policy,
        objective=float(objective),
        lower_bound=float(least),
        gap=float(gap),
        gradient_norm=float(
            (prompt_weights(log_real.shape[0], prompt_probs)[:, None] * gradient).norm()
        ),
        steps=steps,
    )


def minimiser_update(
    opponent: TabularPolicy, data: TabularPolicy, *, beta: float, loss_type: str = "logistic"
) -> TabularPolicy:
    """Next iterate by :func:`minimise`: what :func:`closed_form_update` claims, searched for.

    Parameters
    ----------
    opponent, data : TabularPolicy, shape (X, Y)
        p_t and p_data.
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty.

    Returns
    -------
    TabularPolicy
        The minimiser found.

    Raises
    ------
    ValueError
        As :func:`minimise`.

    Examples
    --------
    >>> opponent = TabularPolicy.from_probs([[0.5, 0.5]])
    >>> data = TabularPolicy.from_probs([[0.8, 0.2]])
    >>> minimiser_update(opponent, data, beta=1.0, loss_type="exponential").probs
    tensor([[0.6667, 0.3333]], dtype=torch.float64)
    """
    return minimise(opponent, data, beta=beta, loss_type=loss_type).policy


def _newton(log_real: Tensor, log_generated: Tensor, loss_type: str) -> tuple[Tensor, int]:
    """Advantages (X, Y) that minimise the expected penalty, from 0, and the steps taken."""
    advantages = torch.zeros_like(log_real)
    furthest, steps = math.inf, 0
    while steps < MAX_STEPS and furthest > STEP_TOLERANCE:
        direction = _newton_direction(advantages, log_real, log_generated, loss_type)
        reach = direction.amax(dim=-1, keepdim=True) - direction.amin(dim=-1, keepdim=True)
        advantages = advantages + direction * (LARGEST_STEP / reach).clamp(max=1)
        steps, before, furthest = steps + 1, furthest, float(reach.max())
        if before < STALL and furthest > before / 2:  # quadratic no more: rounding is left
            break
    return advantages - advantages.mean(dim=-1, keepdim=True), steps


def _newton_direction(
    advantages: Tensor, log_real: Tensor, log_generated: Tensor, loss_type: str
) -> Tensor:
    """Solve Hessian * direction = -gradient, scaled so that the Hessian's diagonal is 1."""
    log_pull, log_curvature = _log_derivatives(advantages, log_real, log_generated, loss_type)
    log_curvature = torch.logaddexp(log_curvature, log_curvature.mT)
    log_scale = -torch.logsumexp(log_curvature, dim=-1, keepdim=True) / 2  # (X, Y, 1)
    pulls = (log_pull + log_scale).exp()  # scaled by the row's response: each y is pulled up ...
    pushes = (log_pull.mT + log_scale).exp()  # ... as real and pushed down as generated
    negative_gradient = (pulls - pushes).sum(dim=-1, keepdim=True)
    laplacian = -(log_curvature + log_scale + log_scale.mT).exp()
    laplacian.diagonal(dim1=-2, dim2=-1).fill_(1.0)
    # Constants per prompt are free: the null vector, scaled, gets eigenvalue 1 instead of 0.
    free = torch.softmax(-2 * log_scale, dim=-2).sqrt()  # unit norm
    solution = torch.cholesky_solve(negative_gradient, _cholesky(laplacian + free @ free.mT))
    return (log_scale.exp() * solution).squeeze(-1)


def _log_derivatives(
    advantages: Tensor, log_real: Tensor, log_generated: Tensor, loss_type: str
) -> tuple[Tensor, Tensor]:
    """Log of P(y, y') |l'(margin)| and of P(y, y') l''(margin), each (X, Y, Y); y = y' left out."""
    margins = advantages[:, :, None] - advantages[:, None, :]
    log_weights = log_real[:, :, None] + log_generated[:, None, :]
    log_weights.diagonal(dim1=-2, dim2=-1).fill_(-math.inf)
    if loss_type == "exponential":
        return log_weights - margins, log_weights - margins
    # l' = -sigma(-t), l'' = sigma(t) sigma(-t); autograd's l'' is 0 from t = 37 on.
    log_pull = log_weights + logsigmoid(-margins)
    return log_pull, log_pull + logsigmoid(margins)


def _cholesky(matrices: Tensor) -> Tensor:
    """Cholesky factor; ridges grow from rounding until it exists: they slow Newton, no more."""
    ridge = 0.0
    while ridge <= 1:
        eye = torch.eye(matrices.shape[-1], dtype=matrices.dtype)
        factor: Tensor
        factor, info = torch.linalg.cholesky_ex(matrices + ridge * eye)
        if not bool(info.any()):
            return factor
        ridge = max(100 * ridge, torch.finfo(matrices.dtype).eps * matrices.shape[-1])
    raise AssertionError("a matrix whose diagonal is 1 or more, plus 1, has a Cholesky factor")
