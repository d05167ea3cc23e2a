"""SPIN rests where SFT does, in a class that need not contain the data."""

import torch

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.divergences import kl
from spin_theory.minima.policy_classes import LogLinearClass
from spin_theory.minima.resting import sft_minimum
from spin_theory.minima.within import minimise_within
from spin_theory.objectives.objectives import spin_objective
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import STATIONARY, SUMS

__all__ = ["CLAIMS", "check_fixed_point_is_sft"]


def check_fixed_point_is_sft(
    family: LogLinearClass,
    data: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    tolerance: float = STATIONARY,
) -> Evidence:
    r"""Check that SPIN rests where SFT does, in a log-linear class without p_data.

    Parameters
    ----------
    family : LogLinearClass
        The class.
    data : TabularPolicy, shape (X, Y)
        p_data, in the class or not.
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.
    tolerance : float, default 1e-10
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: norm of SPIN's gradient where the opponent is SFT's solution, relative to
        beta times the features' size, and the distance in nats that :func:`minimise_within`
        goes from there. `misfit` is KL(p_data || SFT's solution) in nats: positive, it shows a
        fixed point of SPIN that is not the data, so that Theorem 5.2 needs p_data in the class.

    Raises
    ------
    ValueError
        If shapes differ, `beta` is not > 0, or the penalty is not smooth.

    Notes
    -----
    Derived. Both are stationary where the features have their means under p_data, and both
    objectives are convex.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> features = torch.randn(2, 6, 2, generator=generator, dtype=torch.float64)
    >>> data = TabularPolicy.random(2, 6, seed=0, smallest=0.1)
    >>> evidence = check_fixed_point_is_sft(LogLinearClass(features), data, beta=0.5)
    >>> evidence.holds, evidence.numbers["misfit"] > 0.01
    (True, True)
    """
    theta = sft_minimum(family, data)
    found = minimise_within(family, theta, data, beta=beta, loss_type=loss_type)
    start = theta.clone().requires_grad_()
    opponent = family.policy(theta)
    value = spin_objective(family.policy(start), opponent, data, beta=beta, loss_type=loss_type)
    (gradient,) = torch.autograd.grad(value, start)
    errors = [
        float(gradient.norm() / (beta * family.features.abs().max())),
        float(kl(opponent, found.policy).max()),
    ]
    return Evidence(largest_error(errors), tolerance, {"misfit": float(kl(data, opponent).mean())})


CLAIMS = (
    Claim(
        name="SPIN rests where SFT does",
        statement="In a log-linear class SFT's solution is a fixed point of SPIN, even if the "
        "class does not contain `p_data`.",
        source="derived",
        function=check_fixed_point_is_sft,
        tolerance=SUMS,
        check=lambda draw, *_: check_fixed_point_is_sft(
            LogLinearClass(draw.features), draw.small_data, beta=draw.beta
        ),
    ),
)
