"""All claims: the union of the tables at the end of each file, in the order of the papers."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from spin_theory.claims import (
    basins,
    calibration,
    classes,
    distance,
    divergences,
    estimates,
    existence,
    far_starts,
    finite,
    first_step,
    games,
    global_rate,
    hinge_bounds,
    hinge_game,
    history,
    inexact,
    inexact_game,
    iteration,
    language,
    languages,
    linear_map,
    losses,
    moving_average,
    objective,
    pointwise,
    pointwise_game,
    preference,
    rates,
    remark_5_5,
    renyi_play,
    resting_point,
    samples,
    searches,
    sft_game,
    sft_term,
    sums,
    tables,
    temperature,
    theorem_5_2,
    theorem_5_4,
    token_trees,
    tspin,
    tspin_game,
    witnesses,
)
from spin_theory.claims.claim import Claim

__all__ = ["CASES", "CLAIMS", "named"]

CLAIMS: tuple[Claim, ...] = (
    *losses.CLAIMS,
    *divergences.CLAIMS,
    *tables.CLAIMS,
    *language.CLAIMS,
    *languages.CLAIMS,
    *sums.CLAIMS,
    *theorem_5_2.CLAIMS,
    *witnesses.CLAIMS,
    *classes.CLAIMS,
    *theorem_5_4.CLAIMS,
    *remark_5_5.CLAIMS,
    *iteration.CLAIMS,
    *existence.CLAIMS,
    *first_step.CLAIMS,
    *objective.CLAIMS,
    *searches.CLAIMS,
    *sft_term.CLAIMS,
    *hinge_bounds.CLAIMS,
    *pointwise.CLAIMS,
    *pointwise_game.CLAIMS,
    *renyi_play.CLAIMS,
    *preference.CLAIMS,
    *distance.CLAIMS,
    *samples.CLAIMS,
    *estimates.CLAIMS,
    *calibration.CLAIMS,
    *finite.CLAIMS,
    *games.CLAIMS,
    *moving_average.CLAIMS,
    *global_rate.CLAIMS,
    *rates.CLAIMS,
    *linear_map.CLAIMS,
    *inexact.CLAIMS,
    *sft_game.CLAIMS,
    *far_starts.CLAIMS,
    *temperature.CLAIMS,
    *inexact_game.CLAIMS,
    *hinge_game.CLAIMS,
    *history.CLAIMS,
    *resting_point.CLAIMS,
    *token_trees.CLAIMS,
    *tspin.CLAIMS,
    *tspin_game.CLAIMS,
    *basins.CLAIMS,
)
"""The claims in the order in which `spin-theory verify` checks and prints them."""

CASES = {name: case for claim in CLAIMS for name, case in claim.cases.items()}
"""Their checks on an instance, by the name of the row that `spin-theory verify` prints."""


def named(patterns: Sequence[str]) -> tuple[str, ...]:
    """Find the checks whose names match patterns.

    Parameters
    ----------
    patterns : sequence of str
        Shell patterns of whole names, such as ``'5.2 *'`` or ``'*, hinge'``.

    Returns
    -------
    tuple of str
        The names of `CASES` that match at least one of them, in the order of the table.

    Raises
    ------
    ValueError
        If a pattern matches none.

    Examples
    --------
    >>> named(["5.4*", "closed form*"])
    ('5.4 closed form, logistic', 'closed form, exponential')
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in CASES):
            raise ValueError(f"no claim is named {pattern!r}; there are: {'; '.join(CASES)}")
    matches = (any(fnmatchcase(name, pattern) for pattern in patterns) for name in CASES)
    return tuple(name for name, match in zip(CASES, matches, strict=True) if match)
