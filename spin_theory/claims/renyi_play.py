"""What self-play with a Renyi divergence claims, as far as its formula is known."""

import math

import torch

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.claims.instances import Draw
from spin_theory.divergences import renyi
from spin_theory.objectives.renyi import renyi_objective
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import FEW_TERMS, ROUNDING

__all__ = ["CLAIMS", "check_renyi_objective"]


def check_renyi_objective(
    opponent: TabularPolicy,
    data: TabularPolicy,
    other: TabularPolicy,
    *,
    order: float,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check the optimum, the least value and the first step of the two tilted means.

    Parameters
    ----------
    opponent, data, other : TabularPolicy, shape (X, Y)
        p_t, p_data, and a policy to compare with.
    order : float
        Order of the divergence, > 0 and not 1, no unit.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the errors of the least value and of the gradient in the logits at the data, how
        far `other` is below it, and the error of the gradient :math:`p_t - p_{data}` at the
        opponent, which is SFT's; relative to the log-ratios.

    Raises
    ------
    ValueError
        If shapes differ or `order` is out of its range.

    Examples
    --------
    >>> tables = [TabularPolicy.random(1, 5, seed=seed) for seed in range(3)]
    >>> check_renyi_objective(*tables, order=0.5).holds
    True
    """
    size = 1 + float((data.log_probs - opponent.log_probs).abs().max())
    size *= (1 + order) * (1 + 1 / abs(order - 1))
    errors = []
    expected = -float(renyi(data, opponent, order=order).mean()) / order
    for at, gradient in ((data, 0 * data.probs), (opponent, opponent.probs - data.probs)):
        logits = at.log_probs.clone().requires_grad_()
        policy = TabularPolicy.from_logits(logits)
        value = renyi_objective(policy, opponent, data, order=order)
        (found,) = torch.autograd.grad(value, logits)
        errors.append(float((len(logits) * found - gradient).abs().max()) / size)
        least = expected if at is data else 0.0
        errors.append(abs(float(value.detach()) - least) / size)
    elsewhere = float(renyi_objective(other, opponent, data, order=order))
    errors.append((expected - elsewhere) / size)
    return Evidence(largest_error(errors), tolerance, {"least": expected})


def _order(draw: Draw) -> float:
    return (0.3, 0.5, 0.9, 1.5, 2.0, math.pi)[draw.instance.seed % 6]


CLAIMS = (
    Claim(
        name="Renyi self-play",
        statement="The loss `log E_t e^(a r) / a - log E_data e^((a - 1) r) / (a - 1)` of the "
        "log-ratio r has the data as its optimum at every order a, with the value "
        "`-D_a(p_data, p_t) / a`. Its gradient at the opponent is SFT's.",
        source="IRIS, reconstructed",
        function=check_renyi_objective,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: check_renyi_objective(
            draw.small_start, draw.small_data, draw.small_other, order=_order(draw)
        ),
    ),
)
