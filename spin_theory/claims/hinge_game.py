"""The hinge's exact game near the data, which does not settle there."""

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.claims.instances import Draw
from spin_theory.divergences import tv
from spin_theory.games.play import play
from spin_theory.games.solvers import Solver
from spin_theory.minima.minimise import minimiser
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import FEW_TERMS, ROUNDING

__all__ = ["CLAIMS", "check_hinge_cycle"]

NEARBY = 1e-6
"""Nats from the data at which the games of the claim start."""


def check_hinge_cycle(
    start: TabularPolicy,
    data: TabularPolicy,
    *,
    beta: float,
    solver: Solver = minimiser,
    tolerance: float = ROUNDING,
) -> Evidence:
    r"""Check that the exact hinge game jumps away from the data and comes back, in a cycle of two.

    Parameters
    ----------
    start, data : TabularPolicy, shape (X, Y)
        p_0, near the data, and p_data.
    beta : float
        Pull towards the opponent, > 0, no unit.
    solver : Solver, default minimiser
        The solver that is claimed to solve an iteration.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the total variation distance of the first iterate from :math:`p_0 e^{a/\beta}`,
        a = 1 where the data are above p_0 and 0 elsewhere, and that of the second from p_0.
        `jump` is the first iterate's distance from the data, `start` that of p_0.

    Raises
    ------
    ValueError
        If shapes differ or `beta` is not finite and > 0.

    Notes
    -----
    Derived. Advantages of the hinge are integers, so near the data they are 1 on the responses
    that p_0 underrates and 0 on the others, however small the difference is. The iterate is
    multiplied there by :math:`e^{1/\beta}`. In the next iteration these are overrated, and the
    step is undone. With a few gradient steps per iteration the game is stable instead.

    Examples
    --------
    >>> import torch
    >>> data = TabularPolicy.from_probs([[0.5, 0.3, 0.2]])
    >>> start = TabularPolicy.from_logits(data.log_probs + 1e-6 * torch.tensor([[1.0, 2.0, -3.0]]))
    >>> evidence = check_hinge_cycle(start, data, beta=1.0)
    >>> evidence.holds, evidence.numbers["jump"] > 0.1
    (True, True)
    """
    game = play(start, data, beta=beta, iterations=2, loss_type="hinge", solver=solver)
    underrated = (data.log_probs > start.log_probs).double()
    expected = TabularPolicy.from_logits(start.log_probs + underrated / beta)
    errors = [
        float(tv(game.policies[1], expected).max()),
        float(tv(game.policies[2], start).max()),
    ]
    numbers = {"jump": float(tv(game.policies[1], data).max()), "start": float(game.tv[0])}
    return Evidence(largest_error(errors), tolerance, numbers)


def _near(draw: Draw) -> Evidence:
    shift = draw.small_other.log_probs
    start = TabularPolicy.from_logits(draw.small_data.log_probs + NEARBY * shift)
    return check_hinge_cycle(start, draw.small_data, beta=draw.beta)


CLAIMS = (
    Claim(
        name="hinge does not settle at the data",
        statement="From near the data the exact hinge game jumps away, to `p_0 e^(1 / beta)` on "
        "the responses that it underrates, and back: a cycle of two at every beta.",
        source="derived",
        function=check_hinge_cycle,
        tolerance=FEW_TERMS,
        check=lambda draw, *_: _near(draw),
    ),
)
