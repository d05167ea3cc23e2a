"""One iteration of SPIN as a matrix."""

import numpy as np

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error, written_out
from spin_theory.games.stability import linearise
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import ROUNDING, SUMS

__all__ = ["CLAIMS", "check_linear_map"]

EXPONENTS = {"logistic": 1.0, "exponential": 0.5}
"""c of the closed form `p_t (p_data / p_t)^(c / beta)`."""


def check_linear_map(
    data: TabularPolicy,
    at: TabularPolicy,
    *,
    beta: float,
    loss_type: str = "logistic",
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check the linearised iteration of SPIN, all entries of it, at any policy.

    Parameters
    ----------
    data, at : TabularPolicy, shape (1, Y)
        p_data, and any policy to linearise at.
    beta : float
        Pull towards the opponent, > 0, no unit.
    loss_type : {'logistic', 'exponential'}, default 'logistic'
        The penalty.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the largest error of an entry of the matrix, of an eigenvalue and of the
        spectral radius, relative to the larger of 1 and 1/beta.

    Raises
    ------
    ValueError
        If there is more than one prompt, `beta` is not finite and > 0, or the penalty has no
        closed form.

    Notes
    -----
    The exact iteration is linear in log-probs, up to constants. So its matrix is m times the
    projection without constants, m the multiplier, at every policy and not only at the data.

    Examples
    --------
    >>> data, at = (TabularPolicy.random(1, 4, seed=seed, smallest=0.1) for seed in (0, 1))
    >>> check_linear_map(data, at, beta=0.4).holds
    True
    """
    factor = 1 - written_out(EXPONENTS, loss_type) / beta
    responses = data.log_probs.shape[1]
    centre = np.eye(responses) - 1 / responses
    size = 1 + abs(factor)
    found = linearise([at, at], data, beta=beta, loss_type=loss_type)
    errors = [float(np.abs(found.matrix.numpy() - factor * centre).max()) / size]
    eigenvalues = np.zeros(responses)
    eigenvalues[: responses - 1] = factor
    errors.append(float(np.abs(found.multipliers.numpy() - eigenvalues).max()) / size)
    largest = abs(factor) if responses > 1 else 0.0
    errors.append(abs(found.spectral_radius - largest) / size)
    return Evidence(largest_error(errors), tolerance, {"multiplier": factor})


CLAIMS = (
    Claim(
        name="linearised iteration, {loss_type}",
        statement="At every policy the linearised iteration of SPIN is its multiplier times the "
        "projection without constants.",
        source="derived",
        function=check_linear_map,
        tolerance=SUMS,
        check=lambda draw, _, loss_type: check_linear_map(
            draw.small_data, draw.small_other, beta=draw.beta, loss_type=loss_type
        ),
        loss_types=("logistic", "exponential"),
    ),
)
