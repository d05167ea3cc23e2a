"""What exact self-play with a pointwise loss does near the data."""

from spin_theory.losses import PointwiseLoss, require_weight

__all__ = ["pointwise_curvature", "pointwise_multiplier"]


def pointwise_curvature(loss: PointwiseLoss, *, sft_weight: float = 0.0) -> float:
    r"""Curvature of a pointwise loss at the data, where the opponent is the data too.

    Parameters
    ----------
    loss : PointwiseLoss
        Such as ``space(mu)`` or ``gsil(loss_type, scale=..., shift=...)``.
    sft_weight : float, default 0.0
        Weight w of the SFT term, >= 0, per nat.

    Returns
    -------
    float
        :math:`\phi''(0) + \psi''(0) - \psi'(0) - \phi'(0) + w`, no unit. Times
        :math:`\mathrm{diag}(p) - p p^T` it is the Hessian in the logits. The data are a minimum
        of their own game only if it is not below 0.

    Raises
    ------
    ValueError
        If `sft_weight` is not finite and >= 0.

    Notes
    -----
    Derived. The gradient at the data is zero at any scale and shift, since a policy's score has
    mean zero. In the second derivatives the two slopes do not cancel unless they are opposite.

    Examples
    --------
    >>> from spin_theory.losses import gsil, space
    >>> pointwise_curvature(space(3.0))  # mu / (1 + mu)
    0.75
    >>> round(pointwise_curvature(gsil("bernoulli", scale=0.01, shift=2.0)), 6)  # as released
    -0.007595
    """
    weight = require_weight("sft_weight", sft_weight)
    (slope, curvature), (other_slope, other_curvature) = loss.derivatives()
    return curvature + other_curvature - other_slope - slope + weight


def pointwise_multiplier(loss: PointwiseLoss, *, sft_weight: float = 0.0) -> float:
    r"""Factor by which an exact iteration multiplies small deviations from the data.

    Parameters
    ----------
    loss : PointwiseLoss
        Such as ``space(mu)`` or ``gsil(loss_type, scale=..., shift=...)``.
    sft_weight : float, default 0.0
        Weight w of the SFT term, >= 0, per nat.

    Returns
    -------
    float
        :math:`1 + (\phi'(0) - w) / c` with c of :func:`pointwise_curvature`, no unit: 0 for SPACE
        at every mu, and :math:`1 - 1/a` for GSIL's Bernoulli at scale a without a shift.

    Raises
    ------
    ValueError
        If the curvature is not > 0, so that the data are no minimum, or `sft_weight` is not
        finite and >= 0.

    Notes
    -----
    Derived, to first order in the log-ratio of opponent and data.

    Examples
    --------
    >>> from spin_theory.losses import gsil, space
    >>> pointwise_multiplier(space(3.0)), pointwise_multiplier(gsil("bernoulli", scale=0.5))
    (0.0, -1.0)
    """
    curvature = pointwise_curvature(loss, sft_weight=sft_weight)
    if not curvature > 0:
        raise ValueError(
            f"the curvature of {loss.name} at the data must be > 0, got {curvature:.3g}: "
            "the data are no minimum of it, so that self-play does not rest there"
        )
    return 1 - (loss.sft_factor + sft_weight) / curvature
