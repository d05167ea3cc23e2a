"""T-SPIN's game has a fixed point that is stable, and a cycle of two that is stable as well."""

from dataclasses import replace
from functools import partial

import torch

from spin_theory.claims.claim import Claim
from spin_theory.claims.evidence import Evidence, largest_error
from spin_theory.divergences import hilbert, tv
from spin_theory.games.opponents import without_reference
from spin_theory.games.play import play
from spin_theory.games.solvers import Solver
from spin_theory.games.stability import linearise
from spin_theory.minima.minimise import minimiser
from spin_theory.minima.problems import InnerProblem
from spin_theory.policies import TabularPolicy
from spin_theory.tolerances import ROUNDING, SUMS

__all__ = ["CLAIMS", "CYCLE", "DATA", "POINT", "START", "check_two_basins"]

START, DATA = (0.001, 0.998, 0.001), (0.82, 0.12, 0.06)
"""pi_0 and p_data of the game."""

BETA, HISTORY_WEIGHT = 0.7, 1.0

POINT = (0.76228604036528846, 0.02507837705679734, 0.21263558257791415)
"""Its fixed point."""

CYCLE = (
    (9.99856772737235167e-01, 6.66038561043771518e-06, 1.36566877154552734e-04),
    (3.41308930124728689e-03, 1.65586136694324056e-04, 9.96421324562058341e-01),
)
"""Its cycle. Both are proved to exist by interval arithmetic in the tests."""

RADIUS = 0.8094864211
"""Spectral radius at the fixed point."""

NEARBY, LEFT = 1e-3, 0.75
"""Nats of a push away from an attractor, and the part of it that two iterations may leave."""


def check_two_basins(
    *, response: int = 0, solver: Solver = minimiser, tolerance: float = ROUNDING
) -> Evidence:
    r"""Check that a stable fixed point of T-SPIN says nothing about a game from far away.

    Parameters
    ----------
    response : int, default 0
        The responses are turned by so many places, which changes nothing.
    solver : Solver, default minimiser
        The solver that is claimed to solve an iteration.
    tolerance : float, default 1e-12
        Largest residual at which the claim holds.

    Returns
    -------
    Evidence
        Residual: the total variation distance of the fixed point from its image, and of the two
        states of the cycle from the images of each other; how far the spectral radius of the
        first is from the value known, as far as this has digits; and infinite if a push away
        from either does not shrink to three quarters within two iterations. `apart` is the least
        total variation distance of the fixed point from the cycle.

    Notes
    -----
    Derived. At :math:`\alpha = 0.7` and history weight 1, the game from pi_0 = (0.001, 0.998,
    0.001) with data (0.82, 0.12, 0.06) ends in a cycle of two, although its fixed point attracts
    every game that starts near. So the spectral radius at the fixed point does not say where a
    game ends. No such game was found at :math:`\alpha \ge 1`.

    Examples
    --------
    >>> evidence = check_two_basins()
    >>> evidence.holds, round(evidence.numbers["apart"], 2)
    (True, 0.24)
    """
    start, data, point, one, other = (
        TabularPolicy.from_probs(torch.tensor([table], dtype=torch.float64).roll(response))
        for table in (START, DATA, POINT, *CYCLE)
    )

    def many(policy: TabularPolicy) -> TabularPolicy:  # a prompt for each game
        return TabularPolicy(policy.log_probs.expand(4, -1))

    # Each attractor, and a push away from it in every direction that there is up to constants.
    at = torch.cat([policy.log_probs for policy in (point, one, point, one)])
    push = NEARBY * torch.randn(2, 3, generator=torch.Generator().manual_seed(response)).double()
    pushed = TabularPolicy.from_logits(at + torch.cat([torch.zeros_like(push), push]))
    game = play(
        pushed,
        many(data),
        beta=BETA,
        iterations=2,
        solver=partial(_solve, solver, many(start)),
        opponent=without_reference,
        history_weight=HISTORY_WEIGHT,
    )
    expected = torch.cat([point.log_probs, other.log_probs, point.log_probs, one.log_probs])
    once, twice = (policy.log_probs[:2] for policy in game.policies[1:])
    found = TabularPolicy(torch.cat([once, twice]))
    errors = [float(tv(found, TabularPolicy(expected)).max())]
    left = hilbert(game.policies[2], TabularPolicy(at)) / hilbert(pushed, TabularPolicy(at))
    errors += [0.0 if bool((left[2:] < LEFT).all()) else float("inf")]
    radius = linearise(
        [start, point],
        data,
        beta=BETA,
        opponent=without_reference,
        history_weight=HISTORY_WEIGHT,
    ).spectral_radius
    errors.append(max(0.0, abs(radius - RADIUS) - 1e-10))  # the constant has ten digits
    apart = min(float(tv(point, state)) for state in (one, other))
    numbers = {"radius": radius, "apart": apart, "left": float(left[2:].max())}
    return Evidence(largest_error(errors), tolerance, numbers)


def _solve(
    solver: Solver,
    initial: TabularPolicy,
    problem: InnerProblem,
    *,
    start: TabularPolicy,
    generator: torch.Generator,
) -> TabularPolicy:
    """Solve an iteration of a game that starts elsewhere than at pi_0."""
    return solver(replace(problem, initial=initial), start=start, generator=generator)


CLAIMS = (
    Claim(
        name="T-SPIN has two basins",
        statement="At beta 0.7 and history weight 1 one game of T-SPIN has a stable fixed point "
        "and ends in a stable cycle of two instead. A spectral radius below 1 says nothing about "
        "a start that is far away.",
        source="derived",
        function=check_two_basins,
        tolerance=SUMS,
        check=lambda draw, *_: check_two_basins(response=draw.instance.responses % 3),
    ),
)
