"""SPIN at any distance from the data: Hilbert's metric, and the flow it follows by Euler steps."""

import numpy as np
import torch

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.divergences import hilbert, kl, tv
from spin_theory.losses import require_beta
from spin_theory.minima.closed_forms import Update, closed_form_update
from spin_theory.policies import TabularPolicy, require_same_shape
from spin_theory.tolerances import FEW_TERMS, ROUNDING, STATIONARY, SUMS

__all__ = ["CLAIMS", "check_euler_step", "check_hilbert_metric"]

EXPONENTS = {"logistic": 1.0, "exponential": 0.5}


def check_hilbert_metric(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    update: Update = closed_form_update,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check that an exact iteration multiplies Hilbert's metric by one number, at any distance.

    Parameters
    ----------
    start, data : TabularPolicy, shape (X, Y)
        p_t and p_data.
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.
    update : Update, default closed_form_update
        The iteration that is claimed to do so.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest error of the metric after the iteration, relative to the metric
        before it times the larger of 1 and 1/beta; and how far a total variation distance, before
        or after, is above :math:`\tanh(d/4)`. `factor` is :math:`|1 - 1/\beta|`.

    Raises
    ------
    ValueError
        If shapes differ, `beta` is not finite and > 0, or the penalty has no closed form.

    Notes
    -----
    Derived. Hilbert's metric :math:`d = \max \log(p/p_{data}) - \min \log(p/p_{data})` is
    multiplied by exactly :math:`|1 - 1/\beta|` (exponential: :math:`|1 - 1/(2\beta)|`), not only
    near the data. Total variation is at most :math:`\tanh(d/4)`, so it goes to 0 with d, although
    it may rise on the way.

    Examples
    --------
    >>> start, data = (TabularPolicy.random(1, 5, seed=seed) for seed in (0, 1))
    >>> check_hilbert_metric(start, data, beta=0.1).holds
    True
    """
    require_same_shape(start=start, data=data)
    require_beta(beta)
    updated = update(start, data, beta=beta, loss_type=loss_type)
    factor = abs(1 - EXPONENTS.get(loss_type, np.nan) / beta)
    before, after = hilbert(start, data), hilbert(updated, data)
    # Log-probs round relative to themselves, and the update multiplies what they have lost.
    sizes = start.log_probs.abs().amax(-1) + data.log_probs.abs().amax(-1)
    errors = (after - factor * before).abs() / ((1 + factor) * (1 + sizes))
    above = [
        float((tv(policy, data) - torch.tanh(distance / 4)).max())
        for policy, distance in ((start, before), (updated, after))
    ]
    return Evidence(largest_error([float(errors.max()), *above]), tolerance, {"factor": factor})


def check_euler_step(
    opponent: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    update: Update = closed_form_update,
    tolerance: float = STATIONARY,
) -> Evidence:
    r"""Check that exact SPIN is explicit Euler for the natural gradient flow of KL(p || p_data).

    Parameters
    ----------
    opponent, data : TabularPolicy, shape (X, Y)
        p_t and p_data, of probabilities that a Fisher matrix resolves: above about 1e-5.
    beta : float
        Pull towards the opponent, > 0, no unit; the step is 1/beta.
    update : Update, default closed_form_update
        The iteration that is claimed to be the step.
    tolerance : float, default 1e-10
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest difference of log-probs after the iteration and after the step, up
        to a constant per prompt, relative to the size of the step. `step` is 1/beta.

    Raises
    ------
    ValueError
        If shapes differ or `beta` is not finite and > 0.

    Notes
    -----
    Derived. In the logits the Fisher matrix is :math:`F = \mathrm{diag}(p) - p p^T`, and the flow
    is :math:`\dot\theta = -F^+ \nabla_\theta KL(p_\theta \| p_{data})`. The gradient is taken
    automatically and the matrix is solved numerically, so the check knows nothing of the closed
    form. Euler's method is stable below a step of 2, which is :math:`\beta > 1/2`.

    Examples
    --------
    >>> opponent, data = (TabularPolicy.random(1, 5, seed=s, smallest=0.01) for s in (0, 1))
    >>> check_euler_step(opponent, data, beta=0.3).holds
    True
    """
    require_same_shape(opponent=opponent, data=data)
    require_beta(beta)
    logits = opponent.log_probs.detach().clone().requires_grad_()
    distance = kl(TabularPolicy.from_logits(logits), data).sum()
    (gradient,) = torch.autograd.grad(distance, logits)  # (X, Y)
    probs = opponent.probs
    # Scaled to a unit diagonal; the null vector, constants per prompt, is lifted.
    root = probs.sqrt()
    scaled = torch.eye(probs.shape[-1], dtype=probs.dtype) - root[:, :, None] * root[:, None, :]
    scaled = scaled + root[:, :, None] * root[:, None, :]
    natural = torch.linalg.solve(scaled, (gradient / root)[..., None])[..., 0] / root
    stepped = opponent.log_probs - natural / beta
    found = update(opponent, data, beta=beta, loss_type="logistic").log_probs
    apart = found - stepped
    apart = apart - apart.mean(dim=-1, keepdim=True)
    size = 1 + natural.abs().amax(dim=-1, keepdim=True) / beta
    return Evidence(float((apart.abs() / size).max()), tolerance, {"step": 1 / beta})


CLAIMS = (
    Claim(
        name="Hilbert's metric, {loss_type}",
        statement="At any distance from the data an exact iteration multiplies Hilbert's metric d "
        "by exactly the size of `1 - 1 / beta`, or of `1 - 1 / (2 beta)` for exponential. Total "
        "variation is at most `tanh(d / 4)`.",
        source="derived",
        function=check_hilbert_metric,
        tolerance=FEW_TERMS,
        check=lambda draw, _, loss_type: check_hilbert_metric(
            draw.opponent, draw.data, beta=draw.beta, loss_type=loss_type
        ),
        loss_types=("logistic", "exponential"),
    ),
    Claim(
        name="Euler step of the natural gradient flow",
        statement="Exact SPIN is explicit Euler of step `1 / beta` for the Fisher-Rao flow of "
        "`KL(p, p_data)`, which is stable below a step of 2.",
        source="derived",
        function=check_euler_step,
        tolerance=SUMS,
        check=lambda draw, *_: check_euler_step(draw.small_start, draw.small_data, beta=draw.beta),
    ),
)
