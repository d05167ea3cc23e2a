"""Theorem 5.2 of SPIN: the opponent is a global minimum where it is the data, and only there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import largest_error
from spin_theory.claims.witnesses import objective_drop_at_data
from spin_theory.divergences import tv
from spin_theory.inputs import numbers
from spin_theory.losses import PENALTIES, penalty_named, penalty_slope, require_beta
from spin_theory.minima.optimal import optimal_value
from spin_theory.objectives.objectives import spin_objective
from spin_theory.policies import TabularPolicy, prompt_weights, require_same_shape
from spin_theory.tolerances import EQUAL_TV, ROUNDING, SUMS

__all__ = ["CLAIMS", "Objective", "Theorem52Evidence", "check_theorem_5_2"]

BETAS = (0.1, 1.0, 10.0)
"""The lambda at which sufficiency is checked: the published 0.1 and up to 100 times that."""

FIRST_WITNESS = 0.5  # the search goes down from here; witnesses are an interval from 0

HALVINGS = 200  # before the search gives up


class Objective(Protocol):
    """A function that is claimed to be (4.7)."""

    def __call__(
        self,
        policy: TabularPolicy,
        opponent: TabularPolicy,
        data: TabularPolicy,
        *,
        beta: float,
        loss_type: str = "logistic",
        prompt_probs: Tensor | None = None,
    ) -> Tensor:
        """Return the objective, shape ()."""


@dataclass(frozen=True)
class Theorem52Evidence:
    """What :func:`check_theorem_5_2` rests on.

    Attributes
    ----------
    holds : bool
        Whether the direction that applies was confirmed.
    case : str
        'sufficiency' where the opponent is the data, 'necessity' where it is not.
    loss_type : str
        The penalty.
    tv : float
        Largest total variation distance of opponent and data over prompts.
    betas : tuple of float
        The beta tried: all of the given ones for sufficiency, the witness alone for necessity
        (none if there was no witness).
    opponent_objective : float
        The objective at theta_t; it does not depend on beta.
    best_objective : float
        Sufficiency: the least value any policy can reach. Necessity: the objective at
        p_theta = p_data and beta = `witness`, below `opponent_objective` (nan if no witness).
    gradient_norm : float
        Largest norm over `betas` of the objective's gradient in the logits at theta_t.
    witness : float or None
        Necessity: a beta at which theta_t is not a global minimum, as p_data is below it.
    drop : float
        Necessity: how far below, computed without cancellation; 0 for sufficiency.
    residual : float
        Sufficiency: the largest, over `betas`, of the gradient's norm (divided by beta squared
        where beta > 1, as rounding grows with that) and of the objective's distance from
        `best_objective`. Necessity: how far `drop` is from the difference of the
        two objectives, relative to their size (infinite if no witness), and how far the gradient
        over beta is from q(x) l'(0) (p_data - p_t); infinite if that far is half of its size.
    tolerance : float
        Largest residual at which the theorem counts as confirmed.
    """

    holds: bool
    case: str
    loss_type: str
    tv: float
    betas: tuple[float, ...]
    opponent_objective: float
    best_objective: float
    gradient_norm: float
    witness: float | None
    drop: float
    residual: float
    tolerance: float


def check_theorem_5_2(
    data: TabularPolicy,
    opponent: TabularPolicy,
    *,
    loss_type: str = "logistic",
    betas: Sequence[float] = BETAS,
    prompt_probs: Tensor | None = None,
    objective: Objective = spin_objective,
    tolerance: float = ROUNDING,
) -> Theorem52Evidence:
    r"""Check that theta_t is a global minimum exactly where the opponent is the data.

    Parameters
    ----------
    data, opponent : TabularPolicy, shape (X, Y)
        p_data and p_t.
    loss_type : {'logistic', 'hinge', 'exponential', 'correlation'}, default 'logistic'
        The penalty; all four meet Assumption 5.1.
    betas : sequence of float, default (0.1, 1.0, 10.0)
        The lambda > 0 at which sufficiency is tried. (At lambda = 0 the objective is the
        constant l(0), of which every policy is a minimum.)
    prompt_probs : Tensor, shape (X,), optional
        Distribution q(x) of the prompts; uniform by default.
    objective : Objective, default spin_objective
        The function that is claimed to be (4.7).
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Theorem52Evidence
        Whether the theorem held, in which of its two cases, and the numbers.

    Raises
    ------
    ValueError
        If shapes differ, a beta is not finite and > 0, none is given, `loss_type` is unknown,
        or `prompt_probs` is not a distribution.

    Notes
    -----
    Theorem 5.2 of [1]_. Sufficiency: theta_t is stationary, and its value is the least that any
    policy reaches, at every beta given. Necessity: a beta is searched, from 1/2 downwards, at
    which p_data has a lower objective than theta_t. The objective drops there by
    :func:`objective_drop_at_data`, which must agree with the two objectives. Where the opponent
    is near the data that drop is rounding, so the gradient at theta_t is checked too: in a table
    it is :math:`\beta \, \ell'(0) (p_{data} - p_t)` per prompt, which is 0 at no beta.

    References
    ----------
    .. [1] Chen et al., "Self-Play Fine-Tuning Converts Weak Language Models to Strong
       Language Models", ICML 2024, arXiv:2401.01335v3.

    Examples
    --------
    >>> data = TabularPolicy.from_probs([[0.8, 0.2]])
    >>> evidence = check_theorem_5_2(data, data)
    >>> evidence.holds, evidence.case
    (True, 'sufficiency')
    >>> evidence = check_theorem_5_2(data, TabularPolicy.from_probs([[0.5, 0.5]]))
    >>> evidence.holds, evidence.case, evidence.witness
    (True, 'necessity', 0.5)
    """
    require_same_shape(data=data, opponent=opponent)
    penalty_named(loss_type)
    betas = tuple(require_beta(beta) for beta in numbers("betas", betas))
    if not betas:
        raise ValueError("betas must hold at least one value, got none")
    distance = _largest_tv(data, opponent, prompt_probs)
    check = _sufficiency if distance <= EQUAL_TV else _necessity
    return check(data, opponent, loss_type, betas, prompt_probs, objective, tolerance)


def _largest_tv(data: TabularPolicy, opponent: TabularPolicy, prompt_probs: Tensor | None) -> float:
    """Largest distance over the prompts that come: the others are no part of (4.7)."""
    counted = prompt_weights(len(data.log_probs), prompt_probs) > 0
    return float(tv(data, opponent)[counted].max())


def _sufficiency(
    data: TabularPolicy,
    opponent: TabularPolicy,
    loss_type: str,
    betas: tuple[float, ...],
    prompt_probs: Tensor | None,
    objective: Objective,
    tolerance: float,
) -> Theorem52Evidence:
    # The bound is taken at the data, not at the opponent: for correlation it is infinite as soon
    # as the two differ, even if only in the last digit.
    least = float(optimal_value(data, data, loss_type=loss_type, prompt_probs=prompt_probs))
    found = [
        _at_opponent(data, opponent, beta, loss_type, prompt_probs, objective) for beta in betas
    ]
    values, norms = zip(*((value, float(slope.norm())) for value, slope in found), strict=True)
    # The gradient is beta times a function of beta times log-ratios, which are 0 up to rounding.
    scaled = (norm / max(1.0, beta) ** 2 for norm, beta in zip(norms, betas, strict=True))
    residual = largest_error([*scaled, *(abs(value - least) for value in values)])
    return Theorem52Evidence(
        holds=residual <= tolerance,
        case="sufficiency",
        loss_type=loss_type,
        tv=_largest_tv(data, opponent, prompt_probs),
        betas=betas,
        opponent_objective=values[0],
        best_objective=least,
        gradient_norm=max(norms),
        witness=None,
        drop=0.0,
        residual=residual,
        tolerance=tolerance,
    )


def _necessity(
    data: TabularPolicy,
    opponent: TabularPolicy,
    loss_type: str,
    betas: tuple[float, ...],
    prompt_probs: Tensor | None,
    objective: Objective,
    tolerance: float,
) -> Theorem52Evidence:
    witness, drop = None, 0.0
    for halvings in range(HALVINGS):
        beta = FIRST_WITNESS / 2**halvings
        drop = float(
            objective_drop_at_data(
                opponent, data, beta=beta, loss_type=loss_type, prompt_probs=prompt_probs
            )
        )
        if drop > 0:  # not nan, where an exponential has overflowed
            witness = beta
            break
    tried = betas[0] if witness is None else witness
    value, gradient = _at_opponent(data, opponent, tried, loss_type, prompt_probs, objective)
    best, residual = float("nan"), float("inf")
    if witness is not None:
        best = float(
            objective(
                data, opponent, data, beta=witness, loss_type=loss_type, prompt_probs=prompt_probs
            )
        )
        # log p_data - log p_t first: the difference keeps its digits where the two are close.
        pull = opponent.probs * torch.expm1(data.log_probs - opponent.log_probs)
        shares = prompt_weights(len(pull), prompt_probs)[:, None]
        expected = penalty_slope(loss_type) * shares * pull
        apart = float((gradient / witness - expected).norm())
        residual = largest_error(
            [
                abs((value - best) - drop) / (abs(value) + abs(best)),
                apart if 2 * apart < float(expected.norm()) else float("inf"),
            ]
        )
    return Theorem52Evidence(
        holds=residual <= tolerance,  # False for nan
        case="necessity",
        loss_type=loss_type,
        tv=_largest_tv(data, opponent, prompt_probs),
        betas=() if witness is None else (witness,),
        opponent_objective=value,
        best_objective=best,
        gradient_norm=float(gradient.norm()),
        witness=witness,
        drop=drop,
        residual=residual,
        tolerance=tolerance,
    )


def _at_opponent(
    data: TabularPolicy,
    opponent: TabularPolicy,
    beta: float,
    loss_type: str,
    prompt_probs: Tensor | None,
    objective: Objective,
) -> tuple[float, Tensor]:
    """Value at theta_t of the objective, and its gradient in the logits, (X, Y)."""
    logits = opponent.log_probs.detach().clone().requires_grad_()
    policy = TabularPolicy.from_logits(logits)
    value = objective(
        policy, opponent, data, beta=beta, loss_type=loss_type, prompt_probs=prompt_probs
    )
    if not value.requires_grad:  # a constant
        return float(value), torch.zeros_like(logits)
    (gradient,) = torch.autograd.grad(value, logits)
    return float(value.detach()), gradient


CLAIMS = (
    Claim(
        name="5.2 sufficiency, {loss_type}",
        statement="Where `p_t = p_data`, the opponent is a global minimum of SPIN's objective, at "
        "every beta.",
        source="SPIN, Theorem 5.2",
        function=check_theorem_5_2,
        tolerance=SUMS,
        check=lambda draw, _, loss_type: check_theorem_5_2(
            draw.data, draw.data, loss_type=loss_type, betas=(draw.beta,)
        ),
        loss_types=tuple(PENALTIES),
    ),
    Claim(
        name="5.2 necessity, {loss_type}",
        statement="Where `p_t` differs from `p_data`, there is a beta at which the opponent is "
        "not a global minimum.",
        source="SPIN, Theorem 5.2",
        function=check_theorem_5_2,
        tolerance=SUMS,
        check=lambda draw, _, loss_type: check_theorem_5_2(
            draw.data, draw.opponent, loss_type=loss_type
        ),
        loss_types=tuple(PENALTIES),
    ),
)
