"""What SPACE and GSIL claim, whose losses score each response alone."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.divergences import chi_square, js, kl
from spin_theory.losses import (
    PointwiseLoss,
    gsil,
    gsil_loss,
    space,
    space_loss,
)
from spin_theory.objectives.pointwise import pointwise_objective
from spin_theory.policies import TabularPolicy, require_same_shape
from spin_theory.tolerances import FEW_TERMS, ROUNDING, SUMS

__all__ = [
    "CLAIMS",
    "check_pointwise_losses",
    "check_pointwise_optimum",
]

Numbers = NDArray[np.float64]
Derivatives = tuple[tuple[float, float], tuple[float, float]]


def check_pointwise_losses(
    policy: TabularPolicy,
    opponent: TabularPolicy,
    *,
    scale: float,
    shift: float,
    mu: float,
    sft_weight: float = 0.3,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check SPACE's and GSIL's losses on single responses, and their derivatives.

    Parameters
    ----------
    policy, opponent : TabularPolicy, shape (X, Y)
        Give log-probs: responses from the left are real, from the right generated.
    scale, shift : float
        Of GSIL's log-ratios; the scale > 0, no unit.
    mu : float
        Of SPACE, > 0, no unit.
    sft_weight : float, default 0.3
        Weight of the SFT term, >= 0, per nat.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest error of a loss relative to it and to what rounding of its
        log-ratios makes of it, and of a first or second derivative at the opponent.

    Raises
    ------
    ValueError
        If shapes differ or a parameter is out of its range.

    Examples
    --------
    >>> policy, opponent = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> check_pointwise_losses(policy, opponent, scale=0.5, shift=0.2, mu=3.0).holds
    True
    """
    require_same_shape(policy=policy, opponent=opponent)
    real, reference = policy.log_probs, opponent.log_probs
    logps = {
        "policy_real_logps": real,
        "policy_generated_logps": real.flip(-1).contiguous(),
        "opponent_real_logps": reference,
        "opponent_generated_logps": reference.flip(-1).contiguous(),
        "sft_weight": sft_weight,
    }
    ratio = (real - reference).numpy()
    size = float(1 + real.abs().max() + reference.abs().max())
    prior = math.log(mu)
    errors = []
    found = space_loss(**logps, mu=mu)  # type: ignore[arg-type]
    terms = (
        np.logaddexp(0, prior - ratio),
        mu * np.logaddexp(0, ratio[..., ::-1] - prior),
    )
    errors.append(_apart(found, terms, size * (1 + mu), sft_weight * -real.numpy()))
    share = mu / (1 + mu)
    slopes = ((-share, share / (1 + mu)), (share, mu * share / (1 + mu)))
    errors.extend(_derivatives_apart(space(mu), slopes))
    for name, (formula, derivatives) in _GSIL.items():
        found = gsil_loss(**logps, beta=scale, loss_type=name, shift=shift)  # type: ignore[arg-type]
        t = scale * ratio + shift
        terms = (formula(t)[0], formula(t[..., ::-1])[1])
        steep = scale * size * (1 + float(np.exp(2 * np.abs(t)).max()) * (name in _STEEP))
        errors.append(_apart(found, terms, steep, sft_weight * -real.numpy()))
        made = gsil(name, scale=scale, shift=shift)
        (a, b), (c, d) = derivatives(shift)
        slopes = ((scale * a, scale**2 * b), (scale * c, scale**2 * d))
        errors.extend(_derivatives_apart(made, slopes))
        errors.append(_apart(made(real - reference, real - reference), formula(t), steep, 0 * t))
    return Evidence(largest_error(errors), tolerance, {"losses": 1.0 + len(_GSIL)})


