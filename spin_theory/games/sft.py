"""What an SFT term does to exact SPIN near the data."""

from collections.abc import Sequence

import torch

from spin_theory.games.inexact import inexact_multiplier
from spin_theory.losses import penalty_named, require_beta

__all__ = ["sft_multiplier", "sft_sentence", "steadying_weight"]


def sft_multiplier(*, beta: float, sft_weight: float, loss_type: str = "logistic") -> float:
    r"""Factor by which exact SPIN with an SFT term multiplies small deviations from the data.

    Parameters
    ----------
    beta : float
        Pull towards the opponent, > 0, no unit.
    sft_weight : float
        Weight w of the SFT term, >= 0, per nat, of log-probs summed over tokens. Where they are
        averaged it is w over the number of tokens.
    loss_type : {'logistic', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`; the last one only with a weight > 0.

    Returns
    -------
    float
        :math:`\beta (\beta - 1) / (\beta^2 + 2 w)` for the logistic penalty, :math:`\beta (2\beta -
        1) / (2\beta^2 + w)` for the exponential one and :math:`-\beta / w` for correlation.

    Raises
    ------
    ValueError
        If `beta` is not finite and > 0, `sft_weight` is not finite and >= 0, or the penalty has a
        kink or, without an SFT term, no minimum.

    Notes
    -----
    Derived. In general :math:`1 - (\beta |\ell'(0)| + w) / (2 \beta^2 \ell''(0) + w)`. It is the
    law of small deviations: far from the data an iteration with an SFT term is not linear in the
    log-ratio, as one without it is (:func:`multiplier`).

    Examples
    --------
    >>> round(sft_multiplier(beta=0.1, sft_weight=0.1), 4)  # -0.09 / 0.21; without it -9
    -0.4286
    """
    return float(
        inexact_multiplier(
            torch.ones((), dtype=torch.float64),
            beta=beta,
            steps=None,
            loss_type=_smooth(loss_type),
            sft_weight=sft_weight,
        )
    )


def steadying_weight(*, beta: float, loss_type: str = "logistic") -> float:
    r"""Weight of an SFT term above which exact SPIN settles at the data, from near enough.

    Parameters
    ----------
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`.

    Returns
    -------
    float
        Where :func:`sft_multiplier` is -1: :math:`\beta (1 - 2\beta) / 2` for the logistic penalty,
        or 0 where no weight is needed. Per nat.

    Raises
    ------
    ValueError
        If `beta` is not finite and > 0, or the penalty has a kink.

    Notes
    -----
    Derived: :math:`\beta |\ell'(0)| - 4 \beta^2 \ell''(0)`. For the logistic penalty it is at most
    1/16, at beta 1/4: an SFT weight above 1/16 steadies exact SPIN at every beta.

    Examples
    --------
    >>> round(steadying_weight(beta=0.1), 12), steadying_weight(beta=0.25)
    (0.04, 0.0625)
    """
    penalty = penalty_named(_smooth(loss_type))
    slope, curvature = (
        float(part.exp()) for part in penalty.log_derivatives(torch.zeros((), dtype=torch.float64))
    )
    return max(0.0, require_beta(beta) * slope - 4 * beta**2 * curvature)


def sft_sentence(betas: Sequence[float], *, sft_weight: float, loss_type: str = "logistic") -> str:
    """Say what an SFT term does to exact SPIN near the data.

    Parameters
    ----------
    betas : sequence of float
        The beta of each iteration, > 0, no unit.
    sft_weight : float
        Weight of the SFT term, > 0, per nat.
    loss_type : {'logistic', 'exponential', 'correlation'}, default 'logistic'
        The penalty.

    Returns
    -------
    str
        A sentence without a full stop.

    Examples
    --------
    >>> print(sft_sentence([0.1], sft_weight=0.1).partition(";")[0])
    near the data the SFT term makes the multiplier -0.4286 at beta 0.1
    """
    factors = []
    for beta in dict.fromkeys(betas):
        factor = sft_multiplier(beta=beta, sft_weight=sft_weight, loss_type=loss_type)
        unstable = "" if abs(factor) < 1 else ", where it does not settle"
        factors.append(f"{factor:.4g} at beta {beta:g}{unstable}")
    return (
        f"near the data the SFT term makes the multiplier {', '.join(factors)}; from far away the "
        "game may do otherwise"
    )


def _smooth(loss_type: str) -> str:
    """Return the penalty's name, or raise ValueError where it has a kink."""
    if penalty_named(loss_type).kinks:
        raise ValueError(f"loss_type {loss_type} has a kink: its exact iteration has no multiplier")
    return loss_type
