"""SPIN with T-SPIN's history term, which no paper proposes: where it rests."""

import math

import torch

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.claims.instances import Draw
from spin_theory.games.endings import rest_with_history
from spin_theory.minima.problems import InnerProblem
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import FEW_TERMS, ROUNDING

__all__ = ["CLAIMS", "check_rest_with_history"]


def check_rest_with_history(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    history_weight: float,
    loss_type: str = "logistic",
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check where SPIN with a history term rests, and that it rests nowhere else.

    Parameters
    ----------
    start, data : TabularPolicy, shape (X, Y)
        p_0 and p_data.
    beta : float
        Pull towards the opponent, > 0, no unit.
    history_weight : float
        Weight w of the history term, >= 0, no unit.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the gradient of the objective in the scores where policy and opponent are the
        policy at rest, relative to beta's share of it; infinite where such a policy is
        claimed although `(p_data - w p_0) / (1 - w)` has an entry that is not above 0, or denied
        although it has none. `rests` is 1 or 0.

    Raises
    ------
    ValueError
        If shapes differ or a parameter is out of its range.

    Examples
    --------
    >>> start, data = (TabularPolicy.from_probs([[p, 1 - p]]) for p in (0.5, 0.7))
    >>> check_rest_with_history(start, data, beta=0.5, history_weight=0.2).holds
    True
    """
    rest = rest_with_history(start, data, history_weight=history_weight)
    there = bool((data.probs > history_weight * start.probs).all()) and history_weight < 1
    if rest is None or not there:
        wrong = there or rest is not None
        return Evidence(math.inf if wrong else 0.0, tolerance, {"rests": float(there)})
    problem = InnerProblem(
        data=data,
        sampler=rest,
        reference=rest,
        beta=beta,
        loss_type=loss_type,
        initial=start,
        history_weight=history_weight,
    )
    scores = problem.scores(rest).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(problem.score_values(scores).sum(), scores)
    sizes = data.probs + rest.probs + history_weight * start.probs
    errors = [float((gradient.abs() / sizes).max())]
    return Evidence(largest_error(errors), tolerance, {"rests": 1.0})


def _history_weight(draw: Draw) -> float:
    return (0.1, 0.5, 1e-3, 2.0)[draw.instance.seed % 4]


CLAIMS = (
    Claim(
        name="SPIN with a history term, {loss_type}",
        statement="Given T-SPIN's history term of weight w, SPIN rests at `(p_data - w p_0) / "
        "(1 - w)`, which is not the data, or nowhere if that is no distribution.",
        source="derived",
        function=check_rest_with_history,
        tolerance=FEW_TERMS,
        check=lambda draw, _, loss_type: check_rest_with_history(
            draw.small_start,
            draw.small_data,
            beta=draw.beta,
            history_weight=_history_weight(draw),
            loss_type=loss_type,
        ),
        loss_types=("logistic", "exponential"),
    ),
)
