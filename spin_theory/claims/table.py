"""All claims: the union of the tables at the end of each file, in the order of the papers."""

from spin_theory.claims import (
    classes,
    distance,
    existence,
    finite,
    first_step,
    games,
    inexact,
    iteration,
    languages,
    objective,
    resting_point,
    samples,
    temperature,
    theorem_5_2,
    theorem_5_4,
    tspin,
    tspin_game,
    witnesses,
)
from spin_theory.claims.claim import Claim

__all__ = ["CASES", "CLAIMS"]

CLAIMS: tuple[Claim, ...] = (
    *theorem_5_2.CLAIMS,
    *witnesses.CLAIMS,
    *classes.CLAIMS,
    *theorem_5_4.CLAIMS,
    *iteration.CLAIMS,
    *existence.CLAIMS,
    *first_step.CLAIMS,
    *objective.CLAIMS,
    *distance.CLAIMS,
    *samples.CLAIMS,
    *finite.CLAIMS,
    *games.CLAIMS,
    *inexact.CLAIMS,
    *temperature.CLAIMS,
    *resting_point.CLAIMS,
    *tspin.CLAIMS,
    *tspin_game.CLAIMS,
    *languages.CLAIMS,
)
"""The claims in the order in which `spin-theory verify` checks and prints them."""

CASES = {name: case for claim in CLAIMS for name, case in claim.cases.items()}
"""Their checks on an instance, by the name of the row that `spin-theory verify` prints."""
