"""SPIN's objective as DPO's, on preferences that a Bradley-Terry model gives."""

import numpy as np

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence
from spin_theory.objectives.objectives import spin_objective
from spin_theory.policies import TabularPolicy, require_same_shape
from spin_theory.tolerances import FEW_TERMS, ROUNDING

__all__ = ["CLAIMS", "check_dpo_population_loss"]


def check_dpo_population_loss(
    policy: TabularPolicy,
    opponent: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check that SPIN's objective is DPO's with the reward log(p_data/p_t).

    Parameters
    ----------
    policy, opponent, data : TabularPolicy, shape (X, Y)
        p_theta, p_t, which is DPO's reference, and p_data.
    beta : float
        DPO's and SPIN's, > 0, no unit.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the difference of the two losses, relative to them.

    Raises
    ------
    ValueError
        If shapes differ or `beta` is not finite and > 0.

    Notes
    -----
    Derived. One response comes from p_data and one from p_t, in random order, and a Bradley-Terry
    model of reward :math:`\log(p_{data}/p_t)` prefers one of them: its probability is
    :math:`P/(P + Q)`, the chance that this one came from the data. So SPIN is DPO with
    preferences in which the label "real" is forgotten and drawn again.

    Examples
    --------
    >>> policy, opponent, data = (TabularPolicy.random(1, 5, seed=seed) for seed in range(3))
    >>> check_dpo_population_loss(policy, opponent, data, beta=0.1).holds
    True
    """
    require_same_shape(policy=policy, opponent=opponent, data=data)
    log_ratio, reward = ((table.log_probs - opponent.log_probs).numpy() for table in (policy, data))
    margins, gains = (part[:, :, None] - part[:, None, :] for part in (beta * log_ratio, reward))
    real, generated = data.probs.numpy(), opponent.probs.numpy()
    pairs = real[:, :, None] * generated[:, None, :]
    drawn = (pairs + pairs.transpose(0, 2, 1)) / 2  # the pair in either order
    wins = np.exp(-np.logaddexp(0, -gains))  # Bradley-Terry: the first is preferred
    losses = wins * np.logaddexp(0, -margins) + (1 - wins) * np.logaddexp(0, margins)
    expected = float((drawn * losses).sum(axis=(-2, -1)).mean())
    found = float(spin_objective(policy, opponent, data, beta=beta))
    return Evidence(abs(found - expected) / (1 + expected), tolerance, {"loss": expected})


CLAIMS = (
    Claim(
        name="SPIN is DPO's population loss",
        statement="SPIN's logistic objective is DPO's with pairs of one response from `p_data` and "
        "one from `p_t`, of which a Bradley-Terry model with reward `log(p_data / p_t)` prefers "
        "one.",
        source="derived",
        function=check_dpo_population_loss,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: check_dpo_population_loss(
            draw.small_other, draw.small_start, draw.small_data, beta=draw.beta
        ),
    ),
)
