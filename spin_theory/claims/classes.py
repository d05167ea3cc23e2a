"""Policy classes smaller than all tables: log-linear ones, and quantised ones.

Theorem 5.2 says that the opponent is not a minimum for "some lambda". In a log-linear class whose
parameters form a convex set this is true of every beta, as in a table. Where the parameters are
quantised, as in any number format, it is true of small beta alone.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.claims.witnesses import witness_limit
from spin_theory.divergences import kl, tv
from spin_theory.losses import penalty_slope
from spin_theory.minima.policy_classes import LogLinearClass
from spin_theory.objectives.objectives import spin_objective
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import EQUAL_TV, EXACT, FEW_TERMS, ROUNDING

__all__ = ["CLAIMS", "check_log_linear_necessity", "check_quantised_necessity"]


def check_log_linear_necessity(
    family: LogLinearClass,
    real: Tensor,
    start: Tensor,
    *,
    betas: Sequence[float] = (0.1, 1.0, 10.0, 1000.0),
    loss_type: str = "logistic",
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check that in a log-linear class with p_data no beta makes theta_t a minimum.

    Parameters
    ----------
    family : LogLinearClass
        The class. Any convex set of parameters that contains `real` and `start` would do.
    real, start : Tensor, shape (D,)
        Parameters of p_data and of p_t, of different policies.
    betas : sequence of float, default (0.1, 1.0, 10.0, 1000.0)
        The beta to try, > 0, no unit.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty :math:`\ell`.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: relative error of the objective's derivative at theta_t towards p_data against
        :math:`\beta \ell'(0) [KL(p_{data} \| p_t) + KL(p_t \| p_{data})] < 0`, at each beta.
        `slope` is that derivative over beta.

    Raises
    ------
    ValueError
        If shapes differ, the two policies are equal, a beta is not > 0, none is given, or
        `loss_type` is unknown.

    Notes
    -----
    Derived. The sum of the two divergences is the inner product of :math:`\theta_{data} -
    \theta_t` with the difference of the features' means.

    Examples
    --------
    >>> family = LogLinearClass(torch.randn(2, 5, 3, dtype=torch.float64))
    >>> zero, one = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    >>> check_log_linear_necessity(family, one, zero).holds
    True
    """
    data, opponent = family.policy(real), family.policy(start)
    both = float((kl(data, opponent) + kl(opponent, data)).mean())
    if float(tv(data, opponent).max()) <= EQUAL_TV:
        raise ValueError("real and start must be the parameters of different policies")
    if not betas:
        raise ValueError("betas must hold at least one value, got none")
    errors = []
    for beta in betas:
        theta = start.detach().clone().requires_grad_()
        value = spin_objective(family.policy(theta), opponent, data, beta=beta, loss_type=loss_type)
        (gradient,) = torch.autograd.grad(value, theta)
        size = beta * (both + float((family.features @ (real - start)).abs().max()))
        expected = beta * penalty_slope(loss_type) * both
        errors.append(abs(float(gradient @ (real - start)) - expected) / size)
        if not expected < 0:
            errors.append(math.inf)
    return Evidence(largest_error(errors), tolerance, {"slope": penalty_slope(loss_type) * both})


def check_quantised_necessity(
    family: LogLinearClass,
    *,
    spacing: float,
    reach: int = 2,
    loss_type: str = "logistic",
) -> Evidence:
    r"""Check Theorem 5.2 in a class whose parameters are quantised, where it needs a small beta.

    Parameters
    ----------
    family : LogLinearClass
        The features; no two grid points may have the same policy.
    spacing : float
        Step of the grid, > 0, no unit.
    reach : int, default 2
        The class is the grid :math:`\{-reach, ..., reach\}^D` times the spacing, p_t at 0.
    loss_type : {'logistic', 'hinge', 'exponential'}, default 'logistic'
        The penalty :math:`\ell`.

    Returns
    -------
    Evidence
        Residual: how many members of the class, each in turn as p_data, fail one of the two
        halves: at half of p_data's lambda* theta_t is not the minimum of the class; at twice the
        largest lambda* of any member it is. Tolerance 0. `limit` is the smallest such largest
        lambda*: a beta above it stalls SPIN on some data of this class, which are in it.

    Raises
    ------
    ValueError
        If `spacing` is not finite and > 0, `reach` < 1, a grid point has the policy of
        another, or `loss_type` is correlation, whose witnesses have no end.

    Notes
    -----
    Derived. The objective depends on beta times the step away from p_t alone, so a member half
    as far from p_t is a witness up to twice the beta, and the finer the grid, the larger the
    beta that still moves. Without a grid, as in a table, every beta does.

    Examples
    --------
    >>> family = LogLinearClass(torch.tensor([[[1.0], [0.0]]], dtype=torch.float64))
    >>> evidence = check_quantised_necessity(family, spacing=1.0)
    >>> evidence.holds, round(evidence.numbers["limit"], 2)
    (True, 2.18)
    """
    if not 0 < spacing < math.inf:
        raise ValueError(f"spacing must be finite and > 0, got {spacing!r}")
    if reach < 1:
        raise ValueError(f"reach must be >= 1, got {reach!r}")
    if loss_type == "correlation":
        raise ValueError("loss_type must not be correlation, for which every beta is a witness")
    steps = itertools.product(range(-reach, reach + 1), repeat=family.features.shape[-1])
    grid = [torch.tensor(step, dtype=torch.float64) * spacing for step in steps if any(step)]
    members = [family.policy(theta) for theta in grid]
    opponent = family.policy(torch.zeros(family.features.shape[-1], dtype=torch.float64))
    tables = torch.stack([policy.log_probs.flatten() for policy in [opponent, *members]])
    if float(torch.pdist(tables, p=math.inf).min()) <= ROUNDING * float(tables.abs().max()):
        raise ValueError("features must give every grid point a different policy; two are the same")
    failures, limits = 0, []
    for data in members:

        def least(beta: float, data: TabularPolicy = data) -> float:
            values = [
                spin_objective(member, opponent, data, beta=beta, loss_type=loss_type)
                for member in members
            ]
            return float(torch.stack(values).min())

        own = witness_limit(opponent, data, loss_type=loss_type)
        largest = max(
            witness_limit(opponent, data, loss_type=loss_type, policy=member) for member in members
        )
        start = float(spin_objective(opponent, opponent, data, beta=1.0, loss_type=loss_type))
        failures += not (least(own / 2) < start <= least(2 * largest))
        limits.append(largest)
    return Evidence(float(failures), EXACT, {"limit": min(limits), "members": float(len(members))})


CLAIMS = (
    Claim(
        name="5.2 log-linear class",
        statement="In a log-linear class that contains `p_data`, the opponent is not stationary "
        "either, at any beta, unless it is the data.",
        source="derived",
        function=check_log_linear_necessity,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: check_log_linear_necessity(
            LogLinearClass(draw.features), *draw.parameters
        ),
    ),
    Claim(
        name="5.2 quantised class",
        statement="With quantised parameters beta has to be small. At half of the interval that "
        "belongs to `p_data` the opponent is not the minimum; at twice the longest interval of "
        "the class it is.",
        source="derived",
        function=check_quantised_necessity,
        tolerance=EXACT,
        check=lambda draw, *_: check_quantised_necessity(
            LogLinearClass(draw.features[..., :1]), spacing=1.0, reach=1
        ),
    ),
)
