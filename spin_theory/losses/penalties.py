"""The penalties on the margin, by name, with the facts about each that others need."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["PENALTIES", "Penalty", "penalty_slope"]


@dataclass(frozen=True)
class Penalty:
    r"""A penalty :math:`\ell(t)` on the margin t, with the facts about it that others need.

    Name and value are enough for objectives, gradients, Newton's method and games: what is not
    stated is differentiated automatically. Every other fact opens one more door.

    Parameters
    ----------
    name : str
        Its `loss_type`.
    value : callable
        :math:`\ell`, elementwise: convex, decreasing, :math:`\ell'(0) < 0` (SPIN's Assumption 5.1).
    exponent : float, optional
        The c of its closed form :math:`p_{t+1} \propto p_t (p_{data}/p_t)^{c/\beta}`, no unit;
        None where it has none.
    conjugate : callable, optional
        The concave h with :math:`\ell(t) = \max_u [h(u) - u t]`, elementwise, for u from 0 to
        `steepest`. Lower bounds are made of it (:func:`certify`).
    steepest : float, default inf
        The limit of :math:`|\ell'|`.
    kinks : tuple of float, default ()
        Margins where it has no derivative. A penalty with kinks needs a search of its own.
    bounded_below : bool, default True
        Whether a lower bound exists. Without one there is nothing to minimise.
    stable_derivatives : callable, optional
        From t to :math:`\log |\ell'(t)|` and :math:`\log \ell''(t)`, written out where automatic
        differentiation loses digits.
    even_curvature : bool, default False
        Whether :math:`\ell''(-t) = \ell''(t)`, so that Newton computes one of the two.

    Examples
    --------
    >>> squared_hinge = Penalty("squared_hinge", lambda margin: (1 - margin).clamp(min=0).square())
    >>> squared_hinge(torch.tensor([0.0, 0.5, 2.0])), squared_hinge.slope_at_zero
    (tensor([1.0000, 0.2500, 0.0000]), -2.0)
    """

    name: str
    value: Callable[[Tensor], Tensor]
    exponent: float | None = None
    conjugate: Callable[[Tensor], Tensor] | None = None
    steepest: float = math.inf
    kinks: tuple[float, ...] = ()
    bounded_below: bool = True
    stable_derivatives: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    even_curvature: bool = False

    def __call__(self, margin: Tensor) -> Tensor:
        """Return the penalty of each margin, elementwise."""
        return self.value(margin)

    @property
    def slope_at_zero(self) -> float:
        """The derivative l'(0), below 0: what SPIN's first step is of SFT's."""
        at_zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(self.value(at_zero), at_zero)
        return float(slope)

    @property
    def suits_newton(self) -> bool:
        """Whether the minimum is where the gradient is 0: no kinks, and bounded below."""
        return self.bounded_below and not self.kinks

    def log_derivatives(self, margin: Tensor) -> tuple[Tensor, Tensor]:
        r"""First and second derivative, as logarithms.

        Parameters
        ----------
        margin : Tensor, shape (...)
            t, no unit; a constant, as what comes back is not differentiable.

        Returns
        -------
        log_slope, log_curvature : Tensor, shape (...)
            :math:`\log |\ell'(t)|` and :math:`\log \ell''(t)`; minus infinity where they are 0.
        """
        if self.stable_derivatives is not None:
            return self.stable_derivatives(margin)
        with torch.enable_grad():
            at = margin.detach().clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.value(at).sum(), at, create_graph=True)
            curvature = torch.zeros_like(slope)  # of a straight line, which leaves no graph
            if slope.requires_grad:
                (curvature,) = torch.autograd.grad(slope.sum(), at)
        return (-slope.detach()).log(), curvature.log()


def _logistic(margin: Tensor) -> Tensor:
    # softplus(-t) turns linear past its threshold of 20 and is off by up to 2e-9 there.
    return -functional.logsigmoid(margin)


def _logistic_derivatives(margin: Tensor) -> tuple[Tensor, Tensor]:
    # l' = -sigma(-t), l'' = sigma(t) sigma(-t), log sigma(t) = t + log sigma(-t). Automatic
    # differentiation has l'' = 0 from t = 37 on.
    log_slope = functional.logsigmoid(-margin)
    return log_slope, torch.add(margin, log_slope, alpha=2)


def _entropy(share: Tensor) -> Tensor:
    return -torch.xlogy(share, share) - torch.xlogy(1 - share, 1 - share)


def _hinge(margin: Tensor) -> Tensor:
    return torch.clamp(1 - margin, min=0)


def _exponential(margin: Tensor) -> Tensor:
    return torch.exp(-margin)


def _correlation(margin: Tensor) -> Tensor:
    return 1 - margin


PENALTIES: dict[str, Penalty] = {
    penalty.name: penalty
    for penalty in (
        Penalty(
            "logistic",  # log(1 + exp(-t))
            _logistic,
            exponent=1.0,  # Theorem 5.4 of SPIN
            conjugate=_entropy,
            steepest=1.0,
            stable_derivatives=_logistic_derivatives,
            even_curvature=True,
        ),
        Penalty(
            "hinge",  # max(0, 1 - t)
            _hinge,
            conjugate=lambda share: share,
            steepest=1.0,
            kinks=(1.0,),
        ),
        Penalty(
            "exponential",  # exp(-t)
            _exponential,
            exponent=0.5,  # from Cauchy-Schwarz
            conjugate=lambda share: share - torch.xlogy(share, share),
            stable_derivatives=lambda margin: (-margin, -margin),
        ),
        Penalty(
            "correlation",  # 1 - t
            _correlation,
            conjugate=lambda share: torch.where(share == 1, share, -math.inf),
            steepest=1.0,
            bounded_below=False,
        ),
    )
}
"""The penalties of SPIN by name."""


def penalty_named(loss_type: str) -> Penalty:
    """Look up a penalty of `PENALTIES`; raise ValueError if there is none of that name."""
    if not isinstance(loss_type, str) or loss_type not in PENALTIES:
        raise ValueError(f"loss_type must be one of {', '.join(PENALTIES)}, got {loss_type!r}")
    return PENALTIES[loss_type]


def penalty_slope(loss_type: str) -> float:
    """Differentiate a penalty at margin 0.

    Parameters
    ----------
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}
        The penalty.

    Returns
    -------
    float
        l'(0), below 0, no unit.

    Raises
    ------
    ValueError
        If `loss_type` is unknown.

    Examples
    --------
    >>> penalty_slope("logistic")
    -0.5
    """
    return penalty_named(loss_type).slope_at_zero
