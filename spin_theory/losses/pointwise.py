r"""Losses that score each response alone: SPACE and GSIL, functions of two log-ratios.

SPIN compares a real and a generated response, so that the policy's normaliser cancels. These do
not: each is a sum of a function of the real log-ratio and one of the generated log-ratio.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from spin_theory.inputs import number
from spin_theory.losses.arguments import require_beta, require_one_shape, require_weight
from spin_theory.losses.pairs import with_sft

__all__ = ["GSIL_LOSSES", "PointwiseLoss", "gsil", "gsil_loss", "space", "space_loss"]

Term = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PointwiseLoss:
    r"""A loss that is a term of the real log-ratio plus a term of the generated one.

    Attributes
    ----------
    name : str
        What messages call it.
    real : callable
        :math:`\phi`, of :math:`r = \log p_\theta(y)/p_t(y)`, elementwise; it falls.
    generated : callable
        :math:`\psi`, of :math:`r' = \log p_\theta(y')/p_t(y')`, elementwise; it rises.

    Examples
    --------
    >>> plain = PointwiseLoss("plain", lambda r: -r, lambda r: r)
    >>> plain.sft_factor, plain(torch.tensor([0.5]), torch.tensor([0.25]))
    (1.0, tensor([-0.2500]))
    """

    name: str
    real: Term
    generated: Term

    def __call__(self, real_log_ratio: Tensor, generated_log_ratio: Tensor) -> Tensor:
        """Return the loss of each pair of log-ratios, elementwise."""
        return self.real(real_log_ratio) + self.generated(generated_log_ratio)

    def derivatives(self) -> tuple[tuple[float, float], tuple[float, float]]:
        r"""First and second derivatives of both terms where the policy is the opponent.

        Returns
        -------
        real, generated : tuple of float
            :math:`\phi'(0), \phi''(0)` and :math:`\psi'(0), \psi''(0)`.
        """
        return _derivatives(self.real), _derivatives(self.generated)

    @property
    def sft_factor(self) -> float:
        r"""What its gradient at the opponent is of SFT's: :math:`-\phi'(0)`, no unit.

        The generated term has mean zero there: the opponent's score under its own samples.

        Returns
        -------
        float
            At least 0.
        """
        return -_derivatives(self.real)[0]


def space(mu: float) -> PointwiseLoss:
    r"""Make SPACE's loss.

    Parameters
    ----------
    mu : float
        Generated responses per real one in the classification, > 0, no unit.

    Returns
    -------
    PointwiseLoss
        :math:`-\log \sigma_\mu(r) - \mu \log \sigma_{1/\mu}(-r')` with :math:`\sigma_\mu(x) = 1 /
        (1 + \mu e^{-x})`.

    Raises
    ------
    ValueError
        If `mu` is not finite and > 0.

    Examples
    --------
    >>> space(3.0).sft_factor  # mu / (1 + mu)
    0.75
    """
    mu = number("mu", mu)
    if not 0 < mu < math.inf:
        raise ValueError(f"mu must be finite and > 0, got {mu!r}")
    # sigma_mu(r) = sigma(r - log mu), and sigma_{1/mu}(-r') = sigma(log mu - r').
    prior = math.log(mu)
    return PointwiseLoss(
        "space",
        lambda ratio: -functional.logsigmoid(ratio - prior),
        lambda ratio: -mu * functional.logsigmoid(prior - ratio),
    )


def gsil(loss_type: str, *, scale: float, shift: float = 0.0) -> PointwiseLoss:
    r"""Make one of GSIL's losses.

    Parameters
    ----------
    loss_type : {'bernoulli', 'brier', 'hinge', 'kliep', 'lsif'}
        Which.
    scale : float
        Factor a on the log-ratios, > 0, no unit.
    shift : float, default 0.0
        What is added to them, b, no unit.

    Returns
    -------
    PointwiseLoss
        Terms of :math:`a r + b` and :math:`a r' + b`; see :func:`gsil_loss`.

    Raises
    ------
    ValueError
        If `loss_type` is unknown, `scale` is not finite and > 0, or `shift` is not finite.

    Examples
    --------
    >>> gsil("bernoulli", scale=0.5).sft_factor  # a / 2 without a shift
    0.25
    """
    if loss_type not in GSIL_LOSSES:
        raise ValueError(f"loss_type must be one of {', '.join(GSIL_LOSSES)}, got {loss_type!r}")
    scale, shift = number("scale", scale), number("shift", shift)
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be finite and > 0, got {scale!r}")
    if not math.isfinite(shift):
        raise ValueError(f"shift must be finite, got {shift!r}")
    real, generated = GSIL_LOSSES[loss_type]
    return PointwiseLoss(
        loss_type,
        lambda ratio: real(scale * ratio + shift),
        lambda ratio: generated(scale * ratio + shift),
    )


def space_loss(
    *,
    policy_real_logps: Tensor,
    policy_generated_logps: Tensor,
    opponent_real_logps: Tensor,
    opponent_generated_logps: Tensor,
    mu: float = 1.0,
    sft_weight: float = 0.0,
) -> Tensor:
    r"""Classify real and generated responses by noise-contrastive estimation.

    Parameters
    ----------
    policy_real_logps, policy_generated_logps : Tensor, shape (...)
        Log-probs of the real response :math:`y` and the generated response :math:`y'`
        under the policy, in nats, summed (not averaged) over tokens.
    opponent_real_logps, opponent_generated_logps : Tensor, shape (...)
        The same under the frozen opponent that generated :math:`y'`.
    mu : float, default 1.0
        Generated responses per real one in the classification, > 0, no unit.
    sft_weight : float, default 0.0
        Weight of :func:`sft_loss` of the real response, added to the loss, >= 0, per nat.

    Returns
    -------
    Tensor, shape (...)
        Loss of each pair; the caller reduces it.

    Raises
    ------
    ValueError
        If shapes differ (nothing broadcasts), `mu` is not finite and > 0, or `sft_weight` is
        not finite and >= 0.

    Notes
    -----
    SPACE [1]_, with the log-ratios r and r' of policy to opponent and :math:`\sigma_\mu(x) = 1 /
    (1 + \mu e^{-x})`: :math:`-\log \sigma_\mu(r) - \mu \log \sigma_{1/\mu}(-r')`. The formula is
    from summaries of the paper, which we have not read in full. There is no scale: with one, the
    minimiser is no longer the data.

    References
    ----------
    .. [1] Wang et al., "SPACE: Noise Contrastive Estimation Stabilizes Self-Play Fine-Tuning for
       Large Language Models", NeurIPS 2025, arXiv:2512.07175.

    Examples
    --------
    >>> logps = torch.tensor([-3.0], dtype=torch.float64)
    >>> space_loss(  # at the opponent: (1 + mu) log(1 + mu) - mu log mu, for mu = 1 2 log 2
    ...     policy_real_logps=logps,
    ...     policy_generated_logps=logps,
    ...     opponent_real_logps=logps,
    ...     opponent_generated_logps=logps,
    ... )
    tensor([1.3863], dtype=torch.float64)
    """
    return _of_log_probs(
        space(mu),
        sft_weight,
        policy_real_logps=policy_real_logps,
        policy_generated_logps=policy_generated_logps,
        opponent_real_logps=opponent_real_logps,
        opponent_generated_logps=opponent_generated_logps,
    )


def gsil_loss(
    *,
    policy_real_logps: Tensor,
    policy_generated_logps: Tensor,
    opponent_real_logps: Tensor,
    opponent_generated_logps: Tensor,
    beta: float,
    loss_type: str = "bernoulli",
    shift: float = 0.0,
    sft_weight: float = 0.0,
) -> Tensor:
    r"""Estimate the ratio of the data to the opponent, response by response.

    Parameters
    ----------
    policy_real_logps, policy_generated_logps : Tensor, shape (...)
        Log-probs of the real response :math:`y` and the generated response :math:`y'`
        under the policy, in nats, summed (not averaged) over tokens.
    opponent_real_logps, opponent_generated_logps : Tensor, shape (...)
        The same under the frozen opponent that generated :math:`y'`.
    beta : float
        Scale a of the log-ratios, > 0, no unit; alpha in the code of [1]_.
    loss_type : {'bernoulli', 'brier', 'hinge', 'kliep', 'lsif'}, default 'bernoulli'
        Which of the five losses.
    shift : float, default 0.0
        Shift b of the scaled log-ratios, no unit; beta in the code of [1]_.
    sft_weight : float, default 0.0
        Weight of :func:`sft_loss` of the real response, added to the loss, >= 0, per nat.

    Returns
    -------
    Tensor, shape (...)
        Loss of each pair; the caller reduces it.

    Raises
    ------
    ValueError
        If shapes differ (nothing broadcasts), `beta` is not finite and > 0, `shift` is not
        finite, `sft_weight` is not finite and >= 0, or `loss_type` is unknown.

    Notes
    -----
    GSIL [1]_, as its published code has it, with :math:`t = a r + b`, :math:`t' = a r' + b` of the
    real and the generated log-ratio and the logistic function :math:`\sigma`:

    ===========  ===============================================
    bernoulli    :math:`-\log \sigma(t) - \log \sigma(-t')`
    brier        :math:`(1 - \sigma(t))^2 + \sigma(t')^2`
    hinge        :math:`\max(0, 1 - t) + \max(0, 1 + t')`
    kliep        :math:`-t + e^{t'}`
    lsif         :math:`-e^t + e^{2 t'}/2`
    ===========  ===============================================

    References
    ----------
    .. [1] Xiao et al., "How to Leverage Demonstration Data in Alignment for Large Language Model?
       A Self-Imitation Learning Perspective", EMNLP 2024, arXiv:2410.10093.

    Examples
    --------
    >>> logps = torch.tensor([-3.0], dtype=torch.float64)
    >>> gsil_loss(  # t = 1, t' = 0
    ...     policy_real_logps=logps + 1,
    ...     policy_generated_logps=logps,
    ...     opponent_real_logps=logps,
    ...     opponent_generated_logps=logps,
    ...     beta=1.0,
    ...     loss_type="kliep",
    ... )
    tensor([0.], dtype=torch.float64)
    """
    return _of_log_probs(
        gsil(loss_type, scale=require_beta(beta), shift=shift),
        sft_weight,
        policy_real_logps=policy_real_logps,
        policy_generated_logps=policy_generated_logps,
        opponent_real_logps=opponent_real_logps,
        opponent_generated_logps=opponent_generated_logps,
    )


def _of_log_probs(loss: PointwiseLoss, sft_weight: float, **logps: Tensor) -> Tensor:
    """Loss of log-ratios, after the checks; `logps` are those of the functions above, in order."""
    real, generated, opponent_real, opponent_generated = require_one_shape(**logps)
    sft_weight = require_weight("sft_weight", sft_weight)
    losses = loss(real - opponent_real, generated - opponent_generated)
    return with_sft(losses, policy_real_logps=real, sft_weight=sft_weight)


def _derivatives(term: Term) -> tuple[float, float]:
    at_zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(term(at_zero), at_zero, create_graph=True)
    if not slope.requires_grad:  # of a straight line
        return float(slope), 0.0
    (curvature,) = torch.autograd.grad(slope, at_zero)
    return float(slope.detach()), float(curvature)


GSIL_LOSSES: dict[str, tuple[Term, Term]] = {
    "bernoulli": (
        lambda t: -functional.logsigmoid(t),
        lambda t: -functional.logsigmoid(-t),
    ),
    "brier": (lambda t: torch.sigmoid(-t).square(), lambda t: torch.sigmoid(t).square()),
    "hinge": (
        lambda t: torch.clamp(1 - t, min=0),
        lambda t: torch.clamp(1 + t, min=0),
    ),
    "kliep": (lambda t: -t, torch.exp),
    "lsif": (lambda t: -torch.exp(t), lambda t: torch.exp(2 * t) / 2),
}
"""Terms of the real and of the generated response, as functions of the scaled, shifted ratio."""