def check_pointwise_optimum(
    opponent: TabularPolicy,
    data: TabularPolicy,
    other: TabularPolicy,
    *,
    mu: float,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check which of the losses have the data as their optimum, and their least values.

    Parameters
    ----------
    opponent, data, other : TabularPolicy, shape (X, Y)
        p_t, p_data, and a policy to compare with.
    mu : float
        Of SPACE, > 0, no unit.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: for SPACE and for GSIL's losses at scale 1 without a shift but hinge, the error
        of the objective at the data against its least value, the gradient in the logits there,
        and how far `other` is below it, relative to what is summed. For hinge the error of the
        gradient :math:`p_t - p_{data}` at the data, of an opponent near them, which shows that
        they are not its optimum.

    Raises
    ------
    ValueError
        If shapes differ or `mu` is not finite and > 0.

    Notes
    -----
    Each response has a log-ratio that is best for it alone, :math:`\log p_{data}/p_t`. The policy
    of these is normalised, so it is the optimum in a table. For hinge the best ones are 1 and -1.

    Examples
    --------
    >>> tables = [TabularPolicy.random(1, 5, seed=seed) for seed in range(3)]
    >>> check_pointwise_optimum(*tables, mu=3.0).holds
    True
    """
    p, q = data.probs, opponent.probs
    log_mu = math.log(mu)
    both = torch.logaddexp(data.log_probs, opponent.log_probs + log_mu)
    spread = p * (both - data.log_probs) + mu * q * (both - opponent.log_probs - log_mu)
    least = {
        "space": spread.sum(-1),
        "bernoulli": 2 * (math.log(2) - js(data, opponent)),
        "brier": (
            p * torch.exp(opponent.log_probs - torch.logaddexp(data.log_probs, opponent.log_probs))
        ).sum(-1),
        "kliep": 1 - kl(data, opponent),
        "lsif": -(1 + chi_square(data, opponent)) / 2,
    }
    errors = []
    for name, value in least.items():
        loss = space(mu) if name == "space" else gsil(name, scale=1.0)
        at_data, gradient = _objective(data, opponent, data, loss)
        ratio = data.log_probs - opponent.log_probs
        size = float((p * loss.real(ratio).abs() + q * loss.generated(ratio).abs()).sum(-1).max())
        size *= 1 + float(ratio.abs().max())
        elsewhere = float(pointwise_objective(other, opponent, data, loss=loss))
        errors.extend(
            [
                abs(float(at_data) - float(value.mean())) / size,
                float(gradient.abs().max()) / size,
                (float(at_data) - elsewhere) / size,
            ]
        )
    near = TabularPolicy.from_logits(data.log_probs + 0.4 * torch.tanh(other.log_probs - ratio))
    _, gradient = _objective(data, near, data, gsil("hinge", scale=1.0))
    apart = gradient * len(p) - (near.probs - p)
    errors.append(float(apart.abs().max()))
    return Evidence(largest_error(errors), tolerance, {"hinge_gradient": float(gradient.norm())})


def _objective(
    policy: TabularPolicy, opponent: TabularPolicy, data: TabularPolicy, loss: PointwiseLoss
) -> tuple[Tensor, Tensor]:
    """Objective, and its gradient in the policy's logits (X, Y)."""
    logits = policy.log_probs.detach().clone().requires_grad_()
    value = pointwise_objective(TabularPolicy.from_logits(logits), opponent, data, loss=loss)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def _apart(found: Tensor, terms: Sequence[Numbers], steepness: float, sft: Numbers) -> float:
    """Largest error of a sum of terms, relative to them and to what rounding makes of them."""
    right = terms[0] + terms[1] + sft
    sizes = np.abs(terms[0]) + np.abs(terms[1]) + np.abs(sft) + steepness
    return float((np.abs(found.numpy() - right) / sizes).max())


def _derivatives_apart(loss: PointwiseLoss, expected: Derivatives) -> list[float]:
    """Errors of the derivatives at the opponent, relative where they are large."""
    found = loss.derivatives()
    pairs = [
        (number, right)
        for term, terms in zip(found, expected, strict=True)
        for number, right in zip(term, terms, strict=True)
    ]
    pairs.append((loss.sft_factor, -expected[0][0]))
    return [abs(number - right) / (abs(right) + 1e-3) for number, right in pairs]


def _sigma(t: Numbers) -> Numbers:
    return 0.5 * (1 + np.tanh(t / 2))


def _sigmoid_slopes(b: float) -> Derivatives:
    s = 1 / (1 + math.exp(-b))
    return (s - 1, s * (1 - s)), (s, s * (1 - s))


def _brier_slopes(b: float) -> Derivatives:
    s = 1 / (1 + math.exp(-b))
    return (
        (-2 * s * (1 - s) ** 2, -2 * s * (1 - s) ** 2 * (1 - 3 * s)),
        (2 * s**2 * (1 - s), 2 * s**2 * (1 - s) * (2 - 3 * s)),
    )


_STEEP = ("kliep", "lsif")
"""Losses with an exponential, so that rounding of a log-ratio grows with it."""

_GSIL: dict[
    str,
    tuple[Callable[[Numbers], tuple[Numbers, Numbers]], Callable[[float], Derivatives]],
] = {
    "bernoulli": (lambda t: (np.logaddexp(0, -t), np.logaddexp(0, t)), _sigmoid_slopes),
    "brier": (lambda t: (_sigma(-t) ** 2, _sigma(t) ** 2), _brier_slopes),
    "hinge": (
        lambda t: (np.maximum(0, 1 - t), np.maximum(0, 1 + t)),
        lambda b: ((-float(b < 1), 0.0), (float(b > -1), 0.0)),
    ),
    "kliep": (
        lambda t: (-t, np.exp(t)),
        lambda b: ((-1.0, 0.0), (math.exp(b), math.exp(b))),
    ),
    "lsif": (
        lambda t: (-np.exp(t), np.exp(2 * t) / 2),
        lambda b: ((-math.exp(b), -math.exp(b)), (math.exp(2 * b), 2 * math.exp(2 * b))),
    ),
}
"""Terms as functions of t and t'; first and second derivatives in t of both, at t = b."""


CLAIMS = (
    Claim(
        name="losses of SPACE and GSIL",
        statement="With s the logistic function, r and r' the log-ratios of a real and a generated "
        "response, SPACE's loss is `-log s(r - log mu) - mu log s(log mu - r')`. GSIL's are, with "
        "`t = a r + b` and t' alike: Bernoulli `-log s(t) - log s(-t')`, Brier `(1 - s(t))^2 + "
        "s(t')^2`, hinge `max(0, 1 - t) + max(0, 1 + t')`, KLIEP `-t + e^t'` and LSIF "
        "`-e^t + e^(2 t') / 2`.",
        source="SPACE, from summaries; GSIL, from its code",
        function=check_pointwise_losses,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: check_pointwise_losses(
            draw.small_data, draw.small_start, scale=draw.beta / 4, shift=0.3, mu=draw.mu
        ),
    ),
    Claim(
        name="optimum of SPACE and GSIL",
        statement="The data are the optimum of SPACE at every mu, and of GSIL at scale 1 without "
        "a shift, hinge excepted. The least values are a Jensen-Shannon divergence, a KL "
        "divergence or a chi-square divergence.",
        source="SPACE; GSIL; derived",
        function=check_pointwise_optimum,
        tolerance=SUMS,
        check=lambda draw, *_: check_pointwise_optimum(
            draw.small_start, draw.small_data, draw.small_other, mu=draw.mu
        ),
    ),
)
